//! Computes how many bytes of JSON a reply takes, without writing it.

use shared::publication::{ClientInfo, PayloadKind, Publication};

/// The size of a publication in a reply beside its texts, in bytes: field names, numbers and brackets.
const PUBLICATION_BYTES: usize = 128;
/// The same for a client in a presence reply.
const CLIENT_BYTES: usize = 128;

/// Returns how many of these publications fit into `room` bytes of a reply, at least one if there is any; and their bytes.
pub fn fitting(publications: &[Publication], room: usize) -> (usize, usize) {
    let (mut count, mut bytes) = (0, 0);
    for publication in publications {
        let more = bytes + publication_bytes(publication);
        if more > room && count > 0 {
            break;
        }
        (count, bytes) = (count + 1, more);
    }
    (count, bytes)
}

/// Returns the most bytes that these publications take in a reply.
pub fn publications_bytes(publications: &[Publication]) -> usize {
    publications.iter().map(publication_bytes).sum()
}

/// Returns the most bytes that a publication takes in a reply.
pub fn publication_bytes(publication: &Publication) -> usize {
    let data = &publication.data;
    let data_bytes = match data.kind {
        PayloadKind::Json => data.bytes.len(),
        PayloadKind::Text => text_bytes(&data.bytes),
        // Base64.
        PayloadKind::Binary => data.bytes.len().div_ceil(3) * 4,
    };
    let tags: usize = publication
        .tags
        .iter()
        .map(|(key, value)| text_bytes(key.as_bytes()) + text_bytes(value.as_bytes()) + 6)
        .sum();
    let key = publication.keyed.as_ref().map_or(0, |keyed| text_bytes(keyed.key.as_bytes()));
    data_bytes + tags + key + publication.info.as_ref().map_or(0, client_bytes) + PUBLICATION_BYTES
}

/// Returns the most bytes that a client takes in a reply.
pub fn client_bytes(info: &ClientInfo) -> usize {
    let json = |json: &Option<bytes::Bytes>| json.as_ref().map_or(0, bytes::Bytes::len);
    text_bytes(info.user.as_str().as_bytes()) + json(&info.conn_info) + json(&info.chan_info) + CLIENT_BYTES
}

/// Returns the bytes of a text in a JSON string: control characters take six, other escaped ones two.
fn text_bytes(text: &[u8]) -> usize {
    let escaped = |byte: &u8| match byte {
        0..=0x1f | 0x7f => 5,
        b'"' | b'\\' => 1,
        _ => 0,
    };
    text.len() + text.iter().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use shared::id::{ClientId, UserId};
    use shared::protocol::centrifuge::json::write_publications;
    use shared::publication::{Keyed, Payload};

    use super::*;

    #[test]
    fn no_publication_takes_more_than_is_reckoned() {
        let awkward = "\u{1}\"\\é".repeat(40);
        let info = ClientInfo {
            client: ClientId::from_random(1),
            user: UserId::new(&awkward),
            conn_info: Some(Bytes::from_static(b"{}")),
            chan_info: Some(Bytes::from_static(b"[1]")),
        };
        for data in [
            Payload::json(Bytes::from_static(b"{\"a\":1}")),
            Payload::text(awkward.clone()),
            Payload::binary(Bytes::from_static(&[0; 1_000])),
        ] {
            let publication = Publication {
                info: Some(info.clone()),
                tags: [(awkward.as_str().into(), awkward.as_str().into())].into(),
                keyed: Some(Box::new(Keyed { key: awkward.as_str().into(), ..Keyed::default() })),
                ..Publication::new(data)
            };
            let mut out = BytesMut::new();
            write_publications(std::slice::from_ref(&publication), &mut out);
            assert!(out.len() <= publication_bytes(&publication), "{}", out.len());
        }
    }
}
