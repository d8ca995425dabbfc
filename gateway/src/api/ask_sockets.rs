//! Asks clients of Socket.IO for acknowledgements of an event, on all nodes.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use shared::error::ErrorCode;
use shared::protocol::centrifuge::json::write_string;
use shared::protocol::socketio::{
    ARGUMENTS_MAX, BINARY_TAG, EVENT_BYTES_MAX, RESERVED, binary_fault, listed_by_server, sid,
};
use shared::publication::is_too_deep;

use super::api_error::ApiError;
use super::api_request::SocketioAsk;
use super::api_response::list;
use super::run_command::ApiCall;
use crate::node::control::Among;
use crate::node::node_message::{AskClients, AskOutcome, NodeResponse};
use crate::node::{ASK_CLIENTS_TIMEOUT_MAX, AskError};
use crate::socketio::addressed::{all, selection};

/// How long to wait for answers by default.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The clients' answers.
#[derive(Debug, Default)]
pub(super) struct AskedSockets {
    /// Each client's id in the namespace, with its outcome.
    sockets: Vec<(String, AskOutcome)>,
    /// Names of the nodes that have not reported their clients' answers.
    missing_nodes: Vec<Box<str>>,
}

impl ApiCall<'_> {
    pub(super) async fn socketio_ask(&self, request: &SocketioAsk<'_>) -> Result<AskedSockets, ApiError> {
        let namespace = self.namespace(&request.namespace)?;
        let SocketioAsk { rooms, except, event, args, binary, timeout_ms, .. } = request;
        if event.is_empty() || event.len() > EVENT_BYTES_MAX || RESERVED.contains(&&**event) {
            let problem = format!(
                "event must be a name of 1 to {EVENT_BYTES_MAX} bytes that Socket.IO does not reserve"
            );
            return Err(ApiError::bad_request(problem));
        }
        if args.len() > ARGUMENTS_MAX {
            return Err(ApiError::bad_request(format!("there are more than {ARGUMENTS_MAX} arguments")));
        }
        let arguments = listed_by_server(args, binary);
        let max = self.config.publication_bytes_max;
        if arguments.data.bytes.len() > max {
            return Err(ApiError::bad_request(format!("the arguments are longer than {max} bytes")));
        }
        if is_too_deep(&arguments.data.bytes) {
            return Err(ApiError::bad_request("the arguments are nested too deeply"));
        }
        if let Some(fault) = binary_fault(args, binary) {
            return Err(ApiError::bad_request(fault));
        }
        let timeout = match Duration::from_millis(*timeout_ms) {
            Duration::ZERO => TIMEOUT,
            timeout if timeout <= ASK_CLIENTS_TIMEOUT_MAX => timeout,
            _ => {
                let max = ASK_CLIENTS_TIMEOUT_MAX.as_millis();
                return Err(ApiError::bad_request(format!("timeout_ms must be at most {max}")));
            }
        };
        let only = selection(namespace, rooms, except).map_err(ApiError::bad_request)?;
        let channel = all(namespace).map_err(ApiError::bad_request)?;
        let named: BTreeSet<_> = only.clients.iter().copied().collect();
        let ask =
            AskClients { namespace: namespace.name().into(), event: (&**event).into(), arguments, timeout };
        self.in_time()?;
        let answers = self.node.ask_clients_everywhere(Among { channel, only }, ask).await;
        let answers = answers.map_err(|error| match error {
            AskError::Broker(error) => ApiError::not_read(error),
            error => ApiError::with_detail(ErrorCode::LimitExceeded, error.to_string()),
        })?;
        let (mut outcome, mut answered) = (AskedSockets::default(), BTreeSet::new());
        for (node, answer) in answers {
            let Ok(NodeResponse::Asked(clients)) = answer else {
                outcome.missing_nodes.push(node.name);
                continue;
            };
            for (client, came) in clients {
                answered.insert(client);
                outcome.sockets.push((sid(client, namespace.name()), came));
            }
        }
        if outcome.missing_nodes.is_empty() {
            // Clients that were named by id and are on no node.
            let gone = named.difference(&answered);
            outcome.sockets.extend(gone.map(|client| (sid(*client, namespace.name()), AskOutcome::Gone)));
        }
        Ok(outcome)
    }
}

impl AskedSockets {
    pub(super) fn bytes(&self) -> usize {
        let arguments = |outcome: &AskOutcome| {
            if let AskOutcome::Answered(arguments) = outcome { arguments.data.bytes.len() } else { 0 }
        };
        self.sockets.iter().map(|(id, outcome)| id.len() + 40 + arguments(outcome)).sum()
    }

    pub(super) fn write(&self, out: &mut BytesMut) {
        out.put_slice(b"{\"answers\":");
        list(&self.sockets, out, |(id, outcome), out| {
            out.put_slice(b"{\"id\":");
            write_string(id, out);
            out.put_slice(b",\"status\":");
            write_string(outcome.label(), out);
            if let AskOutcome::Answered(arguments) = outcome {
                out.put_slice(b",\"args\":");
                out.put_slice(&arguments.data.bytes);
                if let Some(pointers) = arguments.tags.get(BINARY_TAG) {
                    out.put_slice(b",\"binary\":");
                    out.put_slice(pointers.as_bytes());
                }
            }
            out.put_u8(b'}');
        });
        if !self.missing_nodes.is_empty() {
            out.put_slice(b",\"missing_nodes\":");
            list(&self.missing_nodes, out, |name, out| write_string(name, out));
        }
        out.put_u8(b'}');
    }
}
