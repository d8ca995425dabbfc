//! The enter command: into one of several parts of the server, of which the first also says who the client is.

use shared::command::{Command, EnterNamespace, Request, Subscribe};
use shared::moment::Moment;

use super::Session;

impl Session {
    /// The client connects, and what it asks for comes next.
    pub(super) fn on_first_enter(&mut self, id: u32, enter: EnterNamespace) {
        let EnterNamespace { connect, channel } = enter;
        let data = connect.data.clone().map(Box::new);
        // Its token is looked at as it connects.
        let request = Request::Subscribe(Subscribe { channel, data, ..Subscribe::default() });
        self.backlog.get_or_insert_default().push_first(Command { id, request });
        self.on_connect(id, Box::new(connect));
    }

    pub(super) fn on_enter(&mut self, now: Moment, id: u32, enter: EnterNamespace) {
        let EnterNamespace { connect, channel } = enter;
        let (token, data) = (connect.token, connect.data.map(Box::new));
        self.on_subscribe(now, id, Subscribe { channel, token, data, ..Subscribe::default() });
    }

    /// The client was not let in: what was to come next does not.
    pub(super) fn forget_enter(&mut self) {
        if let Some(backlog) = &mut self.backlog {
            backlog.pop();
        }
    }
}
