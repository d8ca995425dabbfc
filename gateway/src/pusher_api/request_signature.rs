//! Verifies that a request is signed by its app: method, path and parameters in a fixed order, and the body by its MD5.

use std::collections::BTreeMap;

use subtle::ConstantTimeEq;

use super::pusher_api_error::PusherApiError;
use crate::pusher::PusherApp;

/// The most parameters of a request.
const PARAMETERS_MAX: usize = 32;
const VERSION: &str = "1.0";

/// The parameters of a request's query, by name in lower case.
#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn read(query: Option<&str>) -> Result<Self, PusherApiError> {
        let mut parameters = BTreeMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text| {
                let text = percent_encoding::percent_decode_str(text).decode_utf8();
                text.map_err(|_| PusherApiError::bad_request("a parameter is not UTF-8"))
            };
            let key = decoded(key)?.to_lowercase();
            if parameters.insert(key, decoded(value)?.into_owned()).is_some() {
                return Err(PusherApiError::bad_request("a parameter is given twice"));
            }
            if parameters.len() > PARAMETERS_MAX {
                return Err(PusherApiError::bad_request("there are too many parameters"));
            }
        }
        Ok(Self(parameters))
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Checks that the app has signed this request, and recently. `now`: seconds since 1970.
    pub(super) fn check(
        &self,
        app: &PusherApp,
        tolerance_s: u32,
        now: i64,
        (method, path): (&str, &str),
        body: &[u8],
    ) -> Result<(), PusherApiError> {
        let given =
            |key| self.get(key).ok_or_else(|| PusherApiError::unauthorized(format!("{key} is missing")));
        if given("auth_key")? != &*app.key {
            return Err(PusherApiError::unauthorized("auth_key is not the key of this app"));
        }
        if given("auth_version")? != VERSION {
            return Err(PusherApiError::unauthorized(format!("auth_version must be {VERSION}")));
        }
        let timestamp = given("auth_timestamp")?;
        let timestamp: i64 =
            timestamp.parse().map_err(|_| PusherApiError::unauthorized("auth_timestamp is not a number"))?;
        if timestamp.abs_diff(now) > u64::from(tolerance_s) {
            return Err(PusherApiError::unauthorized(format!(
                "auth_timestamp differs by more than {tolerance_s} seconds from {now}, the server's time"
            )));
        }
        if !app.terms().signer.verifies(self.signed(method, path).as_bytes(), given("auth_signature")?) {
            let signed = self.signed(method, path).replace('\n', "\\n");
            return Err(PusherApiError::unauthorized(format!(
                "auth_signature is wrong: it must be the HMAC-SHA256 in hexadecimal of \"{signed}\""
            )));
        }
        // The MD5 is compared only after the signature that covers it was verified.
        match (self.get("body_md5"), body.is_empty()) {
            (None, true) => Ok(()),
            (None, false) => Err(PusherApiError::unauthorized("body_md5 is missing")),
            (Some(md5), _) => {
                let found = format!("{:x}", md5::compute(body));
                match bool::from(found.as_bytes().ct_eq(md5.to_ascii_lowercase().as_bytes())) {
                    true => Ok(()),
                    false => Err(PusherApiError::unauthorized("body_md5 does not match the body")),
                }
            }
        }
    }

    fn signed(&self, method: &str, path: &str) -> String {
        let parameters = self.0.iter().filter(|(key, _)| *key != "auth_signature");
        let parameters: Vec<String> = parameters.map(|(key, value)| format!("{key}={value}")).collect();
        format!("{method}\n{path}\n{}", parameters.join("&"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use gateway_core::channel_names::ChannelNames;
    use http::StatusCode;

    use super::*;
    use crate::pusher::{Apps, PusherConfig, pusher_config};
    use crate::secret::Secret;

    const BODY: &[u8] = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
    const PATH: &str = "/apps/3/events";
    const NOW: i64 = 1_353_088_179;
    /// The example from the protocol's documentation.
    const QUERY: &str = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
        &body_md5=ec365a775a4cd0599faeb73354201b6f\
        &auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";

    fn app() -> Arc<PusherApp> {
        let app = pusher_config::PusherAppConfig {
            id: "3".to_owned(),
            key: "278d425bdf160c739803".to_owned(),
            secret: Secret::new("7ad3773142a6692b25b8"),
            ..pusher_config::PusherAppConfig::default()
        };
        let config = PusherConfig {
            enabled: true,
            apps: [("shop".to_owned(), app)].into(),
            ..PusherConfig::default()
        };
        Apps::new(&config, &ChannelNames::default()).unwrap().unwrap().with_id("3").unwrap()
    }

    fn check(query: &str, method: &str, path: &str, body: &[u8], now: i64) -> Result<(), StatusCode> {
        let parameters = Parameters::read(Some(query)).map_err(|refused| refused.status)?;
        parameters.check(&app(), 600, now, (method, path), body).map_err(|refused| refused.status)
    }

    #[test]
    fn the_example_of_the_documents_is_signed_right() {
        assert_eq!(check(QUERY, "POST", PATH, BODY, NOW), Ok(()));
        let in_another_order: Vec<&str> = QUERY.rsplit('&').collect();
        assert_eq!(check(&in_another_order.join("&"), "POST", PATH, BODY, NOW), Ok(()));
        let encoded = QUERY.replace("1.0", "1%2E0").replace("auth_key", "AUTH_KEY");
        assert_eq!(check(&encoded, "POST", PATH, BODY, NOW), Ok(()));
    }

    #[test]
    fn anything_else_is_not() {
        let wrong = Err(StatusCode::UNAUTHORIZED);
        assert_eq!(check(QUERY, "GET", PATH, BODY, NOW), wrong);
        assert_eq!(check(QUERY, "POST", "/apps/4/events", BODY, NOW), wrong);
        assert_eq!(check(QUERY, "POST", PATH, b"{}", NOW), wrong);
        assert_eq!(check(QUERY, "POST", PATH, b"", NOW), wrong);
        for (from, to) in [
            ("278d", "279d"),
            ("1.0", "1.1"),
            ("da45", "ea45"),
            ("&body_md5=ec365a775a4cd0599faeb73354201b6f", ""),
            ("auth_signature", "signature"),
            ("auth_timestamp=1353088179", "auth_timestamp=x"),
            ("&auth_version", "&more=1&auth_version"),
        ] {
            let query = QUERY.replace(from, to);
            assert_ne!(query, QUERY);
            assert_eq!(check(&query, "POST", PATH, BODY, NOW), wrong, "{to}");
        }
        assert_eq!(check("", "POST", PATH, BODY, NOW), wrong);
        let twice = format!("{QUERY}&auth_key=x");
        assert_eq!(check(&twice, "POST", PATH, BODY, NOW), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn a_request_is_good_for_ten_minutes_either_way() {
        for (now, good) in [(NOW - 600, true), (NOW + 600, true), (NOW - 601, false), (NOW + 601, false)] {
            assert_eq!(check(QUERY, "POST", PATH, BODY, now).is_ok(), good, "{now}");
        }
    }
}
