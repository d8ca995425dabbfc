//! The subprotocols of GraphQL, checked against vectors: messages that libraries sent.

use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use shared::command::{Command, Request};
use shared::framing::{Message, MessageKind};
use shared::id::ClientId;
use shared::protocol::graphql::{Dialect, GraphQl, GraphQlError, Plan, Planner, RequestedOperation};
use shared::protocol::{DecodeError, Protocol};
use shared::reply::{Answer, Connected, Reply};

#[path = "support/vectors.rs"]
mod vectors;

/// Records the requested operations, and carries none out.
#[derive(Debug, Default)]
struct Noting(Mutex<Vec<String>>);

impl Planner for Noting {
    fn plan(&self, asked: &RequestedOperation<'_>) -> Result<Plan, Vec<GraphQlError>> {
        let mut noted = self.0.lock().expect("nobody panics");
        noted.push(asked.query.replace('\n', "␤"));
        noted.extend(asked.operation_name.as_ref().map(|name| format!("operation {name}")));
        noted.extend(asked.variables.map(|variables| format!("variables {variables}")));
        Err(vec![GraphQlError::new("NOTED", "it is noted")])
    }
}

struct Client {
    graphql: GraphQl,
    noted: Arc<Noting>,
}

impl Client {
    fn new(dialect: Dialect) -> Self {
        let noted = Arc::new(Noting::default());
        Self { graphql: GraphQl::new(dialect, noted.clone(), 10), noted }
    }

    fn sent(&self, message: &str) -> Result<Vec<Command>, DecodeError> {
        let mut commands = Vec::new();
        let message = Message { kind: MessageKind::Text, data: message.as_bytes() };
        self.graphql.decode(message, &mut commands)?;
        Ok(commands)
    }

    /// Connects the client as the session would.
    fn is_let_in(&self) {
        let id = self.sent(r#"{"type":"connection_init"}"#).expect("it can be read")[0].id;
        let connected = Connected::new(ClientId::from_random(7), "0", "node".into());
        let answer = Answer::Connect(Box::new(connected));
        self.graphql.encode_reply(&Reply::new(id, Ok(answer)), &mut BytesMut::new());
    }

    /// Formats the decoded commands as the vectors do.
    fn shown(&self, commands: Result<Vec<Command>, DecodeError>) -> Vec<String> {
        let commands = match commands {
            Ok(commands) => commands,
            Err(DecodeError::Closes { code, .. }) => return vec![format!("close {code}")],
            Err(error) => return vec![format!("! {error:?}")],
        };
        let mut shown = std::mem::take(&mut *self.noted.0.lock().expect("nobody panics"));
        for command in commands {
            match command.request {
                Request::Connect(connect) => {
                    let said = connect.data.map(|data| String::from_utf8_lossy(&data.bytes).into_owned());
                    let line = format!("connect {} {}", connect.token, said.unwrap_or_default());
                    shown.push(line.trim_end().to_owned());
                }
                Request::Ping => shown.push("ping".to_owned()),
                // An operation, which the planner has recorded.
                Request::Refused(_) => {}
                other => panic!("{other:?}"),
            }
        }
        shown
    }
}

#[test]
fn messages_of_libraries_are_understood() {
    for case in vectors::cases(include_str!("vectors/graphql/from_clients.txt")) {
        let dialect = match case.name.split(':').next() {
            Some("subscriptions-transport-ws") => Dialect::SubscriptionsTransport,
            Some("graphql-sse") => Dialect::OneStream,
            _ => Dialect::TransportWs,
        };
        let client = Client::new(dialect);
        if dialect != Dialect::OneStream && !case.frame.contains("connection_init") {
            client.is_let_in();
        }
        assert_eq!(client.shown(client.sent(&case.frame)), case.expected, "{}", case.name);
    }
}
