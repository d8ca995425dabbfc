//! Explains why a client did or did not receive a publication, as far as that can be found out afterwards.

use gateway_core::channel_rules::ChannelOptions;
use gateway_core::history::HistoryFilter;
use serde_json::{Value, json};
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::Publication;

use super::api_error::ApiError;
use super::api_request;
use super::inspect::{FoundClient, close_in_words, with_missing};
use super::run_command::ApiCall;
use crate::node::ClosesWanted;
use crate::node::node_message::{ConnectionDetail, ConnectionInfo, DetailWanted, SubscriptionDetail};

/// The conclusion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum DeliveryVerdict {
    /// The publication was written to the client's socket.
    Sent,
    /// The publication is waiting to be written.
    Waiting,
    NotSent,
    /// Nothing was kept that would tell.
    Unknown,
}

impl DeliveryVerdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Waiting => "waiting",
            Self::NotSent => "not_sent",
            Self::Unknown => "unknown",
        }
    }
}

/// The findings in order. The last one determines the verdict.
#[derive(Debug)]
struct Findings {
    verdict: DeliveryVerdict,
    findings: Vec<Value>,
}

impl Findings {
    fn add(&mut self, verdict: DeliveryVerdict, finding: &'static str, text: impl Into<String>) {
        self.verdict = verdict;
        self.findings.push(json!({ "finding": finding, "text": text.into() }));
    }
}

impl ApiCall<'_> {
    pub(super) async fn explain(&self, request: &api_request::Explain<'_>) -> Result<Value, ApiError> {
        let (channel, options) = self.channel(&request.channel)?;
        let mut found = Findings { verdict: DeliveryVerdict::Unknown, findings: Vec::new() };
        let (publication, is_there) = self.look_up(&mut found, &channel, &options, request).await?;
        let tags = publication.as_ref().map(|publication| publication.tags.clone());
        let client = self.find_client(&request.client, DetailWanted { tags }).await?;
        match &client {
            FoundClient { connection: Some((_, info)), .. } => {
                // For a publication that is no longer kept, it is unknown whether it was for this client.
                if is_there && (publication.is_some() || request.offset == 0) {
                    let now_ms = self.node.clock.unix_millis();
                    explain_subscription(
                        &mut found,
                        &channel,
                        info,
                        request.offset,
                        publication.as_ref(),
                        now_ms,
                    );
                }
            }
            FoundClient { missing_nodes, .. } if !missing_nodes.is_empty() => {
                found.add(
                    DeliveryVerdict::Unknown,
                    "unknown_client",
                    "the client may be at a node that did not answer",
                );
            }
            FoundClient { .. } => self.explain_absence(&mut found, &request.client).await?,
        }
        let words = json!({ "verdict": found.verdict.as_str(), "findings": found.findings });
        Ok(with_missing(words, &client.missing_nodes))
    }

    /// Returns the publication, if the channel keeps it, and whether there is one to explain.
    async fn look_up(
        &self,
        found: &mut Findings,
        channel: &Channel,
        options: &ChannelOptions,
        request: &api_request::Explain<'_>,
    ) -> Result<(Option<Publication>, bool), ApiError> {
        if request.offset == 0 {
            return Ok((None, true));
        }
        if !options.retention().keeps_history() || options.keeps_keys() {
            let text = "the channel keeps no history, so its past publications are unknown";
            found.add(DeliveryVerdict::Unknown, "no_history", text);
            return Ok((None, true));
        }
        let filter = HistoryFilter { since: Some(request.offset - 1), limit: 1, ..HistoryFilter::default() };
        let page = self.read_history(channel.clone(), filter, options.retention()).await?;
        let is_of_epoch = request.epoch.is_empty() || *request.epoch == *page.top.epoch.as_str();
        let at = |publication: &Publication| publication.position.map(|position| position.offset);
        let publication =
            page.publications.into_iter().find(|publication| at(publication) == Some(request.offset));
        if !is_of_epoch {
            let text =
                format!("the channel's stream has begun a new epoch since then: {}", page.top.epoch.as_str());
            found.add(DeliveryVerdict::Unknown, "other_epoch", text);
            return Ok((None, false));
        }
        if request.offset > page.top.offset {
            let text = format!(
                "the publication does not exist: the channel's last publication has the offset {}",
                page.top.offset
            );
            found.add(DeliveryVerdict::NotSent, "not_published", text);
            return Ok((None, false));
        }
        if publication.is_none() {
            found.add(
                DeliveryVerdict::Unknown,
                "not_kept",
                "the channel's history no longer contains the publication",
            );
        }
        Ok((publication, true))
    }

    async fn explain_absence(&self, found: &mut Findings, client: &str) -> Result<(), ApiError> {
        found.add(DeliveryVerdict::NotSent, "not_connected", "the client is not connected to any node");
        let wanted = ClosesWanted { client: Some(client.into()), limit: 1, ..ClosesWanted::default() };
        let (closes, _) = self.closes_everywhere(wanted).await?;
        if let Some((node, close)) = closes.first() {
            let text = format!("the client was closed with code {} ({})", close.code, close.reason);
            found.add(DeliveryVerdict::Unknown, "closed", text);
            if let Some(last) = found.findings.last_mut() {
                last["close"] = close_in_words(node, close);
            }
        }
        Ok(())
    }
}

fn explain_subscription(
    found: &mut Findings,
    channel: &Channel,
    info: &ConnectionInfo,
    offset: u64,
    publication: Option<&Publication>,
    now_ms: u64,
) {
    let Some(detail) = info.detail.as_deref() else {
        return found.add(
            DeliveryVerdict::Unknown,
            "earlier_release",
            "the client's node runs an earlier release, which does not report its subscriptions",
        );
    };
    let is_it = |one: &&SubscriptionDetail| *one.channel == *channel.as_str();
    let Some(subscription) = detail.subscriptions.iter().find(is_it) else {
        let all = info.num_channels as usize;
        return match all > detail.subscriptions.len() {
            true => found.add(
                DeliveryVerdict::Unknown,
                "too_many_channels",
                format!("the client has {all} channels, and its node reports only some of them"),
            ),
            false => found.add(
                DeliveryVerdict::NotSent,
                "not_subscribed",
                "the client is not subscribed to the channel",
            ),
        };
    };
    if let Some(publication) = publication
        && !explain_choice(found, info, subscription, publication)
    {
        return;
    }
    let came_ms = now_ms.saturating_sub((info.uptime + 1) * 1_000);
    let made_ms = publication.map(|publication| publication.time_ms).filter(|made_ms| *made_ms > 0);
    if made_ms.is_some_and(|made_ms| made_ms < came_ms) {
        let text =
            "the publication was made before the client connected: the client gets it only by recovery";
        return found.add(DeliveryVerdict::Unknown, "before_it_connected", text);
    }
    explain_position(found, detail, subscription, offset, made_ms.is_some());
}

/// Explains whether the publication is for this client at all.
fn explain_choice(
    found: &mut Findings,
    info: &ConnectionInfo,
    subscription: &SubscriptionDetail,
    publication: &Publication,
) -> bool {
    let Some(client) = ClientId::parse(&info.client) else { return true };
    let is_in = |channel: &Channel| info.channels.iter().any(|one| **one == *channel.as_str());
    if publication.except.as_deref() == Some(&client) {
        found.add(
            DeliveryVerdict::NotSent,
            "spared",
            "the publication is not sent to this client, which caused it",
        );
    } else if publication.only.as_deref().is_some_and(|only| !only.includes(client, is_in))
        && info.num_channels as usize == info.channels.len()
    {
        found.add(
            DeliveryVerdict::NotSent,
            "not_for_it",
            "the publication is addressed to some subscribers, and the client is not one of them",
        );
    } else if subscription.passes == Some(false) {
        found.add(
            DeliveryVerdict::NotSent,
            "filtered",
            "the subscription has a filter that the publication's tags do not match",
        );
    } else {
        return true;
    }
    false
}

/// Explains how far the client has come. `is_later`: the publication is known to be younger than the connection.
fn explain_position(
    found: &mut Findings,
    detail: &ConnectionDetail,
    subscription: &SubscriptionDetail,
    offset: u64,
    is_later: bool,
) {
    match &*subscription.stage {
        "joining" => {
            let text = "the subscription is not complete yet: publications are held back until it is";
            return found.add(DeliveryVerdict::Waiting, "joining", text);
        }
        "insufficient" => {
            let text = "the client was told to subscribe again, because it missed publications (code 2500)";
            return found.add(DeliveryVerdict::NotSent, "insufficient", text);
        }
        _ => {}
    }
    if subscription.newest {
        let text =
            "the client gets only the newest value of each key: a newer value may have replaced this one";
        found.add(DeliveryVerdict::Unknown, "newest", text);
    }
    let stands = subscription.position.as_ref().map(|(offset, _)| *offset);
    match stands {
        Some(stands) if offset > stands => {
            let text = format!(
                "the client's node has reached the offset {stands} of the channel, and not yet this publication"
            );
            return found.add(DeliveryVerdict::Waiting, "behind", text);
        }
        None if offset > 0 => {
            let text = "nothing was published since the client's node listens to the channel: clients get \
                earlier publications only by recovery";
            found.add(DeliveryVerdict::Unknown, "before_it_came", text);
        }
        _ => {}
    }
    if detail.outbox_bytes > 0 {
        let ConnectionDetail { outbox_bytes, stalled_ms, .. } = detail;
        let text = format!(
            "{outbox_bytes} bytes wait in the client's outbox: its socket has accepted nothing for {stalled_ms} ms"
        );
        // An older publication may have been written, or never have been for this client.
        let verdict =
            if is_later || offset == 0 { DeliveryVerdict::Waiting } else { DeliveryVerdict::Unknown };
        found.add(verdict, "outbox", text);
    } else if stands.is_some() && !subscription.newest && !is_later {
        let text = match offset {
            0 => {
                "all that came to the channel since the client subscribed was written to its socket; without an offset, no more than that can be told"
            }
            _ => {
                "all that came to the channel since the client subscribed was written to its socket; whether it was subscribed by then is not known, since the publication does not carry its time (publication_time)"
            }
        };
        found.add(DeliveryVerdict::Unknown, "subscribed", text);
    } else if stands.is_some() && !subscription.newest {
        let text = "all publications since the client subscribed were written to its socket: this one too, if \
            the client was subscribed by then";
        found.add(DeliveryVerdict::Sent, "sent", text);
    } else if stands.is_none() && found.findings.is_empty() {
        let text = "the client is subscribed and its outbox is empty; more is not known, because the channel \
            has no stream";
        found.add(DeliveryVerdict::Unknown, "subscribed", text);
    }
}
