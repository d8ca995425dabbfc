//! Authenticates callers of the API by a key, compared in constant time.

use std::borrow::Cow;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Uri};
use subtle::{Choice, ConstantTimeEq};

use super::api_config::ApiConfig;
use crate::secret::{Secret, SecretFileError};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The scheme of `Authorization: apikey KEY`.
const SCHEME: &str = "apikey";

/// The keys that grant access to the API.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    keys: Vec<Secret>,
    insecure: bool,
}

impl ApiKeys {
    pub(super) fn new(config: &ApiConfig) -> Result<Self, SecretFileError> {
        let mut keys = config.keys.clone();
        if let Some(path) = &config.keys_file {
            let file = Secret::from_file(path)?;
            keys.extend(file.reveal().lines().map(str::trim).filter(|key| !key.is_empty()).map(Secret::new));
        }
        Ok(Self { keys, insecure: config.insecure })
    }

    /// Checks a request's key. The error is for the caller: it says nothing an attacker could not find out anyway.
    pub(super) fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), &'static str> {
        if self.insecure {
            return Ok(());
        }
        if self.keys.is_empty() {
            return Err("the server API is closed: no key is configured (api.keys)");
        }
        let given = headers.get(&X_API_KEY).map(|value| value.as_bytes());
        let given = given.or_else(|| after_scheme(headers.get(AUTHORIZATION)?.as_bytes()));
        let given = given.map(Cow::Borrowed).or_else(|| in_query(uri.query()?));
        match given {
            Some(given) if self.hold(&given) => Ok(()),
            Some(_) => Err("the key is wrong"),
            None => Err("no key is given: send it in the header X-API-Key"),
        }
    }

    /// Compares every key to its end, so that the time taken reveals nothing about their bytes. Their lengths are not
    /// secret.
    fn hold(&self, given: &[u8]) -> bool {
        let held = |found: Choice, key: &Secret| found | key.reveal().as_bytes().ct_eq(given);
        self.keys.iter().fold(Choice::from(0), held).into()
    }
}

/// Returns the key in the query, which other servers of this API accept, too. Proxies may log URLs; this node does not.
fn in_query(query: &str) -> Option<Cow<'_, [u8]>> {
    let key = query.split('&').find_map(|pair| pair.strip_prefix("api_key="))?;
    Some(percent_encoding::percent_decode_str(key).into())
}

fn after_scheme(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
    let key = rest.strip_prefix(b" ")?.trim_ascii();
    scheme.eq_ignore_ascii_case(SCHEME.as_bytes()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(list: &[&str]) -> ApiKeys {
        let keys = list.iter().map(|key| Secret::new(key)).collect();
        ApiKeys::new(&ApiConfig { keys, ..ApiConfig::default() }).unwrap()
    }

    fn admit(keys: &ApiKeys, uri: &str, headers: &[(&str, &str)]) -> Result<(), &'static str> {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        keys.admit(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn any_of_the_keys_opens_in_either_header() {
        let keys = keys(&["first", "second"]);
        for headers in [
            ("X-API-Key", "first"),
            ("x-api-key", "second"),
            ("Authorization", "apikey second"),
            ("Authorization", "ApiKey  first"),
        ] {
            assert_eq!(admit(&keys, "/api/info", &[headers]), Ok(()), "{headers:?}");
        }
    }

    #[test]
    fn nothing_else_does() {
        let keys = keys(&["first"]);
        for headers in [
            ("X-API-Key", ""),
            ("X-API-Key", "firs"),
            ("X-API-Key", "first1"),
            ("X-API-Key", "First"),
            ("Authorization", "first"),
            ("Authorization", "Bearer first"),
            ("Authorization", "apikeyfirst"),
            ("Authorization", "apikey"),
            ("Authorization", ""),
        ] {
            assert!(admit(&keys, "/api/info", &[headers]).is_err(), "{headers:?}");
        }
        assert!(admit(&keys, "/api/info", &[]).is_err());
    }

    #[test]
    fn a_key_in_the_url_counts_where_there_is_none_in_a_header() {
        let keys = keys(&["first", "a+b&c"]);
        for right in ["api_key=first", "x=1&api_key=first", "api_key=a%2Bb%26c"] {
            assert_eq!(admit(&keys, &format!("/api/info?{right}"), &[]), Ok(()), "{right}");
        }
        for wrong in ["api_key=", "api_key=firs", "xapi_key=first", "API_KEY=first", "api_key=first%00"] {
            assert!(admit(&keys, &format!("/api/info?{wrong}"), &[]).is_err(), "{wrong}");
        }
        assert!(admit(&keys, "/api/info?api_key=first", &[("X-API-Key", "wrong")]).is_err());
    }

    #[test]
    fn without_keys_the_api_is_closed_unless_that_is_asked_for() {
        assert!(admit(&keys(&[]), "/api/info", &[("X-API-Key", "")]).unwrap_err().contains("closed"));
        let open = ApiKeys::new(&ApiConfig { insecure: true, ..ApiConfig::default() }).unwrap();
        assert_eq!(admit(&open, "/api/info", &[]), Ok(()));
    }

    #[test]
    fn keys_may_come_out_of_a_file() {
        let path = std::env::temp_dir().join(format!("tidegate-api-keys-{}", std::process::id()));
        std::fs::write(&path, "one\n\n  two  \n").unwrap();
        let keys =
            ApiKeys::new(&ApiConfig { keys_file: Some(path.clone()), ..ApiConfig::default() }).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(admit(&keys, "/api/info", &[("X-API-Key", "two")]), Ok(()));
        assert_eq!(keys.keys.len(), 2);
        assert!(ApiKeys::new(&ApiConfig { keys_file: Some(path), ..ApiConfig::default() }).is_err());
    }
}
