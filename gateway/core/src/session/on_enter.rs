//! The enter command, by which a client enters a Socket.IO namespace. The first one also connects the client.

use shared::command::{Command, EnterNamespace, Request, Subscribe};
use shared::moment::Moment;

use super::Session;

impl Session {
    /// Connects the client. The subscription to the namespace's channel comes next.
    pub(super) fn on_first_enter(&mut self, id: u32, enter: EnterNamespace) {
        let EnterNamespace { connect, channel } = enter;
        let data = connect.data.clone().map(Box::new);
        // The token is verified as the client connects.
        let request = Request::Subscribe(Subscribe { channel, data, ..Subscribe::default() });
        self.backlog.get_or_insert_default().push_first(Command { id, request });
        self.on_connect(id, Box::new(connect));
    }

    pub(super) fn on_enter(&mut self, now: Moment, id: u32, enter: EnterNamespace) {
        let EnterNamespace { connect, channel } = enter;
        let (token, data) = (connect.token, connect.data.map(Box::new));
        self.on_subscribe(now, id, Subscribe { channel, token, data, ..Subscribe::default() });
    }

    /// Drops the subscription that was to follow a connect command that was refused.
    pub(super) fn forget_enter(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.pop();
        }
    }
}
