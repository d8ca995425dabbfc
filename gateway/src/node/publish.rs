//! Publishing: the entry point of every publication, from clients and servers alike.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use gateway_core::channel_rules::ChannelOptions;
use gateway_core::effect::Denial;
use gateway_core::history::Retention;
use gateway_core::map::{ChangedKey, KeyAction, MapChange, MapRetention, SetKey, SetMode};
use gateway_core::namespace_id::NamespaceId;
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::publication::EVENT_TAG;
use tracing::Instrument;
use uuid::Uuid;

use crate::backend::{ClientOrigin, HookSubject, PublishAnswer};
use crate::broker::{BrokerError, ChangeRequest, Idempotency, PublishRequest, Published, Version};
use crate::node::pending_copies::RETRY_FOR;
use crate::node::{Node, ROOM_DEADLINE};
use crate::telemetry::traces::SPANS;

/// How long idempotency keys that hooks return are kept.
pub(super) const HOOK_IDEMPOTENCY_TTL: Duration = Duration::from_secs(300);

impl Node {
    /// Asks the channel's hook about a client's publication. Returns the publication as the hook wants it.
    pub(crate) async fn ask_publish_hook(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        request: PublishRequest,
    ) -> Result<PublishRequest, Denial> {
        let backend = self.backend.as_ref().ok_or(Denial::of(ErrorCode::NotAvailable))?;
        let data = &request.publication.data.bytes;
        let answer = backend.publish(origin, asker, request.channel.as_str(), data).await?;
        Ok(answered(request, answer))
    }

    /// Publishes. Resolves when the broker has the publication: it then reaches every subscriber that stays, or the
    /// subscriber is told of a gap.
    pub async fn publish(&self, request: PublishRequest) -> Result<Published, BrokerError> {
        self.publish_since(Instant::now(), request).await
    }

    /// Publishes what was requested at `came`, from which its latency is measured.
    pub(crate) async fn publish_since(
        &self,
        came: Instant,
        mut request: PublishRequest,
    ) -> Result<Published, BrokerError> {
        self.stamp(&mut request.publication, came);
        self.wait_for_room(&[&request.channel]).await?;
        self.publish_now(request).await
    }

    /// Publishes many at once, in this order. One that fails does not hold up the others.
    pub(crate) async fn publish_in_order(
        &self,
        requests: Vec<PublishRequest>,
    ) -> Vec<Result<Published, BrokerError>> {
        self.publish_in_order_since(Instant::now(), requests).await
    }

    /// Publishes many that were requested at `came`, in this order.
    pub(crate) async fn publish_in_order_since(
        &self,
        came: Instant,
        mut requests: Vec<PublishRequest>,
    ) -> Vec<Result<Published, BrokerError>> {
        for request in &mut requests {
            self.stamp(&mut request.publication, came);
        }
        let channels: Vec<&Channel> = requests.iter().map(|request| &request.channel).collect();
        if let Err(error) = self.wait_for_room(&channels).await {
            return requests.iter().map(|_| Err(error.clone())).collect();
        }
        join_all(requests.into_iter().map(|request| self.publish_now(request))).await
    }

    /// Waits while a worker with subscribers of these channels is behind. This slows down the publishers of this node before
    /// anything has to be dropped.
    pub(super) async fn wait_for_room(&self, channels: &[&Channel]) -> Result<(), BrokerError> {
        if !self.inboxes.iter().any(|inbox| inbox.is_high()) {
            return Ok(());
        }
        let workers = channels.iter().fold(0, |workers, channel| workers | self.interest.workers(channel));
        for (worker, inbox) in self.inboxes.iter().enumerate() {
            if workers & (1 << worker) != 0 && !inbox.wait_for_room(ROOM_DEADLINE).await {
                let error = BrokerError::Behind(ROOM_DEADLINE);
                channels.iter().for_each(|channel| self.note_unpublished(channel, &error));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Publishes by setting the newest value of the publication's key.
    fn set_newest(
        &self,
        request: PublishRequest,
        keeping: MapRetention,
    ) -> BoxFuture<'_, Result<Published, BrokerError>> {
        let PublishRequest { channel, publication, retention: _, idempotency, version } = request;
        let key = publication.keyed.as_ref().map(|keyed| keyed.key.clone()).unwrap_or_default();
        let set = SetKey { publication, score: 0, mode: SetMode::Any, refreshes: false, version };
        let change = MapChange { key, action: KeyAction::Set(Box::new(set)), expected: None };
        let changing = self.broker.change_key(ChangeRequest { channel, change, keeping, idempotency });
        async move {
            let ChangedKey { position, suppressed } = changing.await?;
            let position = position.filter(|_| keeping.stream.keeps_history());
            Ok(Published { position, duplicate: suppressed.is_some() })
        }
        .boxed()
    }

    /// Sends the publication to the broker before it returns.
    fn publish_now(
        &self,
        mut request: PublishRequest,
    ) -> impl Future<Output = Result<Published, BrokerError>> + Send + '_ {
        let rules = self.rules();
        let options = rules.options(&request.channel);
        let namespace = options.map_or(NamespaceId::UNKNOWN, |options| options.namespace);
        if options.is_some_and(|options| options.publication_time) {
            request.publication.time_ms = self.clock.unix_millis();
        }
        let span = tracing::info_span!(target: SPANS, "publish", channel = %request.channel);
        self.seal_stamp(&mut request.publication, &span);
        let among_all = self.among_all_topics(&rules, &mut request);
        // Nodes of earlier releases can only read publications that do not mention patches, so the flag is set only where patches
        // are allowed.
        request.publication.delta &= options.is_some_and(|options| !options.allowed_delta_types.is_empty());
        // A versioned publication may be outdated: the copy waits until the broker has accepted the original.
        let (at_once, afterwards) = match among_all {
            Some(mut copy) if request.version.is_some() => {
                // The idempotency key keeps a repeated attempt from making a second copy.
                let own = || Idempotency { key: Uuid::new_v4().to_string().into(), ttl: RETRY_FOR };
                let known = copy.idempotency.get_or_insert_with(own);
                known.ttl = known.ttl.max(RETRY_FOR);
                (None, Some(copy))
            }
            copy => (copy, None),
        };
        let bytes = request.publication.data.bytes.len();
        // The broker starts before its future is first polled.
        let keeping = options.and_then(|options| newest_retention(options, &request));
        if keeping.is_some() {
            // The publication is kept as state until a newer one comes, so it carries no stamp.
            request.publication.stamp = None;
        }
        let publishing = span.in_scope(|| match keeping {
            Some(keeping) => self.set_newest(request, keeping),
            None => self.broker.publish(request),
        });
        let copying = at_once.map(|copy| span.in_scope(|| self.broker.publish(copy)));
        async move {
            let mut published = publishing.instrument(span).await;
            let is_new = published.as_ref().is_ok_and(|published| !published.duplicate);
            let copied = match (copying, afterwards) {
                (Some(copying), _) => copying.await.map(drop),
                // A repeated publication would no longer count as new, so the node has to make the copy.
                (None, Some(copy)) if is_new => self.copy_among_all(copy).await,
                (None, _) => Ok(()),
            };
            if let Err(error) = copied {
                // Published in part. Publishing it again completes it.
                published = published.and(Err(error));
            }
            self.note_taken(namespace, bytes, published.as_ref().err());
            published
        }
    }
}

/// Returns how the key of a publication is kept beside the history. `None` for a publication that is not to be kept.
fn newest_retention(options: &ChannelOptions, request: &PublishRequest) -> Option<MapRetention> {
    request.publication.keyed.as_ref()?;
    options.newest_retention().filter(|keeping| keeping.stream == request.retention)
}

/// Applies a hook's answer to a client's publication.
fn answered(request: PublishRequest, answer: PublishAnswer) -> PublishRequest {
    let PublishRequest { channel, mut publication, mut retention, .. } = request;
    if let Some(data) = answer.data {
        publication.data = data;
        // The tags say how the client's own data is encoded, so they do not apply to the hook's data. The event name stays.
        publication.tags.retain(|tag, _| **tag == *EVENT_TAG);
    }
    publication.tags.extend(answer.tags);
    publication.delta |= answer.delta;
    if answer.skip_history {
        retention = Retention::default();
    }
    let key = answer.idempotency_key;
    let idempotency = (!key.is_empty()).then_some(Idempotency { key, ttl: HOOK_IDEMPOTENCY_TTL });
    let epoch = answer.version_epoch;
    let version = (answer.version > 0).then_some(Version { number: answer.version, epoch });
    PublishRequest { channel, publication, retention, idempotency, version }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use gateway_core::channel_rules::ChannelRules;
    use gateway_core::history::Retention;
    use shared::id::NodeId;
    use shared::publication::{Payload, Publication};

    use super::*;
    use crate::broker::memory::{MemoryBroker, MemoryBrokerConfig};
    use crate::clock::Clock;
    use crate::node::{FromBroker, NodeParts};
    use crate::presence::memory::MemoryPresence;
    use crate::worker::inbox::{Inbox, InboxQueue};

    fn request(channel: &Channel) -> PublishRequest {
        PublishRequest {
            channel: channel.clone(),
            publication: Publication::new(Payload::text("x")),
            retention: Retention::default(),
            idempotency: None,
            version: None,
        }
    }

    /// Returns a node whose workers do not take anything from their inboxes.
    pub(in crate::node) fn node(inboxes: Vec<Arc<Inbox>>) -> Arc<Node> {
        let from_broker = Arc::new(FromBroker::default());
        Node::start(NodeParts {
            id: NodeId("test".into()),
            name: "test".into(),
            clock: Clock::start(),
            rules: Arc::new(ChannelRules::default()),
            metrics: Arc::default(),
            variants: Arc::default(),
            broker: MemoryBroker::start(&MemoryBrokerConfig::default(), from_broker.clone(), Arc::default()),
            presence: Arc::new(MemoryPresence::new()),
            inboxes,
            from_broker,
            user_connections_max: 0,
            backend: None,
            apps: None,
            webhooks: None,
            memory: crate::memory_budget::Memory::new(0, 1),
            engine_io: Arc::new(crate::engine_io::EngineIo::new(
                &crate::socketio::SocketioConfig::default(),
                "node",
            )),
            takes_in_at: None,
            shared_poll: crate::poll::PollConfig::default(),
            sessions: crate::sessions::SessionKeeper::new(Arc::new(
                crate::sessions::memory::MemorySessions::default(),
            )),
        })
    }

    #[test]
    fn an_event_keeps_its_name_and_other_data_none_of_how_it_was_to_be_read() {
        let channel = Channel::parse("a", 255).unwrap();
        let tags =
            || [("event", "said"), ("args", "2")].map(|(tag, value)| (tag.into(), value.into())).into();
        let publication = Publication { tags: tags(), ..Publication::new(Payload::json("[1,2]")) };
        let requested = || PublishRequest { publication: publication.clone(), ..request(&channel) };
        let published = |answer| answered(requested(), answer).publication;
        assert_eq!(published(PublishAnswer::default()), publication);
        let by = [("by".into(), "hook".into())];
        let data = Some(Payload::json("3"));
        let changed = published(PublishAnswer { data, tags: by.clone().into(), ..PublishAnswer::default() });
        assert_eq!(changed.event(), Some("said"));
        assert_eq!((changed.tags.len(), &*changed.tags["by"]), (2, "hook"));
        let renamed = [("event".into(), "other".into())].into();
        assert_eq!(
            published(PublishAnswer { tags: renamed, ..PublishAnswer::default() }).event(),
            Some("other")
        );
    }

    #[tokio::test]
    async fn a_worker_that_is_behind_holds_up_only_those_who_publish_to_its_subscribers() {
        let polls = [mio::Poll::new().unwrap(), mio::Poll::new().unwrap()];
        let waker = |poll: &mio::Poll| mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let inboxes: Vec<_> =
            polls.iter().map(|poll| Arc::new(Inbox::new(waker(poll), 64, 1 << 20))).collect();
        let node = node(inboxes.clone());
        let [slow, quick, nobodys] =
            ["slow", "quick", "nobodys"].map(|name| Channel::parse(name, 255).unwrap());
        for (worker, channel) in [(0, &slow), (1, &quick)] {
            node.acquire(worker, channel, Retention::default()).wait().await.unwrap();
        }
        while !inboxes[0].is_high() {
            node.publish(request(&slow)).await.unwrap();
        }
        for channel in [&quick, &nobodys] {
            let published = tokio::time::timeout(ROOM_DEADLINE / 2, node.publish(request(channel))).await;
            published.expect("nobody has to be waited for").unwrap();
        }
        let one = tokio::spawn({
            let (node, slow) = (node.clone(), slow.clone());
            async move { vec![node.publish(request(&slow)).await] }
        });
        let several = tokio::spawn({
            let (node, slow) = (node.clone(), slow.clone());
            async move { node.publish_in_order(vec![request(&slow)]).await }
        });
        let mut waiting = [one, several];
        for waits in &mut waiting {
            let waited = tokio::time::timeout(ROOM_DEADLINE / 40, waits).await;
            assert!(waited.is_err(), "this one waits");
        }
        let mut queue = InboxQueue::default();
        inboxes[0].take(&mut queue);
        inboxes[0].served(queue.events.len(), queue.events.len());
        for waits in waiting {
            assert!(waits.await.unwrap()[0].is_ok());
        }
    }
}
