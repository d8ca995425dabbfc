//! Keys that `tidegate token` signs with. A gateway that serves has no signing key but shared secrets.

use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RsaEncoding, RsaKeyPair};
use ring::{hmac, rsa};
use rustls_pki_types::pem::{PemObject, SectionKind};

use super::algorithm::{Algorithm, KeyFamily};
use super::der::{Der, OBJECT_IDENTIFIER};
use super::public_key::{OID_EC, OID_ED25519, OID_P256, OID_P384, OID_RSA};
use super::token_keys::hmac_algorithm;
use crate::secret::Secret;

pub(super) enum SigningKey {
    Hmac(Secret),
    Rsa(Box<RsaKeyPair>),
    Ecdsa(KeyFamily, Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// Why a token cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error(
        "the private key must be PEM that begins with -----BEGIN PRIVATE KEY-----, as `openssl genpkey` and `openssl pkcs8 -topk8 -nocrypt` write it"
    )]
    NoPem,
    #[error("the private key cannot be used: {0}")]
    Rejected(String),
    #[error("the private key is of an unsupported kind: must be RSA, EC on P-256 or P-384, or Ed25519")]
    Kind,
    #[error("{algorithm} does not fit this key, which can sign with {fitting}")]
    Algorithm { algorithm: &'static str, fitting: String },
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("the system provides no random numbers")]
    Random,
}

impl SigningKey {
    pub(super) fn from_pem(pem: &Secret) -> Result<Self, SignError> {
        let (kind, der) = <(SectionKind, Vec<u8>)>::from_pem_slice(pem.reveal().as_bytes())
            .map_err(|_| SignError::NoPem)?;
        let rejected = |error: ring::error::KeyRejected| SignError::Rejected(error.to_string());
        let rsa = |key: Result<RsaKeyPair, _>| Ok(Self::Rsa(Box::new(key.map_err(rejected)?)));
        match kind {
            SectionKind::RsaPrivateKey => return rsa(rsa::KeyPair::from_der(&der)),
            SectionKind::PrivateKey => {}
            _ => return Err(SignError::NoPem),
        }
        let (kind, curve) = kind_of(&der).ok_or(SignError::NoPem)?;
        let ecdsa = |family, algorithm: &'static EcdsaSigningAlgorithm| {
            let key = EcdsaKeyPair::from_pkcs8(algorithm, &der, &SystemRandom::new()).map_err(rejected)?;
            Ok(Self::Ecdsa(family, Box::new(key)))
        };
        match (kind, curve) {
            (OID_RSA, None) => rsa(RsaKeyPair::from_pkcs8(&der)),
            (OID_EC, Some(OID_P256)) => ecdsa(KeyFamily::P256, &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            (OID_EC, Some(OID_P384)) => ecdsa(KeyFamily::P384, &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            // A key without its public half is accepted, too: openssl does not write that half.
            (OID_ED25519, None) => {
                let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(rejected)?;
                Ok(Self::Ed25519(Box::new(key)))
            }
            _ => Err(SignError::Kind),
        }
    }

    fn family(&self) -> KeyFamily {
        match self {
            Self::Hmac(_) => KeyFamily::Hmac,
            Self::Rsa(_) => KeyFamily::Rsa,
            Self::Ecdsa(family, _) => *family,
            Self::Ed25519(_) => KeyFamily::Ed25519,
        }
    }

    /// Returns the first of the accepted algorithms that fits this key, or else the first of all that fits.
    pub(super) fn algorithm(&self, accepted: &[Algorithm]) -> Algorithm {
        let fits = |algorithm: &Algorithm| algorithm.family() == self.family();
        let any = || Algorithm::ALL.into_iter().find(fits).unwrap_or(Algorithm::HS256);
        accepted.iter().copied().find(fits).unwrap_or_else(any)
    }

    pub(super) fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if algorithm.family() != self.family() {
            let fitting = Algorithm::ALL.into_iter().filter(|one| one.family() == self.family());
            let fitting = fitting.map(Algorithm::name).collect::<Vec<_>>().join(", ");
            return Err(SignError::Algorithm { algorithm: algorithm.name(), fitting });
        }
        let random = SystemRandom::new();
        match self {
            Self::Hmac(secret) => {
                let key = hmac::Key::new(hmac_algorithm(algorithm), secret.reveal().as_bytes());
                Ok(hmac::sign(&key, message).as_ref().to_vec())
            }
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(padding(algorithm), &random, message, &mut signature)
                    .map_err(|_| SignError::Random)?;
                Ok(signature)
            }
            Self::Ecdsa(_, key) => {
                Ok(key.sign(&random, message).map_err(|_| SignError::Random)?.as_ref().to_vec())
            }
            Self::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.family())
    }
}

/// Returns the kind of a PKCS #8 key, and its curve (RFC 5208 §5).
fn kind_of(der: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let mut key = Der(der).sequence()?;
    key.unsigned().or(Some(&[]))?;
    let mut algorithm = key.sequence()?;
    Some((algorithm.take(OBJECT_IDENTIFIER)?, algorithm.take(OBJECT_IDENTIFIER)))
}

fn padding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_SHA512,
        _ => &signature::RSA_PKCS1_SHA256,
    }
}
