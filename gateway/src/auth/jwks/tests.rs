//! Tests when keys are fetched, how often, and how sets are read.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::signed_elsewhere::JWKS;
use super::*;

/// An issuer that publishes keys, or is down.
struct Issuer {
    url: String,
    set: Arc<Mutex<Option<String>>>,
    fetches: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(set: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let set = Arc::new(Mutex::new(set.map(str::to_owned)));
        let fetches = Arc::new(AtomicUsize::new(0));
        let issuer = Self { url, set: set.clone(), fetches: fetches.clone() };
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                fetches.fetch_add(1, Ordering::SeqCst);
                let read = stream.read(&mut [0; 1024]).await;
                let answer = match &*set.lock() {
                    Some(set) => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{set}", set.len()),
                    None => "HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n".to_owned(),
                };
                if read.is_ok() {
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            }
        });
        issuer
    }

    fn publishes(&self, set: Option<&str>) {
        *self.set.lock() = set.map(str::to_owned);
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    fn keys(&self) -> Arc<Jwks> {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), certificate).unwrap();
        let config = AuthConfig {
            jwks_allow_http: true,
            jwks_interval_ms: 60_000,
            jwks_timeout_ms: 20_000,
            jwks_ca_file: Some(file.path().to_owned()),
            ..AuthConfig::default()
        };
        let settings = JwksSettings::new(&self.url, &config).unwrap();
        Arc::new(Jwks::new(settings, None).unwrap())
    }
}

const INTERVAL: Duration = Duration::from_secs(60);

async fn waited(lookup: KeyLookup) {
    let KeyLookup::Wait(wait) = lookup else { panic!("nothing is waited for") };
    wait.await;
}

fn has(keys: &Arc<Jwks>, kid: &str, algorithm: Algorithm, now: Instant) -> &'static str {
    match keys.find(kid, algorithm, now) {
        KeyLookup::Found(_) => "found",
        KeyLookup::Unknown => "unknown",
        KeyLookup::Unavailable(_) => "unavailable",
        KeyLookup::Wait(_) => "wait",
    }
}

#[tokio::test]
async fn many_tokens_wait_for_one_fetch_and_what_it_did_not_bring_is_remembered() {
    let issuer = Issuer::start(Some(JWKS)).await;
    let (keys, now) = (issuer.keys(), Instant::now());
    let waiting: Vec<KeyLookup> = (0..100).map(|_| keys.find("rsa", Algorithm::RS256, now)).collect();
    for lookup in waiting {
        waited(lookup).await;
    }
    assert_eq!(issuer.fetches(), 1);
    assert_eq!(has(&keys, "rsa", Algorithm::RS256, now), "found");
    for number in 0..1_000 {
        assert_eq!(has(&keys, &format!("made up {number}"), Algorithm::RS256, now), "unknown");
    }
    assert_eq!((issuer.fetches(), keys.state.lock().waiting), (1, 0));
    // After the interval an unknown name causes a new fetch, and further tokens with unknown names wait for that one.
    let later = Instant::now() + INTERVAL;
    let (one, other) =
        (keys.find("new", Algorithm::ES256, later), keys.find("made up", Algorithm::ES256, later));
    waited(one).await;
    waited(other).await;
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn a_new_key_is_found_as_soon_as_it_is_asked_for_and_an_old_one_goes() {
    let issuer = Issuer::start(Some(r#"{"keys":[]}"#)).await;
    let (keys, now) = (issuer.keys(), Instant::now());
    assert!(keys.is_due(now) && keys.missing().is_some());
    keys.refresh(now).await;
    assert!(!keys.is_due(Instant::now()) && keys.missing().is_none());
    issuer.publishes(Some(JWKS));
    waited(keys.find("ed", Algorithm::EdDSA, Instant::now() + INTERVAL)).await;
    assert_eq!(has(&keys, "ed", Algorithm::EdDSA, Instant::now()), "found");
    issuer.publishes(Some(r#"{"keys":[]}"#));
    assert!(keys.is_due(Instant::now() + Duration::from_millis(AuthConfig::default().jwks_refresh_ms)));
    keys.refresh(Instant::now()).await;
    assert_eq!(has(&keys, "ed", Algorithm::EdDSA, Instant::now()), "unknown");
}

#[tokio::test]
async fn the_old_keys_serve_while_the_issuer_is_down_and_new_ones_are_to_come_again() {
    let issuer = Issuer::start(None).await;
    let keys = issuer.keys();
    waited(keys.find("rsa", Algorithm::RS256, Instant::now())).await;
    assert_eq!(has(&keys, "rsa", Algorithm::RS256, Instant::now()), "unavailable");
    assert!(keys.missing().unwrap().contains("503"), "{:?}", keys.missing());
    assert_eq!(issuer.fetches(), 1, "it is not asked again at once");
    issuer.publishes(Some(JWKS));
    assert!(keys.is_due(Instant::now() + INTERVAL), "sooner than if it had worked");
    keys.refresh(Instant::now() + INTERVAL).await;
    for down in [None, Some("<html>"), Some("[]"), Some(r#"{"keys":7}"#)] {
        issuer.publishes(down);
        keys.refresh(Instant::now()).await;
        assert_eq!(has(&keys, "rsa", Algorithm::RS256, Instant::now()), "found", "{down:?}");
        assert_eq!(has(&keys, "other", Algorithm::RS256, Instant::now()), "unavailable", "{down:?}");
    }
    assert_eq!(keys.missing(), None);
}

#[tokio::test]
async fn so_many_tokens_wait_and_no_more() {
    let issuer = Issuer::start(Some(JWKS)).await;
    let (keys, now) = (issuer.keys(), Instant::now());
    let mut waiting: Vec<KeyLookup> =
        (0..WAITING_MAX).map(|_| keys.find("rsa", Algorithm::RS256, now)).collect();
    assert_eq!(has(&keys, "rsa", Algorithm::RS256, now), "unavailable");
    // A lookup that was given up makes room.
    waiting.pop();
    assert_eq!(has(&keys, "rsa", Algorithm::RS256, now), "wait");
}

#[tokio::test]
async fn a_name_opens_only_what_its_key_is_for() {
    let issuer = Issuer::start(Some(JWKS)).await;
    let keys = issuer.keys();
    keys.refresh(Instant::now()).await;
    for (kid, algorithm, expected) in [
        ("rsa", Algorithm::PS512, "found"),
        ("rsa", Algorithm::ES256, "unknown"),
        ("p256", Algorithm::ES256, "found"),
        ("p256", Algorithm::ES384, "unknown"),
        ("p384", Algorithm::ES384, "found"),
        ("ed", Algorithm::EdDSA, "found"),
    ] {
        assert_eq!(has(&keys, kid, algorithm, Instant::now()), expected, "{kid} {algorithm:?}");
    }
}

#[test]
fn only_what_checks_signatures_is_taken_out_of_a_set() {
    let good: Value = serde_json::from_str(JWKS).unwrap();
    let with = |member: &str, value: Value| {
        let mut key = good["keys"][0].clone();
        key[member] = value;
        names_in(serde_json::json!({ "keys": [key] }).to_string().as_bytes()).unwrap()
    };
    assert_eq!(with("x5t", "anything".into()), ["rsa"]);
    assert_eq!(with("alg", "PS256".into()), ["rsa"]);
    for (member, value) in [
        ("use", "enc".into()),
        ("key_ops", serde_json::json!(["encrypt"])),
        ("alg", "ES256".into()),
        ("alg", "RSA-OAEP".into()),
        ("alg", "HS256".into()),
        ("kid", Value::Null),
        ("kty", "oct".into()),
        ("n", "AQAB".into()),
        ("n", "?".into()),
        ("e", "AQ".into()),
        ("e", "Ag".into()),
    ] {
        assert!(with(member, value.clone()).is_empty(), "{member} {value}");
    }
    let secret = br#"{"keys":[{"kty":"oct","kid":"a","k":"AAAA"}]}"#;
    assert!(names_in(secret).unwrap().is_empty());
    assert!(names_in(b"[]").is_err() && names_in(br#"{"keys":{}}"#).is_err());
}

#[test]
fn a_set_is_bounded() {
    let good: Value = serde_json::from_str(JWKS).unwrap();
    let named = |number: usize| {
        let mut key = good["keys"][3].clone();
        key["kid"] = number.to_string().into();
        key
    };
    let set = serde_json::json!({ "keys": (0..KEYS_MAX + 5).map(named).collect::<Vec<_>>() });
    assert_eq!(names_in(set.to_string().as_bytes()).unwrap().len(), KEYS_MAX);
}
