//! The id of a client in a namespace, as other clients and servers are told it.
//!
//! It holds the client's own id, so that whoever is named by it is found without a table.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::id::ClientId;

/// Bytes of the client's id, and of the namespace's mark behind it.
const ID_BYTES: usize = 16;
const BYTES: usize = ID_BYTES + 2;
/// Characters of an id.
const CHARACTERS: usize = 24;

/// 24 characters of base64 as it stands in URLs.
pub fn sid(client: ClientId, namespace: &str) -> String {
    let mut bytes = [0; BYTES];
    bytes[..ID_BYTES].copy_from_slice(&client.bits().to_be_bytes());
    bytes[ID_BYTES..].copy_from_slice(&mark(namespace));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The client that this is the id of, if it is one in this namespace.
pub fn parse_sid(text: &str, namespace: &str) -> Option<ClientId> {
    if text.len() != CHARACTERS {
        return None;
    }
    let bytes: [u8; BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let (id, of) = bytes.split_first_chunk::<ID_BYTES>()?;
    (of == mark(namespace)).then(|| ClientId::from_bits(u128::from_be_bytes(*id)))
}

/// The same client is somebody else in each namespace. FNV-1a, folded.
fn mark(namespace: &str) -> [u8; 2] {
    let hash = namespace
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((hash >> 16) as u16 ^ hash as u16).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_names_its_client_in_its_namespace_and_no_other() {
        let client = ClientId::from_random(u128::MAX / 7);
        let (main, admin) = (sid(client, "/"), sid(client, "/admin"));
        assert_ne!(main, admin);
        assert_eq!(main.len(), CHARACTERS);
        assert_eq!(parse_sid(&main, "/"), Some(client));
        assert_eq!(parse_sid(&admin, "/admin"), Some(client));
        assert_eq!(parse_sid(&main, "/admin"), None);
        for text in ["", "room", &main[1..], "------------------------", "not base64 of any kind"] {
            assert_eq!(parse_sid(text, "/"), None, "{text}");
        }
    }
}
