//! The subcommands `tidegate token`, which prints a token that a gateway of the same configuration accepts, and
//! `tidegate token verify`, which says whether such a gateway accepts a given one.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::algorithm::Algorithm;
use super::auth_config::AuthConfig;
use super::examine::{ExamineArgs, examine, refusal};
use super::issue::{TokenRequest, issue};
use crate::clock::Clock;

/// Print a token, signed with the configured secret (auth.hmac_secret) or with a private key.
///
/// Without --channel it is a connection token, which authenticates a client. With --channel it is a subscription token,
/// which lets a client subscribe to that channel. `tidegate token verify` verifies a token.
#[derive(Clone, Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
pub struct TokenArgs {
    #[command(subcommand)]
    pub verb: Option<TokenVerb>,
    #[command(flatten)]
    pub make: MakeArgs,
}

const EXAMPLES: &str = "\
Examples:
  tidegate token --user alice --ttl 12h --info '{\"name\":\"Alice\"}'
  tidegate token --user alice --channels news,chat:1 --meta '{\"role\":\"editor\"}'
  tidegate token --user alice --channel '$news' --ttl 10m
  tidegate token --user alice --private-key issuer.pem --kid 2026-11
  tidegate token verify \"$TOKEN\" --channel '$news'";

#[derive(Clone, Debug, Subcommand)]
pub enum TokenVerb {
    /// Check whether a gateway with this configuration accepts a token, and print its contents or the reason for refusal.
    Verify(ExamineArgs),
}

#[derive(Clone, Debug, Args)]
pub struct MakeArgs {
    /// Configuration file of the gateway. Variables `TIDEGATE_SECTION__KEY` override it.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// The client's user. Without it: an anonymous client.
    #[arg(long, default_value = "")]
    pub user: String,
    /// Print a subscription token, for this channel.
    #[arg(long)]
    pub channel: Option<String>,
    /// Lifetime of the token: 90s, 30m, 12h, 7d, or `forever`.
    #[arg(long, default_value = "1h")]
    pub ttl: Ttl,
    /// Time at which the connection or subscription expires, in seconds since 1970, regardless of --ttl. 0: never.
    #[arg(long, value_name = "SECONDS")]
    pub expire_at: Option<i64>,
    /// JSON about the client that other clients see.
    #[arg(long, value_name = "JSON")]
    pub info: Option<String>,
    /// JSON that the client gets with its subscription (with --channel).
    #[arg(long, value_name = "JSON", help_heading = SUBSCRIPTIONS)]
    pub data: Option<String>,
    /// Additional rights of the subscriber, separated by commas: pub (publish), prs (presence), hst (history) (with
    /// --channel).
    #[arg(long, value_name = "RIGHTS", value_delimiter = ',', help_heading = SUBSCRIPTIONS)]
    pub allow: Vec<String>,
    /// Channels to which the client is subscribed when it connects, separated by commas.
    #[arg(long, value_delimiter = ',', help_heading = CONNECTIONS)]
    pub channels: Vec<String>,
    /// The same channels with info, data and overrides for each: {"CHANNEL": {"info": .., "override": ..}}.
    #[arg(long, value_name = "JSON", conflicts_with = "channels", help_heading = CONNECTIONS)]
    pub subs: Option<String>,
    /// Metadata for your own servers, a JSON object that clients do not see.
    #[arg(long, value_name = "JSON", help_heading = CONNECTIONS)]
    pub meta: Option<String>,
    /// Rights of the client by channel: [{"channels": ["chat:*"], "match": "wildcard", "allow": ["sub"]}].
    #[arg(long, value_name = "JSON", help_heading = CONNECTIONS)]
    pub caps: Option<String>,
    /// Private key to sign with instead of the secret (PEM: RSA, EC on P-256 or P-384, Ed25519).
    #[arg(long, value_name = "FILE", help_heading = SIGNATURE)]
    pub private_key: Option<PathBuf>,
    /// Signature algorithm, such as HS512 or PS256. Default: the first of auth.algorithms that fits the key.
    #[arg(long, help_heading = SIGNATURE)]
    pub algorithm: Option<Algorithm>,
    /// Id of the key, by which gateways find it at auth.jwks_url (header kid).
    #[arg(long, help_heading = SIGNATURE)]
    pub kid: Option<String>,
    /// Audience of the token (claim aud). Default: auth.audience.
    #[arg(long, help_heading = SIGNATURE)]
    pub audience: Option<String>,
    /// Issuer of the token (claim iss). Default: auth.issuer.
    #[arg(long, help_heading = SIGNATURE)]
    pub issuer: Option<String>,
}

const CONNECTIONS: &str = "Connection tokens";
const SUBSCRIPTIONS: &str = "Subscription tokens";
const SIGNATURE: &str = "Signature";

impl TokenArgs {
    /// Returns the path of the configuration, from the arguments of the subcommand that was called.
    pub fn config(&self) -> Option<&PathBuf> {
        match &self.verb {
            Some(TokenVerb::Verify(args)) => args.config.as_ref(),
            None => self.make.config.as_ref(),
        }
    }
}

/// The lifetime of a token. `None`: for ever.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ttl(pub Option<Duration>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a whole number followed by s, m, h or d, such as 30m, or forever")]
pub struct BadTtl;

impl std::str::FromStr for Ttl {
    type Err = BadTtl;

    fn from_str(text: &str) -> Result<Self, BadTtl> {
        if text == "forever" {
            return Ok(Self(None));
        }
        let unit = text.chars().last().ok_or(BadTtl)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(BadTtl),
        };
        let number: u64 = text[..text.len() - 1].parse().map_err(|_| BadTtl)?;
        number.checked_mul(seconds).map(|seconds| Self(Some(Duration::from_secs(seconds)))).ok_or(BadTtl)
    }
}

/// Prints a token on standard output, or the verdict on a given one.
pub fn command(args: &TokenArgs, config: &AuthConfig) -> ExitCode {
    if let Some(TokenVerb::Verify(args)) = &args.verb {
        return examine(args, config);
    }
    let printed = issue(config, Clock::start().unix_seconds(), &request(&args.make))
        .map_err(|error| error.to_string())
        .and_then(|token| match writeln!(std::io::stdout(), "{token}") {
            Ok(()) => Ok(token),
            Err(error) => Err(error.to_string()),
        });
    match printed {
        Ok(token) => {
            // The token may be for a gateway of another configuration, so it is printed all the same.
            if let Some(reason) = refusal(config, &token, args.make.channel.as_deref()) {
                eprintln!("tidegate token: a gateway with this configuration refuses this token: {reason}");
            }
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("tidegate token: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn request(args: &MakeArgs) -> TokenRequest {
    let args = args.clone();
    TokenRequest {
        user: args.user,
        channel: args.channel,
        ttl: args.ttl.0,
        expire_at: args.expire_at,
        info: args.info,
        data: args.data,
        channels: args.channels,
        subs: args.subs,
        meta: args.meta,
        caps: args.caps,
        allow: args.allow,
        audience: args.audience,
        issuer: args.issuer,
        private_key_file: args.private_key,
        algorithm: args.algorithm,
        kid: args.kid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_read_by_unit() {
        let seconds = |text: &str| text.parse::<Ttl>().map(|ttl| ttl.0.map(|ttl| ttl.as_secs()));
        assert_eq!(seconds("90s"), Ok(Some(90)));
        assert_eq!(seconds("30m"), Ok(Some(1_800)));
        assert_eq!(seconds("1h"), Ok(Some(3_600)));
        assert_eq!(seconds("7d"), Ok(Some(604_800)));
        assert_eq!(seconds("forever"), Ok(None));
        for bad in ["", "h", "1", "-1h", "1.5h", "1µ", "18446744073709551615d"] {
            assert_eq!(seconds(bad), Err(BadTtl), "{bad}");
        }
    }
}
