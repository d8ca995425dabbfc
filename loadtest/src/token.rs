//! The tokens that connections show.

use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use crate::arguments::ConnectionArguments;

/// How long a signed token is good for: longer than any run.
const LIFETIME: Duration = Duration::from_secs(2 * 86_400);

/// Where tokens come from.
#[derive(Clone)]
pub enum Tokens {
    None,
    Same(String),
    Signed { key: EncodingKey, expires: u64 },
}

#[derive(serde::Serialize)]
struct Claims<'a> {
    sub: &'a str,
    exp: u64,
}

impl Tokens {
    pub fn new(arguments: &ConnectionArguments, wall: SystemTime) -> Self {
        match (&arguments.token, &arguments.token_secret) {
            (Some(token), _) => Self::Same(token.clone()),
            (None, Some(secret)) => {
                let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let expires = (since_epoch + LIFETIME).as_secs();
                Self::Signed { key: EncodingKey::from_secret(secret.as_bytes()), expires }
            }
            (None, None) => Self::None,
        }
    }

    /// The token of one user.
    pub fn of(&self, user: &str) -> Result<Option<String>, jsonwebtoken::errors::Error> {
        match self {
            Self::None => Ok(None),
            Self::Same(token) => Ok(Some(token.clone())),
            Self::Signed { key, expires } => {
                let claims = Claims { sub: user, exp: *expires };
                jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, key).map(Some)
            }
        }
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither tokens nor the key belong in a log.
        f.write_str(match self {
            Self::None => "None",
            Self::Same(_) => "Same",
            Self::Signed { .. } => "Signed",
        })
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;

    #[test]
    fn a_signed_token_names_its_user_and_holds_against_the_secret_only() {
        let tokens = Tokens::Signed { key: EncodingKey::from_secret(b"secret"), expires: u64::MAX / 4 };
        let token = tokens.of("load-7").unwrap().unwrap();
        let read = |secret: &[u8]| {
            decode::<serde_json::Value>(
                &token,
                &DecodingKey::from_secret(secret),
                &Validation::new(Algorithm::HS256),
            )
        };
        assert_eq!(read(b"secret").unwrap().claims["sub"], "load-7");
        assert!(read(b"other").is_err());
    }
}
