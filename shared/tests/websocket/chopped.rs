//! The same events are read however the bytes are split.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use super::*;

/// Uses the same generated values in every run.
fn config() -> Config {
    Config { cases: 400, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() }
}

/// Generates frames that a client may send, mostly in a valid order.
fn any_frame() -> impl Strategy<Value = BytesMut> {
    let opcode = prop_oneof![
        3 => Just(Opcode::Text),
        2 => Just(Opcode::Binary),
        4 => Just(Opcode::Continuation),
        2 => Just(Opcode::Ping),
        1 => Just(Opcode::Pong),
        1 => Just(Opcode::Close),
    ];
    let payload = prop_oneof![
        "[a-zé€𐍈]{0,60}".prop_map(String::into_bytes),
        "[a-z]{0,300}".prop_map(|text| deflated_or_not(text.repeat(3).as_bytes())),
        prop::collection::vec(any::<u8>(), 0..200),
    ];
    (prop::bool::weighted(0.7), prop::bool::weighted(0.2), opcode, payload)
        .prop_map(|(fin, rsv1, opcode, payload)| frame(fin || opcode.is_control(), rsv1, opcode, &payload))
}

fn deflated_or_not(payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    if Deflater::new(1).deflate(payload, &mut out) { out.to_vec() } else { payload.to_vec() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_same_is_heard_however_the_bytes_are_chopped(
        frames in prop::collection::vec(any_frame(), 1..12),
        cuts in prop::collection::vec(1usize..400, 1..40),
    ) {
        let bytes = frames.concat();
        let mut whole = Peer::new(LIMITS);
        whole.says(&bytes);
        let mut chopped = Peer::new(LIMITS);
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            chopped.says(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(&whole.seen, &chopped.seen);
        prop_assert_eq!(whole.assembler.is_idle(), chopped.assembler.is_idle());
    }

    #[test]
    fn any_bytes_at_all_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 1usize..50) {
        let mut peer = Peer::new(LIMITS);
        bytes.chunks(cut).for_each(|chunk| peer.says(chunk));
        prop_assert!(peer.assembler.held_bytes() < 4096);
    }
}
