//! The tokens of connections.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;

use crate::arguments::AccessArguments;

/// How long a signed token is valid: longer than any run.
const LIFETIME: Duration = Duration::from_secs(2 * 86_400);

/// The header of every signed token.
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// The source of tokens.
#[derive(Clone, Debug)]
pub enum Tokens {
    None,
    Same(String),
    Signed { key: hmac::Key, expires: u64 },
}

impl Tokens {
    pub fn new(arguments: &AccessArguments, wall: SystemTime) -> Self {
        match (&arguments.token, &arguments.token_secret) {
            (Some(token), _) => Self::Same(token.clone()),
            (None, Some(secret)) => {
                let since_epoch = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                let expires = (since_epoch + LIFETIME).as_secs();
                Self::Signed { key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), expires }
            }
            (None, None) => Self::None,
        }
    }

    /// Returns the token of one user.
    pub fn of(&self, user: &str) -> Option<String> {
        match self {
            Self::None => None,
            Self::Same(token) => Some(token.clone()),
            Self::Signed { key, expires } => {
                let claims = serde_json::json!({"sub": user, "exp": expires}).to_string();
                let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(claims));
                let signature = hmac::sign(key, signed.as_bytes());
                Some(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl dgst -sha256 -hmac "a secret of the tests, long enough to be one"`.
    const BY_HAND: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJleHAiOjE3MDAwMDM2MDAsInN1YiI6ImxvYWQtNyJ9.n1SXKQlqyxZLuPy3VaenzWdsAJWPoZ80bTID-G7xDAk";

    #[test]
    fn a_signed_token_is_what_another_program_would_sign() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"a secret of the tests, long enough to be one");
        let tokens = Tokens::Signed { key, expires: 1_700_003_600 };
        assert_eq!(tokens.of("load-7").as_deref(), Some(BY_HAND));
    }
}
