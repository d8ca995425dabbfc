//! Carrying out what emitters say: events become publications, and commands are for the clients of all nodes.

use std::time::Duration;

use gateway_core::heard::{Place, Waiting};
use shared::disconnect::Disconnect;
use shared::protocol::socketio::Namespace;

use super::said::{Kind, Of, Said, What};
use super::{Listening, Message};
use crate::broker::{BrokerError, Idempotency, PublishRequest};
use crate::node::control::{Among, Target};
use crate::node::question::{Act, Answer, Question, Subscribing};
use crate::socketio::addressed::{Addressed, Fault, all, rooms, selection};
use crate::telemetry::labels::Source;

/// How long it is known that something was published: longer than another node may take until it comes to the same message.
const KNOWN: Duration = Duration::from_secs(60);

/// How long a command may take before what follows it is carried out.
const COMMAND_MAX: Duration = Duration::from_secs(1);

/// What came of a message.
struct Outcome(Kind, &'static str);

/// Something that is to be done.
enum Step {
    Publish(Box<PublishRequest>),
    /// What is to be done to whom, one after the other.
    Acts(Kind, Target, Vec<Act>),
    Nothing(Outcome),
}

impl Listening {
    /// Answers how many of these are done, or will never be: those before the first that could not be done now.
    pub(super) async fn carry_out(&self, batch: &[Waiting<Message>]) -> usize {
        let mut done = 0;
        let mut row: Vec<PublishRequest> = Vec::new();
        for waiting in batch {
            match self.step(waiting) {
                Step::Publish(request) => row.push(*request),
                other => {
                    // In their order with what is published.
                    let published = self.publish(std::mem::take(&mut row)).await;
                    done += published.count;
                    if published.is_stuck {
                        return done;
                    }
                    match other {
                        Step::Acts(kind, target, acts) => self.act(kind, target, acts).await,
                        Step::Nothing(Outcome(kind, result)) => {
                            self.metrics.message(kind.label(), result, 1);
                        }
                        Step::Publish(_) => {}
                    }
                    done += 1;
                }
            }
        }
        done + self.publish(row).await.count
    }

    /// What is to be done about a message. What cannot be done is told.
    fn step(&self, waiting: &Waiting<Message>) -> Step {
        let Said { namespace, what } = match waiting.message.read() {
            Ok(said) => said,
            Err(unread) => {
                if let Some(untold) = self.told.unread.now() {
                    tracing::warn!(reason = %unread, untold, "a message of an emitter is not carried out");
                }
                return Step::Nothing(Outcome(waiting.message.kind(), unread.label()));
            }
        };
        let kind = what.kind();
        let Some(namespace) = self.common.namespaces.named(&namespace) else {
            if let Some(untold) = self.told.unread.now() {
                tracing::warn!(untold, "a message of an emitter is for a namespace that is not served");
            }
            return Step::Nothing(Outcome(kind, "unknown_namespace"));
        };
        self.meant(namespace, what, waiting.place).unwrap_or_else(|fault| {
            if let Some(untold) = self.told.unread.now() {
                let (namespace, kind) = (namespace.name(), kind.label());
                tracing::warn!(%fault, namespace, kind, untold, "what an emitter says cannot be done");
            }
            Step::Nothing(Outcome(kind, "refused"))
        })
    }

    fn meant(&self, namespace: &Namespace, what: What, place: Place) -> Result<Step, Fault> {
        let kind = what.kind();
        Ok(match what {
            What::Emit { event, said, of: Of { rooms, except }, volatile } => {
                let addressed = Addressed { event: &event, said, rooms: &rooms, except: &except, volatile };
                let (channel, publication) = addressed.publication(namespace)?;
                let once = Idempotency { key: place.to_string().into(), ttl: KNOWN };
                let request = self.node.event_request(channel, publication, Some(once));
                Step::Publish(Box::new(request.map_err(|code| code.message().to_owned())?))
            }
            What::Join { of, rooms: names } => {
                let join = |channel| Act::Subscribe(Box::new(Subscribing::to(channel)));
                let acts = rooms(namespace, &names)?.into_iter().map(join).collect();
                Step::Acts(kind, among(namespace, &of)?, acts)
            }
            What::Leave { of, rooms: names } => {
                let target = among(namespace, &of)?;
                // Whoever is meant by a room is meant until it has left all that it is to leave: that room last.
                let named =
                    target.among.as_ref().map(|among| among.only.channels.clone()).unwrap_or_default();
                let mut channels = rooms(namespace, &names)?;
                channels.sort_by_key(|channel| named.contains(channel));
                Step::Acts(kind, target, channels.into_iter().map(Act::Unsubscribe).collect())
            }
            What::Disconnect { of, close } => {
                let act = match close {
                    true => Act::Disconnect(Disconnect::FORCE_DISCONNECT),
                    false => Act::Unsubscribe(all(namespace)?),
                };
                Step::Acts(kind, among(namespace, &of)?, vec![act])
            }
        })
    }

    async fn publish(&self, row: Vec<PublishRequest>) -> Published {
        let mut published = Published { count: 0, is_stuck: false };
        if row.is_empty() {
            return published;
        }
        for result in self.node.publish_in_order(row).await {
            let result = match result {
                Ok(made) if made.duplicate => "repeated",
                Ok(_) => {
                    self.node.metrics.publication_in(Source::Api);
                    "done"
                }
                Err(error) if is_for_good(&error) => {
                    self.tell(&error);
                    "failed"
                }
                Err(error) => {
                    self.tell(&error);
                    published.is_stuck = true;
                    // Those behind it are asked for again: what was published is known by its place.
                    return published;
                }
            };
            published.count += 1;
            self.metrics.message(Kind::Emit.label(), result, 1);
        }
        published
    }

    fn tell(&self, error: &BrokerError) {
        if let Some(untold) = self.told.undone.now() {
            tracing::warn!(%error, untold, "an event of an emitter is not published yet");
        }
    }

    async fn act(&self, kind: Kind, target: Target, acts: Vec<Act>) {
        let mut result = "done";
        for act in acts {
            let asked = self.node.ask_all(Question::Act(target.clone(), act));
            let is_done = match tokio::time::timeout(COMMAND_MAX, asked).await {
                Ok(Ok(answers)) => {
                    answers.iter().all(|(_, answer)| matches!(answer, Ok(Answer::Done { failed: 0, .. })))
                }
                Ok(Err(_)) | Err(_) => false,
            };
            if !is_done {
                result = "failed";
                if let Some(untold) = self.told.undone.now() {
                    let kind = kind.label();
                    tracing::warn!(kind, untold, "a command of an emitter was not confirmed for all clients");
                }
            }
        }
        self.metrics.message(kind.label(), result, 1);
    }
}

struct Published {
    count: usize,
    /// The next of them can not be published now.
    is_stuck: bool,
}

/// Whether asking again cannot help.
fn is_for_good(error: &BrokerError) -> bool {
    matches!(error, BrokerError::NotAvailable | BrokerError::Full | BrokerError::Abandoned)
}

fn among(namespace: &Namespace, of: &Of) -> Result<Target, Fault> {
    let only = selection(namespace, &of.rooms, &of.except)?;
    Ok(Target { among: Some(Box::new(Among { channel: all(namespace)?, only })), ..Target::default() })
}
