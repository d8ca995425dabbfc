//! Public keys as they are configured or fetched (SPKI in PEM, JWK), and the check of signatures with them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use rustls_pki_types::pem::{PemObject, SectionKind};

use super::algorithm::{Algorithm, KeyFamily};
use super::der::{Der, OBJECT_IDENTIFIER, without_zeros};

/// The most keys that one setting may hold.
const KEYS_MAX: usize = 16;

const RSA_BITS_MIN: usize = 2048;
const RSA_BITS_MAX: usize = 8192;

pub(super) const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
pub(super) const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
pub(super) const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
pub(super) const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
pub(super) const OID_P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
pub(super) const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// A key that was validated: it is long enough, and of a supported kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PublicKey {
    /// Modulus and exponent, big-endian and without zeros before them.
    Rsa {
        n: Box<[u8]>,
        e: Box<[u8]>,
    },
    /// A point, uncompressed (SEC 1 §2.3.3).
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    Ed25519(Box<[u8]>),
}

/// Why a text or the members of a JWK are no usable public key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PublicKeyError {
    #[error("contains no public key: it must be PEM that begins with -----BEGIN PUBLIC KEY-----")]
    NoPem,
    #[error(
        "contains a private key, which a gateway should not have: use the output of `openssl pkey -in KEY -pubout`"
    )]
    Private,
    #[error("contains more than {KEYS_MAX} keys")]
    TooMany,
    #[error("contains a key that cannot be read")]
    Malformed,
    #[error("contains an RSA key of {0} bits, must have {RSA_BITS_MIN} to {RSA_BITS_MAX} bits")]
    RsaBits(usize),
    #[error("contains a key on the curve P-521, which is not supported: use P-256, P-384 or Ed25519")]
    P521,
    #[error("contains a key of an unsupported kind: must be RSA, EC on P-256 or P-384, or Ed25519")]
    Kind,
    #[error("contains a key of a kind that this setting is not for")]
    OtherKind,
}

/// The members of a JWK that make up a public key (RFC 7518 §6, RFC 8037 §2).
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Members<'a> {
    pub(super) kty: &'a str,
    pub(super) crv: Option<&'a str>,
    pub(super) n: Option<&'a str>,
    pub(super) e: Option<&'a str>,
    pub(super) x: Option<&'a str>,
    pub(super) y: Option<&'a str>,
}

impl PublicKey {
    /// Parses all keys of a text.
    pub(super) fn from_pem(text: &str) -> Result<Vec<Self>, PublicKeyError> {
        let mut keys = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
            let (kind, der) = section.map_err(|_| PublicKeyError::NoPem)?;
            match kind {
                SectionKind::PublicKey if keys.len() == KEYS_MAX => return Err(PublicKeyError::TooMany),
                SectionKind::PublicKey => keys.push(Self::from_spki(&der)?),
                SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                    return Err(PublicKeyError::Private);
                }
                _ => return Err(PublicKeyError::NoPem),
            }
        }
        if keys.is_empty() { Err(PublicKeyError::NoPem) } else { Ok(keys) }
    }

    /// Parses a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7).
    fn from_spki(der: &[u8]) -> Result<Self, PublicKeyError> {
        let read = || {
            let mut info = Der(der).sequence()?;
            let mut algorithm = info.sequence()?;
            let kind = algorithm.take(OBJECT_IDENTIFIER)?;
            let key = info.bits().filter(|_| info.is_at_end())?;
            // RSA keys have a null in this place, Ed25519 keys nothing.
            Some((kind, algorithm.take(OBJECT_IDENTIFIER), key))
        };
        let (kind, curve, key) = read().ok_or(PublicKeyError::Malformed)?;
        match (kind, curve) {
            (OID_RSA, None) => {
                let mut numbers = Der(key).sequence().ok_or(PublicKeyError::Malformed)?;
                let (n, e) = (numbers.unsigned(), numbers.unsigned());
                Self::rsa(n.ok_or(PublicKeyError::Malformed)?, e.ok_or(PublicKeyError::Malformed)?)
            }
            (OID_EC, Some(OID_P256)) => Self::point(KeyFamily::P256, key),
            (OID_EC, Some(OID_P384)) => Self::point(KeyFamily::P384, key),
            (OID_EC, Some(OID_P521)) => Err(PublicKeyError::P521),
            (OID_ED25519, None) => Self::ed25519(key),
            _ => Err(PublicKeyError::Kind),
        }
    }

    pub(super) fn from_jwk(members: Members<'_>) -> Result<Self, PublicKeyError> {
        let decoded = |member: Option<&str>| {
            member.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok()).ok_or(PublicKeyError::Malformed)
        };
        match (members.kty, members.crv) {
            ("RSA", _) => Self::rsa(&decoded(members.n)?, &decoded(members.e)?),
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (family, length) =
                    if curve == "P-256" { (KeyFamily::P256, 32) } else { (KeyFamily::P384, 48) };
                let (x, y) = (decoded(members.x)?, decoded(members.y)?);
                if x.len() != length || y.len() != length {
                    return Err(PublicKeyError::Malformed);
                }
                Self::point(family, &[&[4], &x[..], &y[..]].concat())
            }
            ("EC", Some("P-521")) => Err(PublicKeyError::P521),
            ("OKP", Some("Ed25519")) => Self::ed25519(&decoded(members.x)?),
            _ => Err(PublicKeyError::Kind),
        }
    }

    fn rsa(n: &[u8], e: &[u8]) -> Result<Self, PublicKeyError> {
        let (n, e) = (without_zeros(n), without_zeros(e));
        let bits = n.len() * 8 - n.first().map_or(0, |first| first.leading_zeros() as usize);
        if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
            return Err(PublicKeyError::RsaBits(bits));
        }
        // An exponent of 1 signs nothing, and an even one is invalid.
        let is_sound = e.len() <= 4 && e != [1] && e.last().is_some_and(|last| last % 2 == 1);
        if is_sound { Ok(Self::Rsa { n: n.into(), e: e.into() }) } else { Err(PublicKeyError::Malformed) }
    }

    fn point(family: KeyFamily, point: &[u8]) -> Result<Self, PublicKeyError> {
        match (family, point.len(), point.first()) {
            (KeyFamily::P256, 65, Some(4)) => Ok(Self::P256(point.into())),
            (KeyFamily::P384, 97, Some(4)) => Ok(Self::P384(point.into())),
            _ => Err(PublicKeyError::Malformed),
        }
    }

    fn ed25519(key: &[u8]) -> Result<Self, PublicKeyError> {
        if key.len() == 32 { Ok(Self::Ed25519(key.into())) } else { Err(PublicKeyError::Malformed) }
    }

    pub(super) fn family(&self) -> KeyFamily {
        match self {
            Self::Rsa { .. } => KeyFamily::Rsa,
            Self::P256(_) => KeyFamily::P256,
            Self::P384(_) => KeyFamily::P384,
            Self::Ed25519(_) => KeyFamily::Ed25519,
        }
    }

    /// Whether this key has signed the message with this algorithm. False if the algorithm needs another kind of key.
    pub(super) fn has_signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if algorithm.family() != self.family() {
            return false;
        }
        let checked = match self {
            Self::Rsa { n, e } => match rsa_parameters(algorithm) {
                Some(parameters) => RsaPublicKeyComponents { n, e }.verify(parameters, message, signature),
                None => return false,
            },
            Self::P256(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            Self::P384(point) => {
                UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            Self::Ed25519(key) => UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature),
        };
        checked.is_ok()
    }
}

fn rsa_parameters(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}
