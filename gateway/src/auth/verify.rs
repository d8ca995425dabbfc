//! Turns tokens into identities and grants, and refuses the others with the right code.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use gateway_core::effect::{Denial, Grant, Identity};
use parking_lot::RwLock;
use shared::channel::Channel;
use shared::id::{ClientId, UserId};
use tokio_util::sync::CancellationToken;

use super::auth_config::AuthConfig;
use super::rules::Rules;
use super::token_error::{TOKEN_BYTES_MAX, TokenError};
use super::token_keys::{KeyError, OpenTokenError, VerifiedToken};
use crate::clock::Clock;
use crate::telemetry::{LogLimiter, Metrics, Readiness, Reminder};

/// The interval at which the gateway looks whether keys are due to be fetched or read again.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The verdict on a token, or a future of it.
#[expect(missing_debug_implementations, reason = "a boxed future has nothing to show")]
pub enum TokenVerdict<T> {
    Now(Result<T, Denial>),
    /// The key has to be fetched first. Ends by itself, with a refusal if the fetch takes too long.
    Later(BoxFuture<'static, Result<T, Denial>>),
}

impl<T> TokenVerdict<T> {
    pub async fn wait(self) -> Result<T, Denial> {
        match self {
            Self::Now(result) => result,
            Self::Later(result) => result.await,
        }
    }
}

/// Checks the tokens of clients, by rules that can be replaced while it runs.
pub struct Authenticator {
    rules: RwLock<Arc<Rules>>,
    teller: Arc<VerdictReporter>,
}

/// The purpose that a token is checked for.
#[derive(Clone)]
pub(super) enum TokenPurpose {
    Connection,
    Subscription { client: Option<ClientId>, channel: Channel },
}

impl Authenticator {
    pub fn new(config: &AuthConfig, clock: Clock) -> Result<Self, KeyError> {
        Self::counted_by(config, clock, None)
    }

    /// Creates an authenticator with metrics that count the verdicts.
    pub fn counted_by(
        config: &AuthConfig,
        clock: Clock,
        metrics: Option<Arc<Metrics>>,
    ) -> Result<Self, KeyError> {
        let rules = Rules::new(config, None, metrics.as_ref())?;
        let teller = VerdictReporter { clock, log: LogLimiter::default(), metrics };
        Ok(Self { rules: RwLock::new(Arc::new(rules)), teller: Arc::new(teller) })
    }

    /// Builds the rules of this configuration for [`Self::go_by`], with the key files read again. Fetched keys are kept
    /// where their URL is the same. Reads files, so not for a thread that must not block.
    pub(crate) fn read(&self, config: &AuthConfig) -> Result<Rules, KeyError> {
        Rules::new(config, Some(&self.rules()), self.teller.metrics.as_ref())
    }

    /// Puts these rules into effect. Tokens that are being checked are finished by the rules before.
    pub(crate) fn go_by(&self, rules: Rules) {
        *self.rules.write() = Arc::new(rules);
    }

    /// Whether every client may do everything (`auth.insecure`): for development only.
    pub fn is_insecure(&self) -> bool {
        self.rules().insecure
    }

    /// Whether clients are told why they are refused (`auth.explain_refusals`): for development only.
    pub fn explains(&self) -> bool {
        self.rules().explain_refusals
    }

    /// Verifies a connection token. An empty token asks for anonymous access.
    pub fn authenticate(&self, now_unix_s: i64, token: &str) -> TokenVerdict<Identity> {
        if token.is_empty() {
            let rules = self.rules();
            return TokenVerdict::Now(match rules.allow_anonymous {
                true => Ok(Identity::default()),
                false => Err(self.teller.refuse(&rules, &TokenPurpose::Connection, &TokenError::Missing)),
            });
        }
        self.judge(now_unix_s, token, TokenPurpose::Connection, identity)
    }

    /// Verifies a subscription token for this client and channel.
    pub fn authorize(
        &self,
        now_unix_s: i64,
        client: ClientId,
        channel: &Channel,
        token: &str,
    ) -> TokenVerdict<Grant> {
        let purpose = TokenPurpose::Subscription { client: Some(client), channel: channel.clone() };
        self.judge(now_unix_s, token, purpose, grant)
    }

    fn judge<T: Send + 'static>(
        &self,
        now: i64,
        token: &str,
        purpose: TokenPurpose,
        make: fn(&VerdictReporter, &VerifiedToken, Option<i64>, i64) -> Result<T, TokenError>,
    ) -> TokenVerdict<T> {
        let (rules, teller) = (self.rules(), &self.teller);
        let refused = match rules.examine(now, token, &purpose) {
            Ok((opened, end)) => {
                return TokenVerdict::Now(teller.report(&rules, &purpose, make(teller, &opened, end, now)));
            }
            Err(OpenTokenError::Refused(refused)) => refused,
            Err(OpenTokenError::Wait(wait)) => {
                let (token, teller, since) = (token.to_owned(), teller.clone(), Instant::now());
                let later = async move {
                    wait.await;
                    let now = now.saturating_add_unsigned(since.elapsed().as_secs());
                    let examined = rules.examine_at_last(now, &token, &purpose);
                    let made = examined.and_then(|(opened, end)| make(&teller, &opened, end, now));
                    teller.report(&rules, &purpose, made)
                };
                return TokenVerdict::Later(later.boxed());
            }
        };
        TokenVerdict::Now(Err(teller.refuse(&rules, &purpose, &refused)))
    }

    fn rules(&self) -> Arc<Rules> {
        self.rules.read().clone()
    }

    /// Keeps the keys fresh until it is stopped: fetches sets of keys, and reads key files again. Reports to readiness
    /// while there is no key to check any token with.
    pub async fn keep(self: Arc<Self>, readiness: Arc<Readiness>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut read = Instant::now();
        let mut reminder = Reminder::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            let rules = self.rules();
            for jwks in rules.fetched() {
                if jwks.is_due(Instant::now()) {
                    jwks.refresh(Instant::now()).await;
                }
            }
            readiness.keys_missing(rules.missing());
            if let Some(metrics) = &self.teller.metrics {
                let ages = rules.fetched().into_iter().filter_map(|jwks| jwks.age(Instant::now()));
                metrics.jwks_age_seconds.set(ages.max().unwrap_or_default().as_secs_f64());
            }
            if rules.reads_files() && read.elapsed() >= rules.files_interval {
                read = Instant::now();
                self.read_again(&mut reminder).await;
            }
        }
    }

    async fn read_again(self: &Arc<Self>, reminder: &mut Reminder) {
        let authenticator = self.clone();
        // The files are read on a thread that may wait for a disk.
        let reread = tokio::task::spawn_blocking(move || {
            let before = authenticator.rules();
            let rules = Rules::new(&before.config, Some(&before), authenticator.teller.metrics.as_ref())?;
            if rules.has_keys_of(&before) {
                return Ok(false);
            }
            let mut current = authenticator.rules.write();
            // If the rules were replaced meanwhile, the files were read later than here.
            let is_ours = Arc::ptr_eq(&current, &before);
            if is_ours {
                *current = Arc::new(rules);
            }
            Ok::<bool, KeyError>(is_ours)
        });
        match reread.await {
            Ok(Ok(changed)) => {
                reminder.over(Instant::now());
                if changed {
                    tracing::info!("new token keys are in use");
                }
            }
            Ok(Err(error)) => {
                if reminder.is_due(&error.to_string(), Instant::now()) {
                    tracing::error!(%error, "the changed token keys cannot be used; the old keys stay in use");
                }
            }
            Err(error) => tracing::error!(%error, "token keys could not be read"),
        }
    }
}

// Keys redact themselves, but nothing here relies on that.
impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.rules();
        f.debug_struct("Authenticator")
            .field("takes_tokens", &rules.takes_tokens())
            .field("leeway_s", &rules.leeway_s)
            .field("allow_anonymous", &rules.allow_anonymous)
            .field("insecure", &rules.insecure)
            .finish_non_exhaustive()
    }
}

fn identity(
    teller: &VerdictReporter,
    opened: &VerifiedToken,
    end: Option<i64>,
    now: i64,
) -> Result<Identity, TokenError> {
    let claims = &opened.claims;
    Ok(Identity {
        user: UserId::new(&claims.sub),
        info: claims.info()?,
        expires: teller.moment(end, now),
        subs: claims.server_subscriptions()?,
        meta: claims.meta()?,
        caps: claims.capabilities()?,
        updates: claims.updates()?,
        ..Identity::default()
    })
}

fn grant(
    teller: &VerdictReporter,
    opened: &VerifiedToken,
    end: Option<i64>,
    now: i64,
) -> Result<Grant, TokenError> {
    let claims = &opened.claims;
    Ok(Grant {
        user: UserId::new(&claims.sub),
        info: claims.info()?,
        expires: teller.moment(end, now),
        data: claims.data()?,
        overrides: claims.overrides(),
        allow: claims.allow()?,
        ..Grant::default()
    })
}

/// Reports verdicts: to the client by a code, to the operator by the log and by metrics.
struct VerdictReporter {
    clock: Clock,
    log: LogLimiter,
    metrics: Option<Arc<Metrics>>,
}

impl VerdictReporter {
    fn report<T>(
        &self,
        rules: &Rules,
        purpose: &TokenPurpose,
        made: Result<T, TokenError>,
    ) -> Result<T, Denial> {
        match made {
            Ok(made) => {
                self.count(purpose, "accepted");
                Ok(made)
            }
            Err(refused) => Err(self.refuse(rules, purpose, &refused)),
        }
    }

    /// Logs and counts a refusal. The client receives only the code, unless `auth.explain_refusals` is set. The log is
    /// rate limited, because anyone can send tokens; the token itself is never shown.
    fn refuse(&self, rules: &Rules, purpose: &TokenPurpose, refused: &TokenError) -> Denial {
        self.count(purpose, refused.label());
        let (kind, reason) = (purpose.name(), refused);
        match (!refused.is_of_time()).then(|| self.log.admit()).flatten() {
            Some(suppressed) => tracing::info!(kind, %reason, suppressed, "a token was refused"),
            None => tracing::debug!(kind, %reason, "a token was refused"),
        }
        let mut refusal = match purpose {
            TokenPurpose::Connection => refused.of_connection(),
            TokenPurpose::Subscription { .. } => refused.of_subscription(),
        };
        if let Denial::Disconnect(disconnect) = &mut refusal
            && rules.explain_refusals
        {
            *disconnect = disconnect.because(&reason.to_string());
        }
        refusal
    }

    fn count(&self, purpose: &TokenPurpose, result: &'static str) {
        if let Some(metrics) = &self.metrics {
            metrics.token(purpose.name(), result);
        }
    }

    fn moment(&self, end: Option<i64>, now: i64) -> Option<shared::moment::Moment> {
        let left = u64::try_from(end?.saturating_sub(now)).unwrap_or(0);
        Some(self.clock.now() + Duration::from_secs(left))
    }
}

impl TokenPurpose {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Subscription { .. } => "subscription",
        }
    }
}

/// Whether the token is longer than the gateway accepts.
pub(super) fn is_too_long(token: &str) -> bool {
    token.len() > TOKEN_BYTES_MAX
}

#[cfg(test)]
mod tests;
