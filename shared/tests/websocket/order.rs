//! Messages of every size, and frames in and out of order.

use super::*;

#[test]
fn messages_of_every_size_arrive_whole() {
    for size in [0, 1, 125, 126, 127, 128, 65_535, 65_536, 1 << 20] {
        let payload: Vec<u8> = (0..size).map(|i| (i % 26) as u8 + b'a').collect();
        for (opcode, kind) in [(Opcode::Text, MessageKind::Text), (Opcode::Binary, MessageKind::Binary)] {
            assert_eq!(
                seen(&whole(opcode, &payload)),
                [Seen::Message(kind, payload.clone())],
                "{size} bytes"
            );
        }
    }
}

#[test]
fn a_message_in_fragments_is_one_message() {
    let bytes = all([
        part(Opcode::Text, b"frag"),
        part(Opcode::Continuation, b""),
        whole(Opcode::Continuation, b"ment"),
    ]);
    assert_eq!(seen(&bytes), [text("fragment")]);
}

#[test]
fn pings_and_pongs_may_come_between_fragments() {
    let bytes = all([
        part(Opcode::Text, b"a"),
        whole(Opcode::Ping, b"ping"),
        part(Opcode::Continuation, b"b"),
        whole(Opcode::Pong, b"unsolicited"),
        whole(Opcode::Continuation, b"c"),
        whole(Opcode::Text, b"d"),
    ]);
    let expected =
        [Seen::Ping(b"ping".to_vec()), Seen::Pong(b"unsolicited".to_vec()), text("abc"), text("d")];
    assert_eq!(seen(&bytes), expected);
}

#[test]
fn a_ping_holds_up_to_125_bytes() {
    assert_eq!(seen(&whole(Opcode::Ping, &[0xff; 125])), [Seen::Ping(vec![0xff; 125])]);
    assert_eq!(seen(&whole(Opcode::Ping, &[0xff; 126])), [Seen::Error(FrameError::LongControl)]);
}

#[test]
fn frames_out_of_order_are_refused() {
    for (bytes, error) in [
        (all([whole(Opcode::Continuation, b"a")]), FrameError::NothingToContinue),
        (all([part(Opcode::Continuation, b"a")]), FrameError::NothingToContinue),
        (all([part(Opcode::Text, b"a"), whole(Opcode::Text, b"b")]), FrameError::MessageNotEnded),
        (all([part(Opcode::Text, b"a"), part(Opcode::Binary, b"b")]), FrameError::MessageNotEnded),
        (all([part(Opcode::Ping, b"a")]), FrameError::FragmentedControl),
        (all([part(Opcode::Close, b"")]), FrameError::FragmentedControl),
        (all([frame(true, true, Opcode::Ping, b"")]), FrameError::ReservedBit),
        (
            all([frame(false, true, Opcode::Text, b""), frame(true, true, Opcode::Continuation, b"")]),
            FrameError::ReservedBit,
        ),
        (vec![0x81, 0x01, b'a'], FrameError::NotMasked),
    ] {
        assert_eq!(seen(&bytes), [Seen::Error(error)]);
    }
}

#[test]
fn a_message_and_the_continuation_after_it_are_told_apart() {
    let bytes =
        all([part(Opcode::Text, b"a"), whole(Opcode::Continuation, b"b"), whole(Opcode::Continuation, b"c")]);
    assert_eq!(seen(&bytes), [text("ab"), Seen::Error(FrameError::NothingToContinue)]);
}

#[test]
fn a_server_that_masks_is_refused_by_a_client() {
    let mut buffer = whole(Opcode::Text, b"a");
    let mut unread = &mut buffer[..];
    let refused =
        Assembler::new(Role::Client, false).next(&mut unread, &LIMITS, &mut Inflater::new()).unwrap_err();
    assert_eq!(refused, FrameError::Masked);
}

#[test]
fn nothing_is_heard_after_a_close_or_an_error() {
    let after_close = all([whole(Opcode::Close, b"\x03\xe8bye"), whole(Opcode::Text, b"late")]);
    assert_eq!(seen(&after_close), [Seen::Close(Some(1000), "bye".to_owned())]);
    let after_error = all([whole(Opcode::Continuation, b""), whole(Opcode::Text, b"late")]);
    assert_eq!(seen(&after_error), [Seen::Error(FrameError::NothingToContinue)]);
    let after_bad_text = all([whole(Opcode::Text, b"\xff"), whole(Opcode::Text, b"late")]);
    assert_eq!(seen(&after_bad_text), [Seen::Error(FrameError::NotUtf8)]);
}
