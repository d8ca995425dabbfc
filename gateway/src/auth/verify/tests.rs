//! Tests the verdicts on tokens, valid and invalid.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;

use super::super::algorithm::Algorithm;
use super::super::envelope::seal;
use super::super::sign_token::SigningKey;
use super::super::signed_elsewhere;
use super::*;
use crate::secret::{Secret, SecretFileError};

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

fn with(change: impl FnOnce(&mut AuthConfig)) -> Authenticator {
    let mut config = AuthConfig { hmac_secret: Secret::new(SECRET), ..AuthConfig::default() };
    change(&mut config);
    Authenticator::new(&config, Clock::start()).unwrap()
}

fn sign(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    seal(&SigningKey::Hmac(Secret::new(secret)), algorithm, None, claims).unwrap()
}

/// Returns the verdict, which must be available without waiting.
fn now<T>(verdict: TokenVerdict<T>) -> Result<T, Denial> {
    match verdict {
        TokenVerdict::Now(result) => result,
        TokenVerdict::Later(_) => panic!("the key is there"),
    }
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
        let identity = now(with(|_| {}).authenticate(NOW, by_hand)).unwrap();
        assert_eq!(identity.user, UserId::new("alice"));
        assert!(identity.expires.is_some());
    }
}

#[test]
fn a_token_says_who_the_client_is_what_others_see_and_until_when() {
    let auth = with(|_| {});
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let claims = json!({"sub": "bob", "exp": NOW + 60, "info": {"name": "Bob"}, "jti": "x", "iat": NOW});
        let before = auth.teller.clock.now();
        let identity = now(auth.authenticate(NOW, &sign(SECRET, algorithm, &claims))).unwrap();
        assert_eq!(identity.user.as_str(), "bob");
        assert_eq!(identity.info.as_deref(), Some(&br#"{"name":"Bob"}"#[..]));
        let left = identity.expires.unwrap().since(before).as_millis();
        assert!((60_000..70_000).contains(&left), "{left}");
    }
    let forever = now(auth.authenticate(NOW, &token(json!({"sub": ""})))).unwrap();
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
        assert_eq!(now(auth.authenticate(NOW, &bad)), Err(INVALID), "{bad:.80}");
    }
    assert!(now(auth.authenticate(NOW, &good)).is_ok());
}

#[test]
fn an_algorithm_that_is_not_allowed_is_refused_though_the_signature_is_right() {
    let auth = with(|config| config.algorithms = vec![Algorithm::HS512]);
    let claims = json!({"sub": "bob"});
    assert_eq!(now(auth.authenticate(NOW, &sign(SECRET, Algorithm::HS256, &claims))), Err(INVALID));
    assert!(now(auth.authenticate(NOW, &sign(SECRET, Algorithm::HS512, &claims))).is_ok());
}

#[test]
fn claims_of_the_wrong_type_are_invalid() {
    let auth = with(|_| {});
    for claims in [json!({"sub": true}), json!({"exp": "soon"}), json!([]), json!({"b64info": "?"})] {
        assert_eq!(now(auth.authenticate(NOW, &token(claims.clone()))), Err(INVALID), "{claims}");
    }
}

#[test]
fn an_old_token_is_told_from_an_old_connection() {
    let auth = with(|_| {});
    let refusal = |claims| now(auth.authenticate(NOW, &token(claims))).unwrap_err();
    assert_eq!(refusal(json!({"exp": NOW})), Denial::of(ErrorCode::TokenExpired));
    assert_eq!(refusal(json!({"nbf": NOW + 1})), Denial::of(ErrorCode::TokenExpired));
    assert_eq!(refusal(json!({"expire_at": NOW})), Denial::of(ErrorCode::Expired));
}

#[test]
fn who_comes_without_a_token_needs_a_gateway_that_allows_it() {
    let refused = Err(Denial::Disconnect(Disconnect::BAD_REQUEST));
    assert_eq!(now(with(|_| {}).authenticate(NOW, "")), refused);
    let open = with(|config| config.allow_anonymous = true);
    assert_eq!(now(open.authenticate(NOW, "")), Ok(Identity::default()));
    assert_eq!(now(open.authenticate(NOW, "x")), Err(INVALID));
    assert!(!open.is_insecure());
    let insecure = with(|config| config.insecure = true);
    assert_eq!(now(insecure.authenticate(NOW, "")), Ok(Identity::default()));
    assert_eq!(now(insecure.authenticate(NOW, "x")), Err(INVALID));
    assert!(insecure.is_insecure());
}

#[test]
fn without_a_secret_no_token_is_accepted() {
    let auth = with(|config| config.hmac_secret = Secret::default());
    assert_eq!(
        now(auth.authenticate(NOW, &sign("", Algorithm::HS256, &json!({"sub": "bob"})))),
        Err(INVALID)
    );
    let grant = now(auth.authorize(NOW, client(), &channel("news"), &token(json!({"channel": "news"}))));
    assert_eq!(grant, Err(DENIED));
}

#[test]
fn audience_and_issuer_are_asked_for_where_configured() {
    let any = with(|_| {});
    assert!(now(any.authenticate(NOW, &token(json!({"aud": "x", "iss": "y"})))).is_ok());
    let strict = with(|config| {
        config.audience = "tidegate".into();
        config.issuer = "app".into();
    });
    let accepts = |claims| now(strict.authenticate(NOW, &token(claims))).is_ok();
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
    assert!(now(auth.authenticate(NOW + 9, &old)).is_ok());
    assert_eq!(now(auth.authenticate(NOW + 10, &old)), Err(INVALID));
    assert!(now(auth.authenticate(NOW + 10, &token(json!({"sub": "bob"})))).is_ok());
    let subscription = sign("the old one", Algorithm::HS256, &json!({"channel": "news"}));
    assert!(now(auth.authorize(NOW, client(), &channel("news"), &subscription)).is_ok());

    let for_ever = with(|config| config.previous_hmac_secret = Secret::new("the old one"));
    assert!(now(for_ever.authenticate(i64::MAX, &old)).is_ok());
}

#[test]
fn a_secret_may_come_out_of_a_file() {
    let directory = std::env::temp_dir().join(format!("tidegate-auth-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    let config = |file: &std::path::Path| AuthConfig {
        hmac_secret_file: Some(file.to_owned()),
        ..AuthConfig::default()
    };
    let auth = Authenticator::new(&config(&path), Clock::start()).unwrap();
    assert!(now(auth.authenticate(NOW, &token(json!({"sub": "bob"})))).is_ok());

    std::fs::write(&path, "\n").unwrap();
    assert!(matches!(
        Authenticator::new(&config(&path), Clock::start()),
        Err(KeyError::File(SecretFileError::Empty(_)))
    ));
    let missing = Authenticator::new(&config(&directory.join("none")), Clock::start());
    assert!(matches!(missing, Err(KeyError::File(SecretFileError::Unreadable { .. }))));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn the_two_kinds_of_token_do_not_stand_in_for_each_other() {
    let auth = with(|_| {});
    let subscription = token(json!({"sub": "bob", "channel": "news"}));
    let connection = token(json!({"sub": "bob"}));
    assert_eq!(now(auth.authenticate(NOW, &subscription)), Err(INVALID));
    assert_eq!(now(auth.authorize(NOW, client(), &channel("news"), &connection)), Err(DENIED));
}

#[test]
fn a_subscription_token_grants_its_channel_alone() {
    let auth = with(|_| {});
    let claims = json!({"sub": "bob", "channel": "$news", "info": [1], "exp": NOW + 60});
    let grant = now(auth.authorize(NOW, client(), &channel("$news"), &token(claims.clone()))).unwrap();
    assert_eq!((grant.user.as_str(), grant.info.as_deref()), ("bob", Some(&b"[1]"[..])));
    assert!(grant.expires.is_some());
    assert_eq!(now(auth.authorize(NOW, client(), &channel("$new"), &token(claims))), Err(INVALID));

    let refusal = |claims| now(auth.authorize(NOW, client(), &channel("news"), &token(claims))).unwrap_err();
    assert_eq!(refusal(json!({"channel": "news", "exp": NOW})), Denial::of(ErrorCode::TokenExpired));
    assert_eq!(refusal(json!({"channel": "news", "expire_at": 1})), Denial::of(ErrorCode::Expired));
    assert_eq!(refusal(json!({"channel": "news", "b64info": "?"})), DENIED);
    assert_eq!(now(auth.authorize(NOW, client(), &channel("news"), "x")), Err(DENIED));
}

#[test]
fn a_subscription_token_for_one_client_serves_no_other() {
    let auth = with(|_| {});
    let token = token(json!({"channel": "news", "client": client().to_string()}));
    assert!(now(auth.authorize(NOW, client(), &channel("news"), &token)).is_ok());
    assert_eq!(now(auth.authorize(NOW, ClientId::from_random(8), &channel("news"), &token)), Err(INVALID));
}

#[test]
fn subscription_tokens_may_have_a_secret_of_their_own() {
    let auth = with(|config| config.subscription_hmac_secret = Secret::new("another"));
    let claims = json!({"channel": "news"});
    let own = sign("another", Algorithm::HS256, &claims);
    assert!(now(auth.authorize(NOW, client(), &channel("news"), &own)).is_ok());
    assert_eq!(now(auth.authorize(NOW, client(), &channel("news"), &token(claims))), Err(DENIED));
    assert_eq!(now(auth.authenticate(NOW, &sign("another", Algorithm::HS256, &json!({})))), Err(INVALID));
    let auth = with(|config| {
        config.subscription_hmac_secret = Secret::new("another");
        config.previous_hmac_secret = Secret::new("the old one");
    });
    let old = sign("the old one", Algorithm::HS256, &json!({"channel": "news"}));
    assert_eq!(
        now(auth.authorize(NOW, client(), &channel("news"), &old)),
        Err(DENIED),
        "it was for connections"
    );
}

#[test]
fn secrets_do_not_show() {
    let auth = with(|config| config.previous_hmac_secret = Secret::new("the old one"));
    let shown = format!("{auth:?}");
    assert!(!shown.contains(SECRET) && !shown.contains("the old one"), "{shown}");
}

#[test]
fn tokens_that_openssl_signed_are_accepted_by_their_keys_alone() {
    for (algorithm, key, token) in signed_elsewhere::SIGNED {
        let keys = |config: &mut AuthConfig, pem: &str| match algorithm.name() {
            "ES256" | "ES384" => config.ecdsa_public_key = pem.into(),
            "EdDSA" => config.ed25519_public_key = pem.into(),
            _ => config.rsa_public_key = pem.into(),
        };
        let auth = with(|config| keys(config, key));
        assert_eq!(now(auth.authenticate(NOW, token)).unwrap().user.as_str(), "alice", "{algorithm:?}");
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let changed = format!("{}.{signature}", signed.replace("eyJzdWIi", "eyJzdWJi"));
        assert_eq!(now(auth.authenticate(NOW, &changed)), Err(INVALID), "{algorithm:?}");
        assert_eq!(now(with(|_| {}).authenticate(NOW, token)), Err(INVALID), "{algorithm:?} without its key");
        let narrow = with(|config| {
            keys(config, key);
            config.algorithms.retain(|accepted| *accepted != algorithm);
        });
        assert_eq!(now(narrow.authenticate(NOW, token)), Err(INVALID), "{algorithm:?} is not accepted");
        let pair = [&signed_elsewhere::P256, &signed_elsewhere::P384].map(|pem| pem.to_string()).concat();
        if algorithm.name().starts_with("ES") {
            let both = with(|config| keys(config, &pair));
            assert!(now(both.authenticate(NOW, token)).is_ok(), "{algorithm:?} among other keys");
        }
    }
}

#[test]
fn no_algorithm_is_taken_for_another_of_the_same_key() {
    use super::super::public_key::PublicKey;
    for (algorithm, key, token) in signed_elsewhere::SIGNED {
        let key = PublicKey::from_pem(key).unwrap().remove(0);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for other in Algorithm::ALL {
            let is_right = key.has_signed(other, signed.as_bytes(), &signature);
            assert_eq!(is_right, other == algorithm, "{algorithm:?} as {other:?}");
        }
    }
}

#[test]
fn a_public_key_is_no_secret() {
    // An attacker has the public key and uses it as if it were a shared secret.
    let auth = with(|config| {
        config.hmac_secret = Secret::default();
        config.rsa_public_key = signed_elsewhere::RSA.into();
    });
    let forged = sign(signed_elsewhere::RSA, Algorithm::HS256, &json!({"sub": "root"}));
    assert_eq!(now(auth.authenticate(NOW, &forged)), Err(INVALID));
}

#[test]
fn keys_that_are_none_are_refused_as_they_are_configured() {
    use super::super::public_key::{PublicKey, PublicKeyError};
    let error = |pem: &str| PublicKey::from_pem(pem).unwrap_err();
    assert_eq!(error(signed_elsewhere::RSA_1024), PublicKeyError::RsaBits(1024));
    assert_eq!(error(signed_elsewhere::P521), PublicKeyError::P521);
    assert_eq!(error("not PEM"), PublicKeyError::NoPem);
    let private = rcgen::KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(error(&private), PublicKeyError::Private);
    assert_eq!(error(&signed_elsewhere::ED25519.repeat(17)), PublicKeyError::TooMany);
    let es512 = now(with(|_| {}).authenticate(NOW, signed_elsewhere::ES512));
    assert_eq!(es512, Err(INVALID));
}

#[test]
fn public_keys_before_the_present_ones_are_accepted_until_they_end() {
    let (_, _, old) = signed_elsewhere::SIGNED[0];
    let auth = with(|config| {
        config.previous_public_keys = signed_elsewhere::RSA.into();
        config.previous_public_keys_until = NOW + 10;
    });
    assert!(now(auth.authenticate(NOW + 9, old)).is_ok());
    assert_eq!(now(auth.authenticate(NOW + 10, old)), Err(INVALID));
}

#[test]
fn subscription_tokens_with_keys_of_their_own_have_previous_ones_too() {
    let auth = with(|config| {
        config.subscription_hmac_secret = Secret::new("another");
        config.subscription_previous_hmac_secret = Secret::new("the one before it");
        config.subscription_previous_hmac_secret_until = NOW + 10;
    });
    let old = sign("the one before it", Algorithm::HS256, &json!({"channel": "news"}));
    assert!(now(auth.authorize(NOW, client(), &channel("news"), &old)).is_ok());
    assert_eq!(now(auth.authorize(NOW + 10, client(), &channel("news"), &old)), Err(DENIED));
    assert_eq!(now(auth.authenticate(NOW, &old)), Err(INVALID));
}

#[test]
fn audience_and_issuer_may_be_patterns() {
    let auth = with(|config| {
        config.audience_pattern = "tidegate-*".into();
        config.issuer_pattern = "https://*.example.org/".into();
    });
    let accepts =
        |aud: Value, iss: &str| now(auth.authenticate(NOW, &token(json!({"aud": aud, "iss": iss})))).is_ok();
    assert!(accepts(json!("tidegate-eu"), "https://eu.example.org/"));
    assert!(accepts(json!(["other", "tidegate-"]), "https://eu.example.org/"));
    assert!(!accepts(json!("tidegate"), "https://eu.example.org/"));
    assert!(!accepts(json!("tidegate-eu"), "https://example.org/"));
    assert_eq!(now(auth.authenticate(NOW, &token(json!({})))), Err(INVALID));
}

#[test]
fn a_token_gives_subscriptions_capabilities_and_what_servers_are_told() {
    use gateway_core::effect::{Matching, Overrides, Rights};
    let auth = with(|config| config.user_id_claim = "user".into());
    let claims = json!({
        "sub": "not this one", "user": 42, "channels": ["ignored"], "meta": {"role": "editor"},
        "subs": {"news": {"info": 1, "override": {"presence": {"value": true}}}},
        "caps": [{"channels": ["chat:*"], "match": "wildcard", "allow": ["sub", "pub"]}],
        "data": {"of": "subscription tokens alone"},
    });
    let identity = now(auth.authenticate(NOW, &token(claims))).unwrap();
    assert_eq!(identity.user.as_str(), "42");
    assert_eq!(identity.meta.as_deref(), Some(&br#"{"role":"editor"}"#[..]));
    assert_eq!(identity.data, None);
    let [sub] = &identity.subs[..] else { panic!("{:?}", identity.subs) };
    assert_eq!((&*sub.channel, sub.info.as_deref()), ("news", Some(&b"1"[..])));
    assert_eq!(sub.overrides, Overrides { presence: Some(true), ..Overrides::default() });
    let [capability] = &identity.caps[..] else { panic!("{:?}", identity.caps) };
    assert_eq!(capability.matching, Matching::Wildcard);
    assert_eq!(capability.allow, Rights { subscribe: true, publish: true, ..Rights::default() });

    let claims = json!({"channel": "news", "data": [1], "allow": ["hst"], "override": {"force_recovery": {"value": true}}});
    let grant = now(auth.authorize(NOW, client(), &channel("news"), &token(claims))).unwrap();
    assert_eq!(grant.data.as_deref(), Some(&b"[1]"[..]));
    assert_eq!(grant.allow, Rights { history: true, ..Rights::default() });
    assert_eq!(grant.overrides.force_recovery, Some(true));
    for ill in
        [json!({"meta": 1}), json!({"caps": [{"match": "regex"}]}), json!({"subs": {"a": {"b64info": "?"}}})]
    {
        assert_eq!(now(auth.authenticate(NOW, &token(ill.clone()))), Err(INVALID), "{ill}");
    }
    let ill = token(json!({"channel": "news", "allow": ["everything"]}));
    assert_eq!(now(auth.authorize(NOW, client(), &channel("news"), &ill)), Err(DENIED));
}

#[test]
fn keys_are_exchanged_while_it_runs_and_a_faulty_configuration_changes_nothing() {
    let auth = with(|_| {});
    let (old, new) =
        (token(json!({"sub": "bob"})), sign("another", Algorithm::HS256, &json!({"sub": "bob"})));
    assert!(now(auth.authenticate(NOW, &old)).is_ok() && now(auth.authenticate(NOW, &new)).is_err());
    let config =
        AuthConfig { hmac_secret: Secret::new("another"), allow_anonymous: true, ..AuthConfig::default() };
    auth.go_by(auth.read(&config).unwrap());
    assert!(now(auth.authenticate(NOW, &old)).is_err() && now(auth.authenticate(NOW, &new)).is_ok());
    assert!(now(auth.authenticate(NOW, "")).is_ok());
    let faulty = AuthConfig { rsa_public_key: "no PEM".into(), ..AuthConfig::default() };
    assert!(matches!(auth.read(&faulty), Err(KeyError::PublicKey { setting: "rsa_public_key", .. })));
    assert!(now(auth.authenticate(NOW, &new)).is_ok());
}

#[tokio::test]
async fn a_file_with_another_secret_is_read_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), SECRET).unwrap();
    let auth = Arc::new(with(|config| {
        config.hmac_secret = Secret::default();
        config.hmac_secret_file = Some(file.path().to_owned());
    }));
    let old = token(json!({"sub": "bob"}));
    let mut reminder = Reminder::default();
    std::fs::write(file.path(), "").unwrap();
    auth.read_again(&mut reminder).await;
    assert!(now(auth.authenticate(NOW, &old)).is_ok(), "an empty file is no secret");
    std::fs::write(file.path(), "another").unwrap();
    auth.read_again(&mut reminder).await;
    assert_eq!(now(auth.authenticate(NOW, &old)), Err(INVALID));
    assert!(now(auth.authenticate(NOW, &sign("another", Algorithm::HS256, &json!({})))).is_ok());
}

#[test]
fn what_came_of_tokens_is_counted_by_reason() {
    let metrics = Arc::new(Metrics::new());
    let config = AuthConfig { hmac_secret: Secret::new(SECRET), ..AuthConfig::default() };
    let auth = Authenticator::counted_by(&config, Clock::start(), Some(metrics.clone())).unwrap();
    let _ = now(auth.authenticate(NOW, &token(json!({}))));
    let _ = now(auth.authenticate(NOW, &token(json!({"exp": 1}))));
    let _ = now(auth.authenticate(NOW, &sign("another", Algorithm::HS256, &json!({}))));
    let _ = now(auth.authenticate(NOW, ""));
    let _ = now(auth.authorize(NOW, client(), &channel("news"), &token(json!({"channel": "other"}))));
    let shown = String::from_utf8(metrics.render().unwrap()).unwrap();
    for (kind, result) in [
        ("connection", "accepted"),
        ("connection", "expired"),
        ("connection", "signature"),
        ("connection", "missing"),
        ("subscription", "misplaced"),
    ] {
        let line = format!("tidegate_tokens_total{{kind=\"{kind}\",result=\"{result}\"}} 1");
        assert!(shown.contains(&line), "{line} is not in:\n{shown}");
    }
}
