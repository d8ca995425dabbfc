//! The memory that a connection takes, and the limits on a peer.

use super::*;

#[test]
fn a_connection_costs_sixteen_bytes_while_idle() {
    assert!(size_of::<Assembler>() <= 16, "{} bytes", size_of::<Assembler>());
    let mut peer = Peer::new(LIMITS);
    for round in 0..3 {
        let message = whole(Opcode::Text, b"hello");
        peer.says(&message[..round + 1]);
        assert!(!peer.assembler.is_idle());
        peer.says(&message[round + 1..]);
        assert!(peer.assembler.is_idle());
        assert_eq!(peer.assembler.held_bytes(), 0);
    }
}

#[test]
fn a_message_that_is_whole_is_not_copied() {
    let mut buffer = whole(Opcode::Binary, b"payload");
    let range = buffer.as_ptr_range();
    let (mut assembler, mut inflater) = (Assembler::new(Role::Server, true), Inflater::new());
    let mut unread = &mut buffer[..];
    match assembler.next(&mut unread, &LIMITS, &mut inflater) {
        Ok(Some(FrameEvent::Message(message))) => assert!(range.contains(&message.data.as_ptr())),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_too_big_is_refused_by_its_header() {
    let limits = Limits { message_bytes_max: 1000, frame_bytes_max: 600, fragments_max: 3 };
    let refuses = |bytes: Vec<u8>| {
        let mut peer = Peer::new(limits);
        peer.says(&bytes);
        peer.seen
    };
    assert_eq!(
        refuses(whole(Opcode::Binary, &[0; 601])[..8].to_vec()),
        [Seen::Error(FrameError::FrameTooBig)]
    );
    let huge = vec![0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
    assert_eq!(refuses(huge), [Seen::Error(FrameError::FrameTooBig)]);
    let two = all([part(Opcode::Binary, &[0; 600]), whole(Opcode::Continuation, &[0; 401])]);
    assert_eq!(refuses(two[..608 + 8].to_vec()), [Seen::Error(FrameError::MessageTooBig)]);
    let most = all([part(Opcode::Binary, &[0; 600]), whole(Opcode::Continuation, &[0; 400])]);
    assert_eq!(refuses(most), [Seen::Message(MessageKind::Binary, vec![0; 1000])]);
}

#[test]
fn a_flood_of_tiny_fragments_is_refused() {
    let limits = Limits { fragments_max: 3, ..LIMITS };
    let mut bytes = part(Opcode::Binary, b"").to_vec();
    bytes.extend(part(Opcode::Continuation, b"").repeat(2));
    let mut peer = Peer::new(limits);
    peer.says(&bytes);
    assert_eq!(peer.seen, []);
    peer.says(&part(Opcode::Continuation, b""));
    assert_eq!(peer.seen, [Seen::Error(FrameError::TooManyFragments)]);
}

#[test]
fn a_peer_that_announces_much_and_sends_little_holds_little() {
    let mut peer = Peer::new(LIMITS);
    peer.says(&whole(Opcode::Binary, &[0; 1 << 20])[..100]);
    assert!(peer.assembler.held_bytes() < 1000, "{} bytes", peer.assembler.held_bytes());
}
