//! Decodes client messages.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::encode::list;
use super::operations::{Operation, OperationStage, OperationState};
use super::{
    Dialect, GraphQl, GraphQlError, ID_BYTES_MAX, LIMIT_EXCEEDED, Plan, PlannedSubscription, close, number,
};
use crate::command::{Command, Connect, Request, Subscribe};
use crate::error::ErrorCode;
use crate::protocol::DecodeError;
use crate::publication::{Payload, is_too_deep};

/// Name of the client in metrics and logs.
const NAME: &str = "graphql";

#[derive(Deserialize)]
struct GraphQlMessage<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// An operation as its client requests it.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "camelCase")]
pub struct RequestedOperation<'a> {
    #[serde(borrow)]
    pub query: Cow<'a, str>,
    #[serde(borrow, default)]
    pub operation_name: Option<Cow<'a, str>>,
    /// The variables, which should be a JSON object.
    #[serde(borrow, default)]
    pub variables: Option<&'a RawValue>,
    #[serde(borrow, default)]
    extensions: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct Extensions<'a> {
    #[serde(borrow, default)]
    tidegate: Option<GatewayExtension<'a>>,
}

/// The extension that is addressed to this gateway.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct GatewayExtension<'a> {
    /// Whether each result carries its stream position.
    #[serde(default)]
    positions: bool,
    #[serde(borrow, default)]
    recover: Option<Recover<'a>>,
    /// A subscription token for the channel.
    #[serde(borrow, default)]
    token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recover<'a> {
    #[serde(borrow)]
    epoch: Cow<'a, str>,
    offset: u64,
}

fn malformed<T>(_: T) -> DecodeError {
    DecodeError::Malformed
}

fn closes(code: u16, reason: &'static str) -> DecodeError {
    DecodeError::Closes { code, reason }
}

impl OperationState {
    pub(super) fn decode(&mut self, own: &GraphQl, message: &[u8]) -> Result<Vec<Command>, DecodeError> {
        if message.is_empty() {
            return Err(DecodeError::Empty);
        }
        let line: GraphQlMessage<'_> = serde_json::from_slice(message).map_err(malformed)?;
        if is_too_deep(message) {
            return Err(DecodeError::Malformed);
        }
        let is_old = own.dialect == Dialect::SubscriptionsTransport;
        let command = |id, request| Ok(vec![Command { id, request }]);
        match (&*line.kind, is_old) {
            ("connection_init", _) if self.initialised => {
                Err(closes(close::TOO_MANY_INITS, "too many initialisation requests"))
            }
            ("connection_init", _) => {
                self.initialised = true;
                command(number::CONNECT, Request::Connect(Box::new(connect(line.payload)?)))
            }
            ("ping", false) => command(number::PING, Request::Ping),
            // A pong only shows that the client is alive, and it may come unrequested.
            ("pong", false) => Ok(Vec::new()),
            ("subscribe", false) | ("start", true) => {
                let is_early = match own.dialect {
                    Dialect::TransportWs => !self.acknowledged,
                    // Clients of this subprotocol send operations right after the init, without waiting for its answer.
                    Dialect::SubscriptionsTransport => !self.initialised,
                    Dialect::OneStream | Dialect::StreamEach => false,
                };
                if is_early {
                    return Err(closes(close::UNAUTHORIZED, "unauthorized"));
                }
                self.begin(own, &line)
            }
            ("complete", false) | ("stop", true) => {
                let id = line.id.ok_or(DecodeError::Malformed)?;
                if let Some(at) = self.find(&id) {
                    self.remove(at);
                }
                Ok(self.settle())
            }
            ("connection_terminate", true) => Err(closes(1000, "")),
            _ => Err(DecodeError::Malformed),
        }
    }

    pub(super) fn would_repeat(&self, message: &[u8]) -> bool {
        let line = serde_json::from_slice::<GraphQlMessage<'_>>(message).ok();
        let begins = line.filter(|line| matches!(&*line.kind, "subscribe" | "start"));
        begins.and_then(|line| self.find(line.id.as_deref()?)).is_some()
    }

    /// Begins an operation, or finds the error in it. The client is told of either in its turn, after all earlier commands.
    fn begin(&mut self, own: &GraphQl, line: &GraphQlMessage<'_>) -> Result<Vec<Command>, DecodeError> {
        let id = line.id.as_deref().ok_or(DecodeError::Malformed)?;
        if id.is_empty() != (own.dialect == Dialect::StreamEach) || id.len() > ID_BYTES_MAX {
            return Err(DecodeError::Malformed);
        }
        let requested: RequestedOperation<'_> =
            serde_json::from_str(line.payload.ok_or(DecodeError::Malformed)?.get()).map_err(malformed)?;
        if let Some(at) = self.find(id) {
            if own.dialect == Dialect::TransportWs {
                return Err(closes(close::ALREADY_EXISTS, "an operation with this id is in progress"));
            }
            // The new operation replaces the old one.
            self.remove(at);
        }
        let planned = match self.operations.len() >= own.operations_max {
            true => Err(vec![GraphQlError::new(LIMIT_EXCEEDED, "there are too many operations")]),
            false => requested.own().and_then(|extensions| Ok((own.planner.plan(&requested)?, extensions))),
        };
        let number = self.next_number();
        let (operation, request) = match planned {
            Err(errors) => {
                let is_too_much = errors.iter().any(|error| error.code == LIMIT_EXCEEDED);
                let operation = Operation::new(id, number, OperationStage::Errors(list(&errors)));
                let counts_as = if is_too_much { ErrorCode::LimitExceeded } else { ErrorCode::BadRequest };
                (operation, Request::Refused(counts_as))
            }
            // The answer is known already, but the ping command has it sent in its turn.
            Ok((Plan::Answer(result), _)) => {
                (Operation::new(id, number, OperationStage::Result(result)), Request::Ping)
            }
            Ok((Plan::Subscribe(planned), own)) => self.subscribe(id, number, planned, own),
        };
        self.operations.push(operation);
        let mut commands = vec![Command { id: number, request }];
        commands.extend(self.settle());
        Ok(commands)
    }

    fn subscribe(
        &self,
        id: &str,
        number: u32,
        planned: PlannedSubscription,
        own: GatewayExtension<'_>,
    ) -> (Operation, Request) {
        let PlannedSubscription { channel, ask, selection } = planned;
        let operation = Operation {
            channel: if ask.is_some() { "".into() } else { channel.clone() },
            sends_positions: own.positions || own.recover.is_some(),
            since: own.recover.as_ref().map(|recover| recover.offset),
            ..Operation::new(id, number, OperationStage::Asked(selection))
        };
        let (epoch, mut offset) =
            own.recover.map_or_else(Default::default, |recover| (recover.epoch, recover.offset));
        // Publications that other operations on the channel have not received yet must not be skipped.
        let other_readers = self.operations.iter().filter(|one| *one.channel == *channel);
        for position in
            other_readers.filter_map(|one| one.position).filter(|position| position.epoch.as_str() == epoch)
        {
            offset = offset.min(position.offset);
        }
        let request = Request::Subscribe(Subscribe {
            channel,
            token: own.token.unwrap_or_default().into(),
            recover: operation.since.is_some(),
            epoch: epoch.into(),
            offset,
            positioned: true,
            recoverable: true,
            additional_reader: true,
            ask: ask.map(Box::new),
            ..Subscribe::default()
        });
        (operation, request)
    }
}

impl Operation {
    fn new(id: &str, number: u32, stage: OperationStage) -> Self {
        let channel = "".into();
        let id = id.into();
        Self { id, number, channel, stage, sends_positions: false, since: None, position: None }
    }
}

impl<'a> RequestedOperation<'a> {
    /// Makes an operation without variables, for callers that have only a document.
    pub fn of(query: &'a str) -> Self {
        Self { query: Cow::Borrowed(query), operation_name: None, variables: None, extensions: None }
    }

    fn own(&self) -> Result<GatewayExtension<'a>, Vec<GraphQlError>> {
        let Some(extensions) = self.extensions else { return Ok(GatewayExtension::default()) };
        match serde_json::from_str::<Extensions<'a>>(extensions.get()) {
            Ok(extensions) => Ok(extensions.tidegate.unwrap_or_default()),
            Err(error) => {
                let message = format!("the extensions cannot be read: {error}");
                Err(vec![GraphQlError::new("BAD_USER_INPUT", message)])
            }
        }
    }
}

/// Reads the client's credentials: `token`, or a bearer token in `Authorization`, in any case and also among `headers`.
/// All other members go to the application.
fn connect(payload: Option<&RawValue>) -> Result<Connect, DecodeError> {
    let mut connect = Connect { name: NAME.into(), ..Connect::default() };
    let Some(payload) = payload else { return Ok(connect) };
    let Value::Object(mut members) = serde_json::from_str(payload.get()).map_err(malformed)? else {
        return Err(DecodeError::Malformed);
    };
    let nested = match members.get_mut("headers") {
        Some(Value::Object(headers)) => bearer(headers),
        _ => None,
    };
    let own = match members.remove("token") {
        Some(Value::String(token)) => Some(token),
        None | Some(Value::Null) => None,
        Some(_) => return Err(DecodeError::Malformed),
    };
    let token = own.or_else(|| bearer(&mut members)).or(nested);
    connect.token = token.unwrap_or_default().into();
    if !members.is_empty() {
        connect.data = Some(Payload::json(Bytes::from(Value::Object(members).to_string())));
    }
    Ok(connect)
}

/// Removes the member called `Authorization`, in any case, and returns its token.
fn bearer(members: &mut serde_json::Map<String, Value>) -> Option<String> {
    let name = members.keys().find(|name| name.eq_ignore_ascii_case("authorization"))?.clone();
    let Some(Value::String(value)) = members.remove(&name) else { return None };
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token.trim().to_owned()),
        _ => Some(value),
    }
}
