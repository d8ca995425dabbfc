//! Webhooks: the servers of Pusher's apps are told what happens in their channels, once for all nodes, also when a node dies.
//!
//! A node records the occupancy of its channels ([`watch_occupancy`]) and writes it to the app's ledger
//! ([`record_events`]), which knows what is news over all nodes. One node at a time sends the news for each webhook
//! ([`send_webhooks`]). Apps without webhooks have no cost.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::ledger::{LedgerCapacity, LedgerChange};
use parking_lot::{Mutex, RwLock};
use shared::id::ClientId;
use shared::moment::Moment;
use shared::protocol::pusher::{Access, PusherChannelKind, socket_id};
use shared::publication::{ClientInfo, Publication};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch as signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::backend::Outbound;
use crate::clock::Clock;
use crate::ledger::Ledger;
use crate::pusher::webhook::{Webhook, WebhookEvent, WebhooksConfig};
use crate::pusher::{Apps, PusherApp};
use crate::telemetry::backend_metrics::{EventsMetrics, LostEvent};
use crate::telemetry::labels::PanicSite;
use crate::telemetry::{LogLimiter, Metrics};

mod record_events;
mod send_webhooks;
mod watch_occupancy;
mod webhook_event;

use record_events::EventRecorder;
use send_webhooks::WebhookSender;
use watch_occupancy::OccupancyWatch;
use webhook_event::ClientEvent;

/// How long tasks may take to stop by themselves after their deadline.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// All webhooks of a node.
#[derive(Debug)]
pub(crate) struct Webhooks {
    /// Includes apps that have been removed: their last channels still become vacated.
    by_namespace: RwLock<HashMap<Box<str>, Arc<WebhookApp>>>,
    parts: WebhooksParts,
    keeping: Tasks,
    sending: Tasks,
}

/// The pause before a task that has panicked is restarted.
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// Tasks that are told when to stop.
#[derive(Debug)]
struct Tasks {
    stop: signal::Sender<Option<Instant>>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

/// The parameters of [`Webhooks::start`].
#[derive(Debug)]
pub(crate) struct WebhooksParts {
    pub(crate) settings: WebhooksConfig,
    pub(crate) apps: Arc<Apps>,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) outbound: Outbound,
    /// Unique over all nodes and time.
    pub(crate) node: Box<str>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) runtime: Handle,
}

/// An app that has webhooks.
#[derive(Debug)]
struct WebhookApp {
    namespace: Box<str>,
    app: Arc<PusherApp>,
    apps: Arc<Apps>,
    hooks: Vec<(Box<str>, Webhook)>,
    watch: Mutex<OccupancyWatch>,
    /// Notified when changes for the ledger are waiting.
    changed: Notify,
    /// Notified when there may be news to send, for each webhook.
    news: Vec<Notify>,
    metrics: EventsMetrics,
    /// The metrics of the whole node, for panics.
    of_node: Arc<Metrics>,
    lost_log: LogLimiter,
}

impl Webhooks {
    /// Returns `None` if no app has webhooks.
    pub(crate) fn start(parts: WebhooksParts) -> Result<Option<Self>, String> {
        let (by_namespace, keeping, sending) = (RwLock::default(), Tasks::new(), Tasks::new());
        let webhooks = Self { by_namespace, parts, keeping, sending };
        webhooks.watch_apps()?;
        let has_any = !webhooks.by_namespace.read().is_empty();
        Ok(has_any.then_some(webhooks))
    }

    /// Starts the webhooks of apps in namespaces that are not watched yet: at the start those of all apps, later those
    /// of apps whose namespace has changed.
    pub(crate) fn watch_apps(&self) -> Result<(), String> {
        let Self { parts, .. } = self;
        let settings = &parts.settings;
        let room =
            LedgerCapacity { news_max: settings.queue_events_max, bytes_max: settings.queue_bytes_max };
        let delay = Duration::from_millis(settings.vacated_delay_ms);
        for (namespace, app) in parts.apps.all() {
            let hooks = app.terms().settings.webhooks.clone();
            if hooks.is_empty() || self.by_namespace.read().contains_key(&namespace) {
                continue;
            }
            let watched = Arc::new(WebhookApp {
                namespace: namespace.clone(),
                app,
                apps: parts.apps.clone(),
                news: hooks.iter().map(|_| Notify::new()).collect(),
                hooks: hooks.into_iter().map(|(name, hook)| (name.into(), hook)).collect(),
                watch: Mutex::new(OccupancyWatch::new(room, delay)),
                changed: Notify::new(),
                metrics: parts.metrics.webhooks(),
                of_node: parts.metrics.clone(),
                lost_log: LogLimiter::default(),
            });
            let senders: Result<Vec<WebhookSender>, String> = (0..watched.hooks.len())
                .map(|index| WebhookSender::new(parts, watched.clone(), index, self.sending.stopped()))
                .collect();
            let senders =
                senders.map_err(|problem| format!("a webhook of the app in {namespace}: {problem}"))?;
            let keeper = EventRecorder::new(parts, watched.clone(), room, delay, self.keeping.stopped());
            self.keeping.spawn(&parts.runtime, keeper.run());
            senders.into_iter().for_each(|sender| self.sending.spawn(&parts.runtime, sender.run()));
            self.by_namespace.write().insert(namespace, watched);
        }
        Ok(())
    }

    /// Records that a channel has its first subscriber on this node.
    pub(crate) fn occupied(&self, channel: &str) {
        if let Some((watched, name)) = self.holding(channel) {
            watched.note(|watch| watch.occupied(&name));
        }
    }

    /// Records that a channel has lost its last subscriber on this node.
    pub(crate) fn vacated(&self, channel: &str) {
        if let Some((watched, name)) = self.holding(channel) {
            watched.note(|watch| watch.vacated(self.parts.clock.now(), &name));
        }
    }

    /// Records that a client of this node is in a channel's presence.
    pub(crate) fn entered(&self, channel: &str, info: &ClientInfo) {
        if let Some((watched, name)) = self.with_members(channel) {
            watched.note(|watch| watch.entered(self.parts.clock.now(), &name, info.clone()));
        }
    }

    /// Records that a client is not in a channel's presence any more.
    pub(crate) fn left(&self, channel: &str, client: ClientId) {
        if let Some((watched, name)) = self.with_members(channel) {
            watched.note(|watch| watch.left(self.parts.clock.now(), &name, client));
        }
    }

    /// Records the number of a channel's subscribers, on all nodes.
    pub(crate) fn counted(&self, channel: &str, subscribers: u32) {
        if let Some((watched, name)) = self.of(channel)
            && watched.wants(WebhookEvent::SubscriptionCount, &name)
        {
            watched.record(LedgerChange::Count(webhook_event::channel(&name), subscribers));
        }
    }

    /// Records that a client has subscribed to a cache channel that has no event.
    pub(crate) fn missed_cache(&self, channel: &str) {
        if let Some((watched, name)) = self.of(channel)
            && watched.wants(WebhookEvent::CacheMiss, &name)
        {
            let event = webhook_event::BatchEvent {
                name: WebhookEvent::CacheMiss.name(),
                channel: &name,
                user_id: None,
                subscription_count: None,
            };
            watched.record_as_json(&event);
        }
    }

    /// Whether cache misses of this channel are reported.
    pub(crate) fn reports_cache_misses(&self, channel: &str) -> bool {
        self.of(channel).is_some_and(|(watched, name)| {
            PusherChannelKind::of(&name).cache && watched.wants(WebhookEvent::CacheMiss, &name)
        })
    }

    /// Returns a client event that can be reported once it is published.
    pub(crate) fn client_event(
        &self,
        channel: &str,
        publication: &Publication,
    ) -> Option<PendingClientEvent> {
        let (watched, name) = self.of(channel)?;
        let (event, client) = (publication.event()?, publication.except.as_deref()?);
        if !watched.wants(WebhookEvent::ClientEvent, &name) {
            return None;
        }
        let user = publication.info.as_ref().map(|info| info.user.as_str());
        let client_event = ClientEvent {
            name: WebhookEvent::ClientEvent.name(),
            channel: &name,
            event,
            data: String::from_utf8_lossy(&publication.data.bytes),
            socket_id: socket_id(*client),
            user_id: user
                .filter(|user| !user.is_empty() && PusherChannelKind::of(&name).access == Access::Presence),
        };
        let json = serde_json::to_string(&client_event).expect("texts are JSON");
        Some(PendingClientEvent { watched, json: json.into() })
    }

    /// Writes the last changes and releases this node's entries for others, then sends the remaining events.
    pub(crate) async fn shut_down(&self, until: std::time::Instant) {
        for tasks in [&self.keeping, &self.sending] {
            tasks.shut_down(Instant::from_std(until)).await;
        }
    }

    /// Returns the app of a channel, and the channel's name in it.
    fn of(&self, channel: &str) -> Option<(Arc<WebhookApp>, String)> {
        let namespace = self.parts.apps.namespace_of(channel)?;
        let watched = self.by_namespace.read().get(namespace)?.clone();
        let name = watched.app.names.name_of(channel)?;
        Some((watched, name))
    }

    fn holding(&self, channel: &str) -> Option<(Arc<WebhookApp>, String)> {
        let wanted =
            [WebhookEvent::ChannelOccupied, WebhookEvent::ChannelVacated, WebhookEvent::SubscriptionCount];
        self.of(channel).filter(|(watched, name)| {
            PusherChannelKind::of(name).access != Access::User
                && wanted.into_iter().any(|event| watched.wants(event, name))
        })
    }

    fn with_members(&self, channel: &str) -> Option<(Arc<WebhookApp>, String)> {
        let wanted = [WebhookEvent::MemberAdded, WebhookEvent::MemberRemoved];
        self.of(channel).filter(|(watched, name)| {
            PusherChannelKind::of(name).access == Access::Presence
                && wanted.into_iter().any(|event| watched.wants(event, name))
        })
    }
}

/// A client event whose publication is in flight.
#[derive(Debug)]
pub(crate) struct PendingClientEvent {
    watched: Arc<WebhookApp>,
    json: Box<str>,
}

impl PendingClientEvent {
    /// Reports the event, because it has been published.
    pub(crate) fn record(self) {
        self.watched.record(LedgerChange::Report(self.json));
    }
}

impl WebhookApp {
    fn wants(&self, event: WebhookEvent, name: &str) -> bool {
        self.hooks.iter().any(|(_, hook)| hook.wants(event, name))
    }

    fn note(&self, note: impl FnOnce(&mut OccupancyWatch)) {
        note(&mut self.watch.lock());
        self.changed.notify_one();
    }

    fn record_as_json(&self, event: &webhook_event::BatchEvent<'_>) {
        self.record(LedgerChange::Report(serde_json::to_string(event).expect("texts are JSON").into()));
    }

    fn record(&self, change: LedgerChange) {
        let lost = self.watch.lock().record(change);
        self.changed.notify_one();
        self.lose(LostEvent::Full, lost);
    }

    fn lose(&self, why: LostEvent, count: u64) {
        if count == 0 {
            return;
        }
        self.metrics.lost(why, count);
        if let Some(suppressed) = self.lost_log.admit() {
            let (app, reason) = (&*self.namespace, why.label());
            tracing::warn!(app, reason, count, suppressed, "events for webhooks are lost");
        }
    }

    /// Returns the app as it is now, or as it was before it was removed.
    fn app(&self) -> Arc<PusherApp> {
        self.apps.in_namespace(&self.namespace).unwrap_or_else(|| self.app.clone())
    }

    /// Logs and counts that a task has panicked, and waits before the caller restarts it.
    async fn panicked(&self, task: &'static str) {
        self.of_node.panicked(PanicSite::Delivery);
        tracing::error!(app = &*self.namespace, task, "a task of webhooks panicked; it is restarted");
        tokio::time::sleep(RESTART_DELAY).await;
    }

    fn next_at(&self) -> Option<Moment> {
        self.watch.lock().next_at()
    }
}

impl Tasks {
    fn new() -> Self {
        Self { stop: signal::Sender::new(None), running: Mutex::default() }
    }

    fn stopped(&self) -> signal::Receiver<Option<Instant>> {
        self.stop.subscribe()
    }

    fn spawn(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        self.running.lock().push(runtime.spawn(task));
    }

    async fn shut_down(&self, until: Instant) {
        self.stop.send_replace(Some(until));
        let running = std::mem::take(&mut *self.running.lock());
        for mut task in running {
            if tokio::time::timeout_at(until + STOP_TIMEOUT, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}
