//! Ids of clients in a namespace, as other clients and servers see them.
//!
//! An id contains the client's own id, so that the client can be found without a table.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::id::ClientId;

/// Length of the client's id, and of both it and the namespace's mark, in bytes.
const ID_BYTES: usize = 16;
const BYTES: usize = ID_BYTES + 2;
/// Length of an id in characters.
const CHARACTERS: usize = 24;

/// Returns the id: 24 characters of URL-safe base64.
pub fn sid(client: ClientId, namespace: &str) -> String {
    let mut bytes = [0; BYTES];
    bytes[..ID_BYTES].copy_from_slice(&client.bits().to_be_bytes());
    bytes[ID_BYTES..].copy_from_slice(&mark(namespace));
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the client with this id, if the id belongs to this namespace.
pub fn parse_sid(text: &str, namespace: &str) -> Option<ClientId> {
    if text.len() != CHARACTERS {
        return None;
    }
    let bytes: [u8; BYTES] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let (id, of) = bytes.split_first_chunk::<ID_BYTES>()?;
    (of == mark(namespace)).then(|| ClientId::from_bits(u128::from_be_bytes(*id)))
}

/// Returns a mark of the namespace (FNV-1a, folded), so that a client's ids differ between namespaces.
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
