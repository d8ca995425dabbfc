//! Socket ids: this protocol's form of a connection's id, two numbers divided by a point.

use crate::id::ClientId;

/// Returns the id's upper and lower half in decimal.
pub fn socket_id(client: ClientId) -> String {
    let bits = client.bits();
    format!("{}.{}", (bits >> 64) as u64, bits as u64)
}

/// Reads the form that [`socket_id`] writes. `None` for any other text.
pub fn parse_socket_id(text: &str) -> Option<ClientId> {
    let (upper, lower) = text.split_once('.')?;
    let half = |digits: &str| {
        // `str::parse` would also accept a sign.
        let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| digits.parse::<u64>().ok()).flatten()
    };
    Some(ClientId::from_bits(u128::from(half(upper)?) << 64 | u128::from(half(lower)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_two_numbers() {
        for bits in [0, 7, u128::from(u64::MAX), u128::MAX] {
            let client = ClientId::from_random(bits);
            assert_eq!(parse_socket_id(&socket_id(client)), Some(client));
        }
        assert_eq!(socket_id(ClientId::from_bits(3 << 64 | 5)), "3.5");
    }

    #[test]
    fn what_is_not_two_numbers_is_no_id() {
        for none in
            ["", ".", "1", "1.", ".1", "+1.2", "1.-2", "1.2.3", "1.2\n", "18446744073709551616.1", "a.b"]
        {
            assert_eq!(parse_socket_id(none), None, "{none:?}");
        }
    }
}
