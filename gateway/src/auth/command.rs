//! The subcommand `tidegate token`: prints a token that a gateway of the same configuration accepts.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::config::Config;
use super::issue::{TokenRequest, issue};
use crate::clock::Clock;

/// Print a token, signed with the secret of the configuration (auth.hmac_secret).
#[derive(Clone, Debug, Args)]
pub struct TokenArgs {
    /// The configuration that the gateway reads. Variables `TIDEGATE_SECTION__KEY` go over it.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Who the client is. Without it: nobody in particular.
    #[arg(long, default_value = "")]
    pub user: String,
    /// Make a subscription token, for this channel.
    #[arg(long)]
    pub channel: Option<String>,
    /// How long the token is valid: 90s, 30m, 12h, 7d, or `forever`.
    #[arg(long, default_value = "1h")]
    pub ttl: Ttl,
    /// JSON that others see of the client.
    #[arg(long, value_name = "JSON")]
    pub info: Option<String>,
}

/// How long a token is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ttl(pub Option<Duration>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a time to live is a whole number with s, m, h or d, such as 30m, or forever")]
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

/// Prints one token on standard output.
pub fn command(args: &TokenArgs, config: &Config) -> ExitCode {
    let request = TokenRequest {
        user: args.user.clone(),
        channel: args.channel.clone(),
        ttl: args.ttl.0,
        info: args.info.clone(),
    };
    let printed = issue(config, Clock::start().unix_seconds(), &request)
        .map_err(|error| error.to_string())
        .and_then(|token| writeln!(std::io::stdout(), "{token}").map_err(|error| error.to_string()));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("tidegate token: {problem}");
            ExitCode::FAILURE
        }
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
