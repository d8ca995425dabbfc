//! Asks whether a GraphQL operation is carried out, and in which channel. The answer is that of a subscribe hook, with
//! a channel.

use gateway_core::effect::{Denial, Resolved};
use serde::Deserialize;
use shared::id::UserId;

use super::hook_request::{HookRequest, HookSubject};
use super::hook_response::{InvalidResult, SubscribeResult};
use super::{Backend, ClientOrigin, expired, not_available};
use crate::clock::Clock;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResolveResult {
    channel: Box<str>,
    #[serde(flatten)]
    subscribe: SubscribeResult,
}

impl Backend {
    /// Asks whether an operation may be carried out, and in which channel. `channel`: the configured one, or empty.
    pub async fn resolve(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        channel: &str,
        question: &[u8],
    ) -> Result<Resolved, Denial> {
        let hook = self.graphql.as_ref().ok_or_else(not_available)?;
        let request = HookRequest { channel, ..HookRequest::new(asker, Some(question), self.style) };
        let mean = |result: Option<ResolveResult>| {
            result.unwrap_or_default().into_resolved(channel, asker.user.clone(), self.clock)
        };
        hook.ask(origin, &request, mean).await?.ok_or_else(expired)
    }
}

impl ResolveResult {
    /// `channel` is used if the answer names none. Returns `Ok(None)` if the grant has ended already.
    fn into_resolved(
        self,
        channel: &str,
        user: UserId,
        clock: Clock,
    ) -> Result<Option<Resolved>, InvalidResult> {
        let channel = if self.channel.is_empty() { channel.into() } else { self.channel };
        if channel.is_empty() {
            return Err("channel is missing, and the configuration sets none either".to_owned());
        }
        let grant = self.subscribe.into_grant(user, clock)?;
        Ok(grant.map(|grant| Resolved { channel, grant }))
    }
}
