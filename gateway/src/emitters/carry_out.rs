//! Carries out the messages of emitters: events become publications, and commands go to the clients of all nodes.

use std::time::Duration;

use gateway_core::received_messages::{MessagePlace, WaitingMessage};
use shared::disconnect::Disconnect;
use shared::protocol::socketio::Namespace;

use super::emitter_message::{EmitterCommand, EmitterMessage, EmitterMessageKind, EmitterTarget};
use super::{EmitterContext, UnreadMessage};
use crate::broker::{BrokerError, Idempotency, PublishRequest};
use crate::node::control::{Among, ControlTarget};
use crate::node::node_message::{ClientCommand, NodeRequest, NodeResponse, Subscribing};
use crate::socketio::addressed::{AddressError, AddressedEvent, all, rooms, selection};
use crate::telemetry::labels::PublicationSource;

/// How long the idempotency key of a publication is remembered: longer than another node may take to reach the same message.
const KNOWN: Duration = Duration::from_secs(60);

/// How long a command may take before the messages behind it are carried out.
const COMMAND_MAX: Duration = Duration::from_secs(1);

/// The kind of a message, and the result of carrying it out.
struct EmitOutcome(EmitterMessageKind, &'static str);

/// The action that a message asks for.
enum EmitStep {
    Publish(Box<PublishRequest>),
    /// Commands for the targeted clients, carried out one after the other.
    Acts(EmitterMessageKind, ControlTarget, Vec<ClientCommand>),
    Nothing(EmitOutcome),
}

impl EmitterContext {
    /// Returns how many messages of the batch are settled: those before the first that could not be carried out now.
    pub(super) async fn carry_out(&self, batch: &[WaitingMessage<UnreadMessage>]) -> usize {
        let mut done = 0;
        let mut row: Vec<PublishRequest> = Vec::new();
        for waiting in batch {
            match self.step(waiting) {
                EmitStep::Publish(request) => row.push(*request),
                other => {
                    // Pending publications go first, so that the order of messages is kept.
                    let published = self.publish(std::mem::take(&mut row)).await;
                    done += published.count;
                    if published.is_stuck {
                        return done;
                    }
                    match other {
                        EmitStep::Acts(kind, target, acts) => self.act(kind, target, acts).await,
                        EmitStep::Nothing(EmitOutcome(kind, result)) => {
                            self.metrics.message(kind.label(), result, 1);
                        }
                        EmitStep::Publish(_) => {}
                    }
                    done += 1;
                }
            }
        }
        done + self.publish(row).await.count
    }

    /// Returns the action for a message. Messages that cannot be carried out are logged.
    fn step(&self, waiting: &WaitingMessage<UnreadMessage>) -> EmitStep {
        let EmitterMessage { namespace, what } = match waiting.message.read() {
            Ok(command) => command,
            Err(unread) => {
                if let Some(suppressed) = self.logs.unread.admit() {
                    tracing::warn!(reason = %unread, suppressed, "a message of an emitter is not carried out");
                }
                return EmitStep::Nothing(EmitOutcome(waiting.message.kind(), unread.label()));
            }
        };
        let kind = what.kind();
        let Some(namespace) = self.common.namespaces.named(&namespace) else {
            if let Some(suppressed) = self.logs.unread.admit() {
                tracing::warn!(
                    suppressed,
                    "a message of an emitter is for a namespace that is not configured"
                );
            }
            return EmitStep::Nothing(EmitOutcome(kind, "unknown_namespace"));
        };
        self.meant(namespace, what, waiting.place).unwrap_or_else(|fault| {
            if let Some(suppressed) = self.logs.unread.admit() {
                let (namespace, kind) = (namespace.name(), kind.label());
                tracing::warn!(%fault, namespace, kind, suppressed, "a message of an emitter cannot be carried out");
            }
            EmitStep::Nothing(EmitOutcome(kind, "refused"))
        })
    }

    fn meant(
        &self,
        namespace: &Namespace,
        what: EmitterCommand,
        place: MessagePlace,
    ) -> Result<EmitStep, AddressError> {
        let kind = what.kind();
        Ok(match what {
            EmitterCommand::Emit { event, arguments, of: EmitterTarget { rooms, except }, volatile } => {
                let addressed =
                    AddressedEvent { event: &event, arguments, rooms: &rooms, except: &except, volatile };
                let (channel, publication) = addressed.publication(namespace)?;
                let once = Idempotency { key: place.to_string().into(), ttl: KNOWN };
                let request = self.node.event_request(channel, publication, Some(once));
                EmitStep::Publish(Box::new(request.map_err(|code| code.message().to_owned())?))
            }
            EmitterCommand::Join { of, rooms: names } => {
                let join = |channel| ClientCommand::Subscribe(Box::new(Subscribing::to(channel)));
                let acts = rooms(namespace, &names)?.into_iter().map(join).collect();
                EmitStep::Acts(kind, among(namespace, &of)?, acts)
            }
            EmitterCommand::Leave { of, rooms: names } => {
                let target = among(namespace, &of)?;
                // A target by room includes a client only until it has left that room, so rooms of the target are left last.
                let named =
                    target.among.as_ref().map(|among| among.only.channels.clone()).unwrap_or_default();
                let mut channels = rooms(namespace, &names)?;
                channels.sort_by_key(|channel| named.contains(channel));
                EmitStep::Acts(kind, target, channels.into_iter().map(ClientCommand::Unsubscribe).collect())
            }
            EmitterCommand::Disconnect { of, close } => {
                let act = match close {
                    true => ClientCommand::Disconnect(Disconnect::FORCE_DISCONNECT),
                    false => ClientCommand::Unsubscribe(all(namespace)?),
                };
                EmitStep::Acts(kind, among(namespace, &of)?, vec![act])
            }
        })
    }

    async fn publish(&self, row: Vec<PublishRequest>) -> PublishProgress {
        let mut published = PublishProgress { count: 0, is_stuck: false };
        if row.is_empty() {
            return published;
        }
        let namespaces: Vec<_> = row.iter().map(|request| self.node.namespace_of(&request.channel)).collect();
        for (namespace, result) in namespaces.into_iter().zip(self.node.publish_in_order(row).await) {
            let result = match result {
                Ok(made) if made.duplicate => "repeated",
                Ok(_) => {
                    self.node.metrics.publication_in(namespace, PublicationSource::Api);
                    "done"
                }
                Err(error) if is_for_good(&error) => {
                    self.report_failure(&error);
                    "failed"
                }
                Err(error) => {
                    self.report_failure(&error);
                    published.is_stuck = true;
                    // The messages behind this one are published again later: their places serve as idempotency keys.
                    return published;
                }
            };
            published.count += 1;
            self.metrics.message(EmitterMessageKind::Emit.label(), result, 1);
        }
        published
    }

    fn report_failure(&self, error: &BrokerError) {
        if let Some(suppressed) = self.logs.undone.admit() {
            tracing::warn!(%error, suppressed, "an event of an emitter is not published yet");
        }
    }

    async fn act(&self, kind: EmitterMessageKind, target: ControlTarget, acts: Vec<ClientCommand>) {
        let mut result = "done";
        for act in acts {
            let answers = self.node.ask_all(NodeRequest::Act(target.clone(), act));
            let is_done = match tokio::time::timeout(COMMAND_MAX, answers).await {
                Ok(Ok(answers)) => answers
                    .iter()
                    .all(|(_, answer)| matches!(answer, Ok(NodeResponse::Done { failed: 0, .. }))),
                Ok(Err(_)) | Err(_) => false,
            };
            if !is_done {
                result = "failed";
                if let Some(suppressed) = self.logs.undone.admit() {
                    let kind = kind.label();
                    tracing::warn!(
                        kind,
                        suppressed,
                        "a command of an emitter was not confirmed for all clients"
                    );
                }
            }
        }
        self.metrics.message(kind.label(), result, 1);
    }
}

struct PublishProgress {
    count: usize,
    /// The next publication cannot be made now.
    is_stuck: bool,
}

/// Whether a retry cannot help.
fn is_for_good(error: &BrokerError) -> bool {
    matches!(error, BrokerError::NotAvailable | BrokerError::Full | BrokerError::Abandoned)
}

fn among(namespace: &Namespace, of: &EmitterTarget) -> Result<ControlTarget, AddressError> {
    let only = selection(namespace, &of.rooms, &of.except)?;
    Ok(ControlTarget {
        among: Some(Box::new(Among { channel: all(namespace)?, only })),
        ..ControlTarget::default()
    })
}
