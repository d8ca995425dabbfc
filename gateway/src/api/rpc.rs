//! Calls of methods that the application's own servers answer, as those of clients.

use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::protocol::ProtocolId;
use shared::publication::Payload;

use super::refused::Refused;
use super::request;
use super::run::Call;
use crate::backend::{Asker, HookKind, Origin};

/// What the hook is told of how its caller is reached.
const TRANSPORT: &str = "server_api";

impl Call<'_> {
    /// What the hook for calls answers, if it answers with anything.
    pub(super) async fn rpc(&self, request: &request::Rpc<'_>) -> Result<Option<Payload>, Refused> {
        if request.method.is_empty() {
            return Err(Refused::bad_request("no method is given"));
        }
        let backend = self.node.backend.as_ref().filter(|backend| backend.has(HookKind::Rpc));
        let backend = backend.ok_or(ErrorCode::MethodNotFound)?;
        self.in_time()?;
        let asker = Asker {
            // Of no connection, and so of nobody else's id.
            client: ClientId::from_random(rand::random()),
            transport: TRANSPORT,
            protocol: ProtocolId::CENTRIFUGE_JSON.format(),
            user: &UserId::ANONYMOUS,
            meta: None,
        };
        let params = request.params.map(|params| params.get().as_bytes());
        backend.rpc(&Origin::default(), &asker, &request.method, params).await.map_err(Refused::from)
    }
}
