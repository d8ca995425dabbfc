//! Carries out what a session decides. The only place where a session meets the hub and the node.
//!
//! What can be done at once is done here. Requests to the broker run on the node's runtime, and the outcome comes back
//! through the worker's inbox; a worker never waits.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use gateway_core::effect::{
    DeliveryTerms, Denial, Effect, Grant, Identity, Join, Outcome, OutcomeResult, Ticket,
};
use gateway_core::history::HistoryPage;
use gateway_core::hub::Subscriber;
use gateway_core::map::KeyAction;
use gateway_core::namespace_id::NamespaceId;
use shared::channel::Channel;
use shared::command::Connect;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::protocol::ProtocolId;

use crate::auth::TokenVerdict;
use crate::backend::HookKind;
use crate::broker::{BrokerError, ChangeRequest, Effective, PublishRequest};
use crate::client::Client;
use crate::client::pusher_client::note_cache;
use crate::node::Node;
use crate::telemetry::Metrics;
use crate::telemetry::labels::{PanicSite, PublicationSource};
use crate::webhooks::PendingClientEvent;
use crate::worker::WorkerLocal;
use crate::worker::change_delivery::DeliveryChange;
use crate::worker::inbox::WorkerEvent;

impl Client {
    /// Performs effects until the session has no more.
    pub(crate) fn perform(&mut self, local: &mut WorkerLocal) {
        self.perform_effects(local);
        while self.follow_up(local) {
            self.perform_effects(local);
        }
    }

    fn perform_effects(&mut self, local: &mut WorkerLocal) {
        while let Some(effect) = self.session.poll_effect() {
            match effect {
                Effect::Begin(header) => self.begin_answer(local, header),
                Effect::Send(message) => self.send_message(local, &message),
                Effect::Ping => {
                    if let Some(frame) = self.link.framing.ping(&mut local.scratch) {
                        self.send_control(local, frame);
                    }
                }
                Effect::Close(disconnect) => self.begin_close(local, &disconnect),
                // The session has closed and answers something else.
                Effect::Authenticate { .. } if self.session.is_closed() => {}
                Effect::Authenticate { ticket, .. } if self.app().is_some() => self.let_in(local, ticket),
                Effect::Authenticate { ticket, connect } => self.authenticate(local, ticket, connect),
                Effect::SignIn { ticket, token, data } => self.sign_in(local, ticket, &token, &data),
                Effect::Authorize { ticket, channel, token, data } if self.app().is_some() => {
                    self.let_into(local, ticket, channel, &token, data.as_ref());
                }
                Effect::Reauthenticate { ticket, token } => {
                    let verdict = local.authenticator.authenticate(local.clock.unix_seconds(), &token);
                    self.answer_with(local, ticket, verdict, OutcomeResult::Authenticated);
                }
                Effect::Authorize { ticket, channel, token, data }
                    if self.protocol == ProtocolId::SOCKET_IO =>
                {
                    self.let_into_namespace(local, ticket, channel, &token, data);
                }
                Effect::Authorize { ticket, channel, token, data } if token.is_empty() => {
                    self.ask_to_subscribe(local, ticket, channel, data);
                }
                Effect::Authorize { ticket, channel, token, .. } => {
                    let (now, client) = (local.clock.unix_seconds(), self.session.client());
                    let verdict = local.authenticator.authorize(now, client, &channel, &token);
                    let refreshed_by_server = local.context.rules.is_renewed_by_server(&channel);
                    self.answer_with(local, ticket, verdict, move |grant| {
                        OutcomeResult::Authorized(grant.map(|grant| Grant { refreshed_by_server, ..grant }))
                    });
                }
                Effect::Resolve { ticket, channel, question } => {
                    self.ask_to_resolve(local, ticket, channel, question);
                }
                Effect::Join(join) => self.join(local, *join),
                Effect::GoLive(go_live) => match self.is_finishing() {
                    // The client has been sent what it missed, and has left.
                    true => {
                        self.close_lane(local, &go_live.channel);
                        local.leave(self.key.index, self.session.client(), &go_live.channel);
                    }
                    false => self.go_live(local, &go_live),
                },
                // The remaining commands do not wait for a client that leaves.
                Effect::AwaitRoom { ticket } if self.is_finishing() => {
                    self.answer(local, ticket, OutcomeResult::Room);
                }
                Effect::AwaitRoom { ticket } => {
                    self.awaits_room = Some(ticket);
                    // The session is told when the bytes sent so far are written.
                    local.mark_unwritten(self.key.index);
                }
                Effect::Leave { channel, ended } => {
                    self.report_ended(local, &channel, ended);
                    self.note_count(local, &channel);
                    self.note_left(local, &channel);
                    self.close_lane(local, &channel);
                    local.leave(self.key.index, self.session.client(), &channel);
                }
                // The client has left all presence already.
                Effect::UpdatePresence { .. } if self.is_finishing() => {}
                Effect::UpdatePresence { channel, info } => {
                    // Not awaited: if it cannot be written yet, the node keeps trying.
                    drop(local.node.enter_presence(channel, *info));
                }
                // The client left before its join was announced, but others may have seen it in presence.
                Effect::AnnounceJoined { channel, info } if self.is_finishing() => {
                    let has_presence =
                        local.context.rules.options(&channel).is_some_and(|options| options.presence);
                    if self.session.take_announced_in(&channel) && has_presence {
                        let subscribers = local.hub.subscribers(channel.as_str());
                        local.node.announce_left(channel, *info, subscribers);
                    }
                }
                Effect::AnnounceJoined { channel, info } => {
                    let subscribers = local.hub.subscribers(channel.as_str());
                    local.node.announce_joined(channel, *info, subscribers);
                }
                Effect::AnnounceLeft { channel, info } => {
                    let subscribers = local.hub.subscribers(channel.as_str());
                    local.node.announce_left(channel, *info, subscribers);
                }
                Effect::CloseOthers => self.close_others(local),
                Effect::Refresh { ticket } => self.ask_to_refresh(local, ticket),
                Effect::SubRefresh { ticket, channel } => self.ask_to_sub_refresh(local, ticket, channel),
                Effect::Message { ticket, channel, data } => {
                    self.ask_with_message(local, ticket, channel, data);
                }
                Effect::Event { ticket, question } => self.ask_about_event(local, ticket, *question),
                Effect::Rpc { ticket, method, data } => self.ask_rpc(local, ticket, method, data),
                Effect::ChangeDelivery { ticket, channel, latest } => {
                    local.delivery_changes.push(DeliveryChange { of: self.key, ticket, channel, latest });
                }
                Effect::Publish { ticket, channel, publication, retention } => {
                    let options = local.context.rules.options(&channel);
                    let namespace = options.map_or(NamespaceId::UNKNOWN, |options| options.namespace);
                    local.metrics.publication_in(namespace, PublicationSource::Client);
                    let came = Instant::now();
                    let publication = *publication;
                    let request =
                        PublishRequest { channel, publication, retention, idempotency: None, version: None };
                    let webhooks = local.node.webhooks.as_ref().filter(|_| self.app().is_some());
                    let webhook = webhooks
                        .and_then(|hooks| hooks.client_event(request.channel.as_str(), &request.publication));
                    // By the options that the session used: it lets a publication pass because the hook decides, so the
                    // hook must be asked.
                    if options.is_some_and(|options| options.publish_hook) {
                        self.publish_as_allowed(local, ticket, came, request, webhook);
                        continue;
                    }
                    self.begin(local, ticket, |node| async move {
                        let published = node.publish_since(came, request).await;
                        if published.is_ok() {
                            webhook.into_iter().for_each(PendingClientEvent::record);
                        }
                        OutcomeResult::Published(published.map(|_| ()).map_err(|error| refused(error).into()))
                    });
                }
                Effect::ChangeKey { ticket, channel, change, keeping } => {
                    let options = local.context.rules.options(&channel);
                    let namespace = options.map_or(NamespaceId::UNKNOWN, |options| options.namespace);
                    local.metrics.publication_in(namespace, PublicationSource::Client);
                    let is_requested = options.is_some_and(|options| match &change.action {
                        KeyAction::Set(_) => options.map.publish_hook,
                        KeyAction::Remove { .. } => options.map.remove_hook,
                    });
                    let request = ChangeRequest { channel, change: *change, keeping, idempotency: None };
                    if is_requested {
                        self.change_key_as_allowed(local, ticket, request);
                        continue;
                    }
                    self.ask(local, ticket, |node| async move {
                        OutcomeResult::Published(
                            node.change_key(request).await.map(|_| ()).map_err(|error| refused(error).into()),
                        )
                    });
                }
                Effect::ReadState { ticket, channel, filter, keeping } => {
                    self.ask(local, ticket, move |node| async move {
                        OutcomeResult::State(
                            node.read_state(channel, *filter, keeping).await.map_err(refused),
                        )
                    });
                }
                // Treated like clients that were never announced.
                Effect::ShowSubscriber(_) if self.is_finishing() => drop(self.session.take_shown()),
                Effect::ShowSubscriber(shown) => local.node.show(*shown),
                Effect::HideSubscriber(shown) => local.node.hide(*shown),
                Effect::History { ticket, channel, filter, retention } => {
                    self.ask(local, ticket, move |node| async move {
                        OutcomeResult::History(
                            node.history(channel, filter, retention).await.map_err(refused),
                        )
                    });
                }
                Effect::Verify { ticket, channel, batches } => self.verify(local, ticket, &channel, batches),
                Effect::Follow { channel, keys } => self.follow(local, &channel, &keys),
                Effect::Unfollow { channel, keys } => self.unfollow(local, &channel, &keys),
                Effect::Presence { ticket, channel } => {
                    self.ask(local, ticket, |node| async move {
                        let clients = node.presence(channel).await.map_err(refused);
                        OutcomeResult::Presence(clients.map(|clients| clients.into_values().collect()))
                    });
                }
                Effect::PresenceStats { ticket, channel } => {
                    self.ask(local, ticket, |node| async move {
                        OutcomeResult::PresenceStats(node.presence_stats(channel).await.map_err(refused))
                    });
                }
            }
        }
    }

    fn authenticate(&mut self, local: &mut WorkerLocal, ticket: Ticket, connect: Box<Connect>) {
        let has_token = !connect.token.is_empty();
        let backend = local.node.backend.clone();
        if let Some(backend) = backend.filter(|backend| backend.runs_connect_hook(has_token)) {
            return self.ask_to_connect(local, ticket, backend, connect);
        }
        let verdict = local.authenticator.authenticate(local.clock.unix_seconds(), &connect.token);
        let verdict = match verdict {
            TokenVerdict::Now(result) => TokenVerdict::Now(self.admit(local, result)),
            later => later,
        };
        self.answer_with(local, ticket, verdict, OutcomeResult::Authenticated);
    }

    /// Prepares an outcome that arrived later for the session.
    pub(crate) fn taken_in(&mut self, local: &mut WorkerLocal, outcome: Outcome) -> Outcome {
        let result = match outcome.result {
            // A client that renews its token is admitted already.
            OutcomeResult::Authenticated(result) if self.user_permit.is_none() => {
                OutcomeResult::Authenticated(self.admit(local, result))
            }
            OutcomeResult::Authorized(Ok(grant)) => {
                let shown = self.become_shown(local, grant);
                OutcomeResult::Authorized(shown.map(|grant| self.become_resumed(local, grant)))
            }
            other => other,
        };
        Outcome { result, ..outcome }
    }

    /// Admits an authenticated user, if the limit of connections allows it.
    pub(super) fn admit(
        &mut self,
        local: &mut WorkerLocal,
        result: Result<Identity, Denial>,
    ) -> Result<Identity, Denial> {
        let identity = result?;
        let permit = local.node.admit_user(&identity.user, local.index);
        self.user_permit = Some(permit.ok_or(Denial::Disconnect(Disconnect::CONNECTION_LIMIT))?);
        local.directory.enter(&identity.user, self.key.index);
        let refreshed_by_server = local.node.asks(HookKind::Refresh);
        Ok(Identity { refreshed_by_server, time_ms: Some(local.clock.unix_millis()), ..identity })
    }

    /// Answers with a verdict. Most are ready at once; some wait for a key.
    fn answer_with<T: Send + 'static>(
        &mut self,
        local: &WorkerLocal,
        ticket: Ticket,
        verdict: TokenVerdict<T>,
        result: impl FnOnce(Result<T, Denial>) -> OutcomeResult + Send + 'static,
    ) {
        match verdict {
            TokenVerdict::Now(judged) => self.answer(local, ticket, result(judged)),
            TokenVerdict::Later(judged) => {
                self.ask(local, ticket, move |_| async move { result(judged.await) });
            }
        }
    }

    /// Has the user's other connections closed, on every node.
    fn close_others(&self, local: &mut WorkerLocal) {
        let (user, client) = (self.session.user().as_str().into(), self.session.client());
        let came_back = local.pending_connections.enter(self.key.index);
        let node = local.node.clone();
        local.node.spawn(async move { node.close_other_connections(user, client, came_back).await });
    }

    /// Gives the session an outcome that needed no waiting. The loop in progress performs the effects.
    pub(super) fn answer(&mut self, local: &WorkerLocal, ticket: Ticket, result: OutcomeResult) {
        self.session.handle_outcome(local.now, Outcome { ticket, result });
    }

    /// Asks the node. The outcome arrives as an event in this worker's inbox.
    pub(super) fn ask<F>(&self, local: &WorkerLocal, ticket: Ticket, question: impl FnOnce(Arc<Node>) -> F)
    where
        F: Future<Output = OutcomeResult> + Send + 'static,
    {
        let (key, inbox) = (self.key, local.inbox.clone());
        let asking = guarded(question(local.node.clone()), local.metrics.clone());
        local.node.spawn(async move {
            let result = asking.await;
            inbox.push(WorkerEvent::Outcome(key, Outcome { ticket, result }));
        });
    }

    /// The same for short work: it is begun here, and finished here if it does not have to wait.
    fn begin<F>(&mut self, local: &WorkerLocal, ticket: Ticket, question: impl FnOnce(Arc<Node>) -> F)
    where
        F: Future<Output = OutcomeResult> + Send + 'static,
    {
        let mut asking = guarded(question(local.node.clone()), local.metrics.clone()).boxed();
        match (&mut asking).now_or_never() {
            Some(result) => self.answer(local, ticket, result),
            None => self.ask(local, ticket, |_| asking),
        }
    }

    fn join(&mut self, local: &mut WorkerLocal, join: Join) {
        if self.is_finishing() && join.history.as_ref().is_some_and(|history| history.part) {
            // The client left before it had received everything.
            return self.answer(local, join.ticket, OutcomeResult::Joined(Err(ErrorCode::Internal)));
        }
        let Join { ticket, channel, terms, retention, history, presence, members, newest } = join;
        if presence.is_some()
            && !local.context.rules.options(&channel).is_some_and(|options| options.presence)
        {
            local.shown.insert((self.session.client(), channel.clone()));
        }
        let subscriber = self.subscriber(&terms);
        let before = local.hub.interest().subscriptions;
        let joined = match terms.latest {
            Some(latest) => {
                self.open_lane(local, &channel, latest);
                local.hub.join_latest(&channel, subscriber, terms.filter, latest)
            }
            None => local.hub.join(&channel, subscriber, terms.filter),
        };
        if local.hub.interest().subscriptions > before {
            let namespace = local.context.rules.namespace_id(channel.as_str());
            local.tally.namespaces.of(namespace).subscriptions += 1;
        }
        let misses = self.awaits_cache(local, &channel);
        let delivered = if joined.first {
            local.node.acquire(local.index, &channel, retention)
        } else {
            local.node.delivered(&channel)
        };
        let present =
            presence.map_or(Effective::Now, |info| local.node.enter_presence(channel.clone(), info));
        let keeper = self.keeper_of(local, &channel);
        // Most clients that return after an outage need not wait: one of them has read history for all.
        if keeper.is_none() && delivered.is_now() && present.is_now() && !members && newest.is_none() {
            let known = match &history {
                Some(wanted) => local.node.retained_catch_up(&channel, wanted).map(Some),
                None => Some(polled_page(&local.node, &channel)),
            };
            if let Some(known) = known {
                let known = note_cache(&local.node, misses.as_ref(), known);
                return self.answer(local, ticket, OutcomeResult::Joined(Ok(known)));
            }
        }
        self.ask(local, ticket, move |node| async move {
            let joined = channel.clone();
            let joining = async {
                match delivered.wait().await {
                    // The channel has no subscribers left, not even this client, but its earlier commands are still carried
                    // out.
                    Ok(()) | Err(BrokerError::Abandoned) => {}
                    Err(error) => return Err(error),
                }
                if let Err(error) = present.wait().await {
                    // The node keeps trying. A channel without complete presence is better than no channel.
                    if let Some(suppressed) = node.absent_log.admit() {
                        tracing::warn!(%error, %channel, suppressed, "a subscriber is not in the channel's presence yet");
                    }
                }
                let page = match (newest, history) {
                    (Some(keeping), _) => node.newest(&channel, keeping).await.map(Some)?,
                    (None, Some(wanted)) => node.catch_up(&channel, &wanted, retention).await.map(Some)?,
                    (None, None) => polled_page(&node, &channel),
                };
                Ok(note_cache(&node, misses.as_ref(), page))
            };
            let page = joining.await;
            if let (Ok(Some(page)), Some(keeper)) = (&page, keeper)
                && let Err(error) = keeper.follow(&node, &joined, page.top).await
            {
                return OutcomeResult::Joined(Err(error));
            }
            let joined = match (page, members) {
                (Ok(page), true) => node.members(&joined).await.map(|members| (page, Some(members))),
                (page, _) => page.map(|page| (page, None)),
            };
            match joined.map_err(refused) {
                Ok((page, Some(members))) => OutcomeResult::JoinedAmong(Ok((page, members))),
                Ok((page, None)) => OutcomeResult::Joined(Ok(page)),
                Err(error) => OutcomeResult::Joined(Err(error)),
            }
        });
    }

    pub(super) fn subscriber(&self, terms: &DeliveryTerms) -> Subscriber {
        let variant = if terms.patches { self.variant.with_patches() } else { self.variant };
        Subscriber::new(self.key.index, variant)
            .positioned(terms.positioned)
            .joins_and_leaves(terms.joins_and_leaves)
    }
}

/// Turns a panic of the request into an outcome.
async fn guarded(asking: impl Future<Output = OutcomeResult>, metrics: Arc<Metrics>) -> OutcomeResult {
    AssertUnwindSafe(asking).catch_unwind().await.unwrap_or_else(|_| {
        // The session refuses the command that waits for it.
        metrics.panicked(PanicSite::Request);
        OutcomeResult::Published(Err(ErrorCode::Internal.into()))
    })
}

/// Returns the history page of a channel without history: in a polled channel, the epoch of its versions.
fn polled_page(node: &Node, channel: &Channel) -> Option<HistoryPage> {
    let options = node.rules().options(channel).filter(|options| options.is_polled()).cloned()?;
    let top = node.poll_position(channel, &options.shared_poll)?;
    Some(HistoryPage { publications: Vec::new(), top })
}

pub(super) fn refused(error: BrokerError) -> ErrorCode {
    // Logged by the broker, once a minute for each kind.
    tracing::debug!(%error, "the broker could not do what a client asked");
    match error {
        BrokerError::Full | BrokerError::NoRoom => ErrorCode::LimitExceeded,
        BrokerError::NotAvailable => ErrorCode::NotAvailable,
        _ => ErrorCode::Internal,
    }
}
