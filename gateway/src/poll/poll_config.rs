//! The section `shared_poll`.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::setting::Faults;

/// Shorter secrets can be guessed from a signature, which every client has.
const SECRET_BYTES_MIN: usize = 16;

/// Settings that all channels of the type `shared_poll` share.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollConfig {
    /// The secret with which the application signs the keys that a user may follow (HMAC-SHA256). At least 16 random
    /// bytes; 32 are recommended. Required for channels of the type `shared_poll`.
    pub hmac_secret: Secret,
    /// The previous secret: signatures made with it stay valid while the secret is rotated.
    pub previous_hmac_secret: Secret,
    /// Signatures made with the previous secret after this time are refused, in seconds since 1970. 0: all are
    /// accepted.
    pub previous_hmac_secret_until: i64,
    /// The most requests for keys in flight at once, over all channels. Further ones wait.
    pub concurrency_max: usize,
}

impl Default for PollConfig {
    fn default() -> Self {
        Self {
            hmac_secret: Secret::default(),
            previous_hmac_secret: Secret::default(),
            previous_hmac_secret_until: 0,
            concurrency_max: 64,
        }
    }
}

impl PollConfig {
    pub fn check(&self, faults: &mut Faults) {
        for (key, secret) in
            [("hmac_secret", &self.hmac_secret), ("previous_hmac_secret", &self.previous_hmac_secret)]
        {
            if (1..SECRET_BYTES_MIN).contains(&secret.reveal().len()) {
                faults.add(key, format!("must be at least {SECRET_BYTES_MIN} random bytes"));
            }
        }
        if !self.previous_hmac_secret.is_empty() && self.hmac_secret.is_empty() {
            faults.add("hmac_secret", "must be set when previous_hmac_secret is");
        }
        if self.previous_hmac_secret_until != 0 && self.previous_hmac_secret.is_empty() {
            faults.add("previous_hmac_secret", "must be set when previous_hmac_secret_until is");
        }
        faults.outside("previous_hmac_secret_until", self.previous_hmac_secret_until, 0..=i64::MAX);
        faults.outside("concurrency_max", self.concurrency_max, 1..=65_536);
    }
}
