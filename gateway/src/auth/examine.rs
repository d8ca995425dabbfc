//! `tidegate token verify`: says whether a gateway of this configuration accepts a token, and why.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use gateway_core::effect::{Matching, Overrides, Rights, ServerSubscription};
use shared::channel::{CHANNEL_BYTES_MAX, Channel};

use super::auth_config::AuthConfig;
use super::rules::Rules;
use super::token_error::TokenError;
use super::token_keys::{OpenTokenError, VerifiedToken};
use super::utc::utc;
use super::verify::TokenPurpose;
use crate::clock::Clock;

/// The most that is read of a token from standard input, in bytes.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// Exit codes for a token that is refused, and for one that cannot be judged.
const EXIT_REFUSED: u8 = 1;
const EXIT_UNKNOWN: u8 = 2;

/// Check whether a gateway with this configuration accepts a token, and print its contents or the reason for refusal.
///
/// Keys come from the configuration, or are fetched from auth.jwks_url if necessary.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit code: 0 if the token is accepted, 1 if it is refused, 2 if it cannot be verified."
)]
pub struct ExamineArgs {
    /// The token, or `-` to read it from standard input, where other users of this machine do not see it.
    pub token: String,
    /// Verify a subscription token for this channel. Without it: a connection token.
    #[arg(long)]
    pub channel: Option<String>,
    /// Configuration file of the gateway. Variables `TIDEGATE_SECTION__KEY` override it.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Prints whether the token is accepted and what it says, or why it is refused.
pub(super) fn examine(args: &ExamineArgs, config: &AuthConfig) -> ExitCode {
    let now = Clock::start().unix_seconds();
    let token = token(args).and_then(|token| {
        let purpose = purpose(args.channel.as_deref())?;
        let rules = Rules::new(config, None, None).map_err(|error| error.to_string())?;
        let opened = waited_for(&rules, now, &token, &purpose)?;
        Ok(opened.and_then(|(opened, end)| describe(&opened, end, now, &purpose)))
    });
    match token {
        Ok(Ok(report)) => {
            // If printing fails, the reader is gone.
            let _ = std::io::stdout().write_all(report.as_bytes());
            ExitCode::SUCCESS
        }
        Ok(Err(refused @ TokenError::Unavailable(_))) => {
            eprintln!("cannot be verified: {refused}");
            ExitCode::from(EXIT_UNKNOWN)
        }
        Ok(Err(refused)) => {
            eprintln!("refused: {}", reason(&refused, now));
            ExitCode::from(EXIT_REFUSED)
        }
        Err(problem) => {
            eprintln!("tidegate token verify: {problem}");
            ExitCode::from(EXIT_UNKNOWN)
        }
    }
}

fn token(args: &ExamineArgs) -> Result<String, String> {
    let mut read = String::new();
    if args.token == "-" {
        let input = std::io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut read);
        input.map_err(|error| format!("the token cannot be read: {error}"))?;
    } else {
        read.clone_from(&args.token);
    }
    Ok(read.trim().to_owned())
}

/// Returns why a gateway of this configuration refuses a token that was just made. `None` also where that cannot be
/// told without asking an issuer for its keys.
pub(super) fn refusal(config: &AuthConfig, token: &str, channel: Option<&str>) -> Option<String> {
    let now = Clock::start().unix_seconds();
    let purpose = match purpose(channel) {
        Ok(purpose) => purpose,
        Err(problem) => return Some(problem),
    };
    let rules = Rules::new(config, None, None).ok()?;
    let refused = match rules.examine(now, token, &purpose) {
        Ok((opened, end)) => describe(&opened, end, now, &purpose).err()?,
        Err(OpenTokenError::Refused(refused)) => refused,
        Err(OpenTokenError::Wait(_)) => return None,
    };
    Some(reason(&refused, now))
}

fn purpose(channel: Option<&str>) -> Result<TokenPurpose, String> {
    let Some(channel) = channel else { return Ok(TokenPurpose::Connection) };
    let channel = Channel::parse_unicode(channel, CHANNEL_BYTES_MAX).map_err(|error| error.to_string())?;
    Ok(TokenPurpose::Subscription { client: None, channel })
}

type Examined = Result<(VerifiedToken, Option<i64>), TokenError>;

fn waited_for(rules: &Rules, now: i64, token: &str, purpose: &TokenPurpose) -> Result<Examined, String> {
    match rules.examine(now, token, purpose) {
        Ok(opened) => Ok(Ok(opened)),
        Err(OpenTokenError::Refused(refused)) => Ok(Err(refused)),
        Err(OpenTokenError::Wait(wait)) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| error.to_string())?.block_on(wait);
            Ok(rules.examine_at_last(now, token, purpose))
        }
    }
}

/// Returns the reason, with times in a readable form.
fn reason(refused: &TokenError, now: i64) -> String {
    use super::claims::TokenTimeError;
    match refused {
        TokenError::Untimely(TokenTimeError::Expired(at)) => {
            format!("it has expired (exp): at {}, {} ago", utc(*at), lasting(now.saturating_sub(*at)))
        }
        TokenError::Untimely(TokenTimeError::Early(at)) => {
            format!("it is not valid yet (nbf): from {}, in {}", utc(*at), lasting(at.saturating_sub(now)))
        }
        TokenError::Untimely(TokenTimeError::Ended(at)) => {
            format!("the connection or subscription that it grants has ended (expire_at): at {}", utc(*at))
        }
        TokenError::IsForSubscription => {
            "it is a subscription token: give its channel by --channel".to_owned()
        }
        TokenError::NoChannel => {
            "it names no channel, so it is a connection token: leave out --channel".to_owned()
        }
        other => other.to_string(),
    }
}

fn describe(
    opened: &VerifiedToken,
    end: Option<i64>,
    now: i64,
    purpose: &TokenPurpose,
) -> Result<String, TokenError> {
    let claims = &opened.claims;
    let mut lines: Vec<(&str, String)> = Vec::new();
    let user = if claims.sub.is_empty() { "(anonymous)" } else { &claims.sub };
    lines.push(("user", user.to_owned()));
    if let TokenPurpose::Subscription { channel, .. } = purpose {
        lines.push(("channel", channel.to_string()));
        lines.extend(claims.only_for().map(|client| ("client", client.to_owned())));
    }
    let named = opened.kid.as_ref().map(|kid| format!(", kid {kid}")).unwrap_or_default();
    lines.push(("key", format!("auth.{}{named} ({})", opened.key, opened.algorithm.name())));
    lines.push((
        "ends",
        match end {
            Some(end) => format!("{}, in {}", utc(end), lasting(end.saturating_sub(now))),
            None => "never".to_owned(),
        },
    ));
    let text = |json: bytes::Bytes| String::from_utf8_lossy(&json).into_owned();
    lines.extend(claims.info()?.map(|info| ("info", text(info))));
    let kind = match purpose {
        TokenPurpose::Connection => {
            lines.extend(claims.server_subscriptions()?.iter().map(|sub| ("subscribes", subscription(sub))));
            lines.extend(claims.meta()?.map(|meta| ("meta", text(meta))));
            for capability in claims.capabilities()? {
                let how = if capability.matching == Matching::Wildcard { " (wildcard)" } else { "" };
                let channels = capability.channels.join(" ");
                lines.push(("may", format!("{} in {channels}{how}", rights(capability.allow))));
            }
            "connection"
        }
        TokenPurpose::Subscription { .. } => {
            lines.extend(claims.data()?.map(|data| ("data", text(data))));
            lines.extend(overrides(claims.overrides()).map(|described| ("overrides", described)));
            let allow = claims.allow()?;
            lines.extend((allow != Rights::default()).then(|| ("may", rights(allow))));
            "subscription"
        }
    };
    let mut report = format!("accepted: a {kind} token\n");
    for (name, value) in lines {
        let _ = writeln!(report, "{name:<11}{value}");
    }
    Ok(report)
}

fn subscription(sub: &ServerSubscription) -> String {
    let mut described = sub.channel.to_string();
    for (name, json) in [("info", &sub.info), ("data", &sub.data)] {
        if let Some(json) = json {
            let _ = write!(described, " {name} {}", String::from_utf8_lossy(json));
        }
    }
    if let Some(overrides) = overrides(sub.overrides) {
        let _ = write!(described, " ({overrides})");
    }
    described
}

fn overrides(overrides: Overrides) -> Option<String> {
    let Overrides { presence, join_leave, force_recovery, force_positioning, force_push_join_leave } =
        overrides;
    let described: Vec<String> = [
        ("presence", presence),
        ("join_leave", join_leave),
        ("force_recovery", force_recovery),
        ("force_positioning", force_positioning),
        ("force_push_join_leave", force_push_join_leave),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(format!("{name} {}", if value? { "on" } else { "off" })))
    .collect();
    (!described.is_empty()).then(|| described.join(", "))
}

fn rights(rights: Rights) -> String {
    let Rights { subscribe, publish, presence, history } = rights;
    let named = [
        (subscribe, "subscribe"),
        (publish, "publish"),
        (presence, "read presence"),
        (history, "read history"),
    ];
    let described: Vec<&str> = named.into_iter().filter(|(may, _)| *may).map(|(_, name)| name).collect();
    if described.is_empty() { "do nothing".to_owned() } else { described.join(", ") }
}

/// Formats a duration as its two largest units.
fn lasting(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}
