//! Secret texts of the configuration, which are never shown: not in logs, not by `check`, not in errors.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use crate::setting::trimmed;

/// The text that is shown in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// The longest secret file that is read, in bytes.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Why a secret cannot be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("the secret file {} cannot be read: {error}", .path.display())]
    Unreadable { path: PathBuf, error: std::io::Error },
    #[error("the secret file {} is empty", .0.display())]
    Empty(PathBuf),
    #[error("the secret file {} is longer than {SECRET_FILE_BYTES_MAX} bytes", .0.display())]
    TooLong(PathBuf),
}

/// A secret text. Only [`Secret::reveal`] exposes it, so every use of the real value can be found.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// Reads the text of a file, without white space and a byte order mark around it: editors add both.
    pub fn from_file(path: &Path) -> Result<Self, SecretFileError> {
        let unreadable = |error| SecretFileError::Unreadable { path: path.to_owned(), error };
        if std::fs::metadata(path).map_err(unreadable)?.len() > SECRET_FILE_BYTES_MAX {
            return Err(SecretFileError::TooLong(path.to_owned()));
        }
        match trimmed(&std::fs::read_to_string(path).map_err(unreadable)?) {
            "" => Err(SecretFileError::Empty(path.to_owned())),
            secret => Ok(Self::new(secret)),
        }
    }

    /// Reads the first of several secrets in a file, one a line.
    pub fn first_of_file(path: &Path) -> Result<Self, SecretFileError> {
        let all = Self::from_file(path)?;
        // The text is not empty and trimmed at both ends, so its first line is not empty.
        Ok(Self::new(all.reveal().lines().next().unwrap_or_default().trim_end()))
    }

    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "[empty]" } else { REDACTED })
    }
}

thread_local! {
    static TELLS_APART: Cell<bool> = const { Cell::new(false) };
}

/// Runs `write` such that secrets are serialized as marks, which only tell whether two secrets are equal. The result is
/// to be compared and thrown away.
pub(crate) fn distinguishing<T>(write: impl FnOnce() -> T) -> T {
    TELLS_APART.set(true);
    let written = write();
    TELLS_APART.set(false);
    written
}

/// Returns the mark of a secret inside [`distinguishing`], and `None` at any other time. The key of the hash is random
/// for each process.
fn mark_of(text: &str) -> Option<String> {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    TELLS_APART.get().then(|| format!("{:016x}", KEY.hash_one(text)))
}

/// Serializes the visible form of a secret.
pub(crate) fn serialize_shown<S: Serializer>(
    secret: &str,
    shown: &(impl fmt::Display + ?Sized),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match mark_of(secret) {
        Some(mark) => serializer.serialize_str(&mark),
        None => serializer.collect_str(shown),
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_shown(&self.0, if self.is_empty() { "" } else { REDACTED }, serializer)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SecretVisitor)
    }
}

struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
        Ok(Secret::new(text))
    }

    // A secret of digits without quotes is a number in TOML. serde's own error would repeat it.
    fn visit_i64<E: Error>(self, _: i64) -> Result<Secret, E> {
        Err(E::custom("must be text: put it in quotes"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Secret, E> {
        Err(E::custom("must be text: put it in quotes"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Secret, E> {
        Err(E::custom("must be text: put it in quotes"))
    }
}

#[cfg(test)]
mod tests {
    use serde::de::IntoDeserializer;
    use serde::de::value::U64Deserializer;

    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[redacted]\"");
        let number: U64Deserializer<serde::de::value::Error> = 123_456_u64.into_deserializer();
        let fault = Secret::deserialize(number).unwrap_err().to_string();
        assert!(!fault.contains("123456"), "{fault}");
    }

    #[test]
    fn the_first_of_a_files_secrets_is_its_first_line_that_holds_anything() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}\n\n  first \r\nsecond\n").unwrap();
        assert_eq!(Secret::first_of_file(file.path()).unwrap().reveal(), "first");
        std::fs::write(file.path(), "\n").unwrap();
        assert!(matches!(Secret::first_of_file(file.path()), Err(SecretFileError::Empty(_))));
    }
}
