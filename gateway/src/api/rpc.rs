//! Calls methods that the application's own servers implement, as clients do.

use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::protocol::ProtocolId;
use shared::publication::Payload;

use super::api_error::ApiError;
use super::api_request;
use super::run_command::ApiCall;
use crate::backend::{ClientOrigin, HookKind, HookSubject};

/// The transport's name, as sent to the hook.
const TRANSPORT: &str = "server_api";

impl ApiCall<'_> {
    /// Returns the hook's answer, if it has data.
    pub(super) async fn rpc(&self, request: &api_request::Rpc<'_>) -> Result<Option<Payload>, ApiError> {
        if request.method.is_empty() {
            return Err(ApiError::bad_request("no method is given"));
        }
        let backend = self.node.backend.as_ref().filter(|backend| backend.has(HookKind::Rpc));
        let backend = backend.ok_or(ErrorCode::MethodNotFound)?;
        self.in_time()?;
        let asker = HookSubject {
            // The request belongs to no connection, so the id is a new one.
            client: ClientId::from_random(rand::random()),
            transport: TRANSPORT,
            protocol: ProtocolId::CENTRIFUGE_JSON.format(),
            user: &UserId::ANONYMOUS,
            meta: None,
        };
        let params = request.params.map(|params| params.get().as_bytes());
        backend.rpc(&ClientOrigin::default(), &asker, &request.method, params).await.map_err(ApiError::from)
    }
}
