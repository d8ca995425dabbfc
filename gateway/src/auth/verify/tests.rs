//! What tokens, right and wrong, come to.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::super::Algorithm;
use super::super::envelope::seal;
use super::*;
use crate::secret::Secret;

const NOW: i64 = 1_700_000_000;
const SECRET: &str = "a secret of the tests, long enough to be one";
const INVALID: Denial = Denial::Disconnect(Disconnect::INVALID_TOKEN);
const DENIED: Denial = Denial::of(ErrorCode::PermissionDenied);

/// The token of RFC 7515 appendix A.1 signs with bytes that are no text, so this one was made with `openssl dgst
/// -sha256 -hmac "a secret of the tests, long enough to be one"` over `{"alg":"HS256","typ":"JWT"}` and
/// `{"sub":"alice","exp":1700003600}`.
const BY_HAND: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.R7iKGtqeOUCc19UM3lKdRyP2u98J2ZRVzVdSqHJsVk4";

/// The same claims with the other two signatures.
const BY_HAND_384: &str = "eyJhbGciOiJIUzM4NCIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.H-xrFtRd9kK6DJi-ua10yH_ySTxROueYzTdYnWvFYgFX7Nf4smjiZu07v11c5Ybx";
const BY_HAND_512: &str = "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbGljZSIsImV4cCI6MTcwMDAwMzYwMH0.9ZHmGx8JomOASt496De5ATPdYbjUOAbjxFL7bD6qmH2nPwYW9jdh2g4O_61bbw-pXvRBLy4fv37wxsr81T8EUw";

fn with(change: impl FnOnce(&mut Config)) -> Authenticator {
    let mut config = Config { hmac_secret: Secret::new(SECRET), ..Config::default() };
    change(&mut config);
    Authenticator::new(&config, Clock::start()).unwrap()
}

fn sign(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    seal(&Secret::new(secret), algorithm, claims).unwrap()
}

fn token(claims: Value) -> String {
    sign(SECRET, Algorithm::HS256, &claims)
}

fn channel(name: &str) -> Channel {
    Channel::parse(name, 255).unwrap()
}

fn client() -> ClientId {
    ClientId::from_random(7)
}

#[test]
fn a_token_that_was_signed_by_hand_is_accepted() {
    for by_hand in [BY_HAND, BY_HAND_384, BY_HAND_512] {
        let identity = with(|_| {}).authenticate(NOW, by_hand).unwrap();
        assert_eq!(identity.user, UserId::new("alice"));
        assert!(identity.expires.is_some());
    }
}

#[test]
fn a_token_says_who_the_client_is_what_others_see_and_until_when() {
    let auth = with(|_| {});
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let claims = json!({"sub": "bob", "exp": NOW + 60, "info": {"name": "Bob"}, "jti": "x", "iat": NOW});
        let before = auth.clock.now();
        let identity = auth.authenticate(NOW, &sign(SECRET, algorithm, &claims)).unwrap();
        assert_eq!(identity.user.as_str(), "bob");
        assert_eq!(identity.info.as_deref(), Some(&br#"{"name":"Bob"}"#[..]));
        let left = identity.expires.unwrap().since(before).as_millis();
        assert!((60_000..70_000).contains(&left), "{left}");
    }
    let forever = auth.authenticate(NOW, &token(json!({"sub": ""}))).unwrap();
    assert_eq!(forever, Identity::default());
}

#[test]
fn tokens_that_were_tampered_with_are_invalid() {
    let auth = with(|_| {});
    let good = token(json!({"sub": "bob"}));
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let encoded = |json: Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let unsigned = encoded(json!({"alg": "none"}));
    let asymmetric = encoded(json!({"alg": "RS256"}));
    let other_claims = encoded(json!({"sub": "root"}));
    for bad in [
        format!("{header}.{other_claims}.{signature}"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}"),
        format!("{header}.{claims}.{signature}A"),
        format!("{unsigned}.{claims}."),
        format!("{unsigned}.{claims}.{signature}"),
        format!("{asymmetric}.{claims}.{signature}"),
        sign("another secret", Algorithm::HS256, &json!({"sub": "bob"})),
        "x".to_owned(),
        "...".to_owned(),
        "é.é.é".to_owned(),
        "a".repeat(TOKEN_BYTES_MAX + 1),
    ] {
        assert_eq!(auth.authenticate(NOW, &bad), Err(INVALID), "{bad:.80}");
    }
    assert!(auth.authenticate(NOW, &good).is_ok());
}

#[test]
fn an_algorithm_that_is_not_allowed_is_refused_though_the_signature_is_right() {
    let auth = with(|config| config.algorithms = vec![Algorithm::HS512]);
    let claims = json!({"sub": "bob"});
    assert_eq!(auth.authenticate(NOW, &sign(SECRET, Algorithm::HS256, &claims)), Err(INVALID));
    assert!(auth.authenticate(NOW, &sign(SECRET, Algorithm::HS512, &claims)).is_ok());
}

#[test]
fn claims_of_the_wrong_type_are_invalid() {
    let auth = with(|_| {});
    for claims in [json!({"sub": true}), json!({"exp": "soon"}), json!([]), json!({"b64info": "?"})] {
        assert_eq!(auth.authenticate(NOW, &token(claims.clone())), Err(INVALID), "{claims}");
    }
}

#[test]
fn an_old_token_is_told_from_an_old_connection() {
    let auth = with(|_| {});
    let refusal = |claims| auth.authenticate(NOW, &token(claims)).unwrap_err();
    assert_eq!(refusal(json!({"exp": NOW})), Denial::of(ErrorCode::TokenExpired));
    assert_eq!(refusal(json!({"nbf": NOW + 1})), Denial::of(ErrorCode::TokenExpired));
    assert_eq!(refusal(json!({"expire_at": NOW})), Denial::of(ErrorCode::Expired));
}

#[test]
fn who_comes_without_a_token_needs_a_gateway_that_allows_it() {
    let refused = Err(Denial::Disconnect(Disconnect::BAD_REQUEST));
    assert_eq!(with(|_| {}).authenticate(NOW, ""), refused);
    let open = with(|config| config.allow_anonymous = true);
    assert_eq!(open.authenticate(NOW, ""), Ok(Identity::default()));
    assert_eq!(open.authenticate(NOW, "x"), Err(INVALID));
    assert!(!open.is_insecure());
    let insecure = with(|config| config.insecure = true);
    assert_eq!(insecure.authenticate(NOW, ""), Ok(Identity::default()));
    assert_eq!(insecure.authenticate(NOW, "x"), Err(INVALID));
    assert!(insecure.is_insecure());
}

#[test]
fn without_a_secret_no_token_is_accepted() {
    let auth = with(|config| config.hmac_secret = Secret::default());
    assert_eq!(auth.authenticate(NOW, &sign("", Algorithm::HS256, &json!({"sub": "bob"}))), Err(INVALID));
    let grant = auth.authorize(NOW, client(), &channel("news"), &token(json!({"channel": "news"})));
    assert_eq!(grant, Err(DENIED));
}

#[test]
fn audience_and_issuer_are_asked_for_where_configured() {
    let any = with(|_| {});
    assert!(any.authenticate(NOW, &token(json!({"aud": "x", "iss": "y"}))).is_ok());
    let strict = with(|config| {
        config.audience = "tidegate".into();
        config.issuer = "app".into();
    });
    let accepts = |claims| strict.authenticate(NOW, &token(claims)).is_ok();
    assert!(accepts(json!({"aud": "tidegate", "iss": "app"})));
    assert!(accepts(json!({"aud": ["other", "tidegate"], "iss": "app"})));
    assert!(!accepts(json!({"aud": "other", "iss": "app"})));
    assert!(!accepts(json!({"aud": "tidegate", "iss": "other"})));
    assert!(!accepts(json!({"aud": "tidegate"})));
    assert!(!accepts(json!({"iss": "app"})));
}

#[test]
fn tokens_of_the_previous_secret_are_accepted_until_it_ends() {
    let old = sign("the old one", Algorithm::HS256, &json!({"sub": "bob"}));
    let auth = with(|config| {
        config.previous_hmac_secret = Secret::new("the old one");
        config.previous_hmac_secret_until = NOW + 10;
    });
    assert!(auth.authenticate(NOW + 9, &old).is_ok());
    assert_eq!(auth.authenticate(NOW + 10, &old), Err(INVALID));
    assert!(auth.authenticate(NOW + 10, &token(json!({"sub": "bob"}))).is_ok());
    let subscription = sign("the old one", Algorithm::HS256, &json!({"channel": "news"}));
    assert!(auth.authorize(NOW, client(), &channel("news"), &subscription).is_ok());

    let for_ever = with(|config| config.previous_hmac_secret = Secret::new("the old one"));
    assert!(for_ever.authenticate(i64::MAX, &old).is_ok());
}

#[test]
fn a_secret_may_come_out_of_a_file() {
    let directory = std::env::temp_dir().join(format!("tidegate-auth-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let config =
        |file: &std::path::Path| Config { hmac_secret_file: Some(file.to_owned()), ..Config::default() };
    let auth = Authenticator::new(&config(&path), Clock::start()).unwrap();
    assert!(auth.authenticate(NOW, &token(json!({"sub": "bob"}))).is_ok());

    std::fs::write(&path, "\n").unwrap();
    assert!(matches!(Authenticator::new(&config(&path), Clock::start()), Err(SecretFileError::Empty(_))));
    let missing = Authenticator::new(&config(&directory.join("none")), Clock::start());
    assert!(matches!(missing, Err(SecretFileError::Unreadable { .. })));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_two_kinds_of_token_do_not_stand_in_for_each_other() {
    let auth = with(|_| {});
    let subscription = token(json!({"sub": "bob", "channel": "news"}));
    let connection = token(json!({"sub": "bob"}));
    assert_eq!(auth.authenticate(NOW, &subscription), Err(INVALID));
    assert_eq!(auth.authorize(NOW, client(), &channel("news"), &connection), Err(DENIED));
}

#[test]
fn a_subscription_token_grants_its_channel_alone() {
    let auth = with(|_| {});
    let claims = json!({"sub": "bob", "channel": "$news", "info": [1], "exp": NOW + 60});
    let grant = auth.authorize(NOW, client(), &channel("$news"), &token(claims.clone())).unwrap();
    assert_eq!((grant.user.as_str(), grant.info.as_deref()), ("bob", Some(&b"[1]"[..])));
    assert!(grant.expires.is_some());
    assert_eq!(auth.authorize(NOW, client(), &channel("$new"), &token(claims)), Err(INVALID));

    let refusal = |claims| auth.authorize(NOW, client(), &channel("news"), &token(claims)).unwrap_err();
    assert_eq!(refusal(json!({"channel": "news", "exp": NOW})), Denial::of(ErrorCode::TokenExpired));
    assert_eq!(refusal(json!({"channel": "news", "expire_at": 1})), Denial::of(ErrorCode::Expired));
    assert_eq!(refusal(json!({"channel": "news", "b64info": "?"})), DENIED);
    assert_eq!(auth.authorize(NOW, client(), &channel("news"), "x"), Err(DENIED));
}

#[test]
fn a_subscription_token_for_one_client_serves_no_other() {
    let auth = with(|_| {});
    let token = token(json!({"channel": "news", "client": client().to_string()}));
    assert!(auth.authorize(NOW, client(), &channel("news"), &token).is_ok());
    assert_eq!(auth.authorize(NOW, ClientId::from_random(8), &channel("news"), &token), Err(INVALID));
}

#[test]
fn subscription_tokens_may_have_a_secret_of_their_own() {
    let auth = with(|config| config.subscription_hmac_secret = Secret::new("another"));
    let claims = json!({"channel": "news"});
    let own = sign("another", Algorithm::HS256, &claims);
    assert!(auth.authorize(NOW, client(), &channel("news"), &own).is_ok());
    assert_eq!(auth.authorize(NOW, client(), &channel("news"), &token(claims)), Err(DENIED));
    assert_eq!(auth.authenticate(NOW, &sign("another", Algorithm::HS256, &json!({}))), Err(INVALID));
    let auth = with(|config| {
        config.subscription_hmac_secret = Secret::new("another");
        config.previous_hmac_secret = Secret::new("the old one");
    });
    let old = sign("the old one", Algorithm::HS256, &json!({"channel": "news"}));
    assert_eq!(auth.authorize(NOW, client(), &channel("news"), &old), Err(DENIED), "it was for connections");
}

#[test]
fn secrets_do_not_show() {
    let auth = with(|config| config.previous_hmac_secret = Secret::new("the old one"));
    let shown = format!("{auth:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("the old one"), "{shown}");
}
