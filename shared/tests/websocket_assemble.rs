//! What a server makes of what clients send, in one piece and in all the pieces it may arrive in.

use bytes::BytesMut;
use proptest::prelude::*;
use shared::framing::websocket::{
    Assembler, Deflater, Event, FrameError, FrameHeader, Inflater, Limits, Opcode, Role, encode_masked,
};
use shared::framing::{Message, MessageKind};

const LIMITS: Limits = Limits { message_bytes_max: 2 << 20, frame_bytes_max: 2 << 20, fragments_max: 2000 };

#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Message(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Error(FrameError),
}

impl From<Result<Event<'_>, FrameError>> for Seen {
    fn from(event: Result<Event<'_>, FrameError>) -> Self {
        match event {
            Ok(Event::Message(Message { kind, data })) => Self::Message(kind, data.to_vec()),
            Ok(Event::Ping(data)) => Self::Ping(data.to_vec()),
            Ok(Event::Pong(data)) => Self::Pong(data.to_vec()),
            Ok(Event::Close(close)) => Self::Close(close.code, close.reason.to_owned()),
            Err(error) => Self::Error(error),
        }
    }
}

fn text(data: &str) -> Seen {
    Seen::Message(MessageKind::Text, data.as_bytes().to_vec())
}

/// One connection and everything it was heard to say.
struct Peer {
    assembler: Assembler,
    inflater: Inflater,
    limits: Limits,
    seen: Vec<Seen>,
}

impl Peer {
    fn new(limits: Limits) -> Self {
        Self {
            assembler: Assembler::new(Role::Server, true),
            inflater: Inflater::new(),
            limits,
            seen: vec![],
        }
    }

    fn says(&mut self, bytes: &[u8]) {
        let mut buffer = bytes.to_vec();
        let mut unread = &mut buffer[..];
        loop {
            match self.assembler.next(&mut unread, &self.limits, &mut self.inflater) {
                Ok(Some(event)) => self.seen.push(Ok(event).into()),
                Ok(None) => break,
                Err(error) => self.seen.push(Seen::Error(error)),
            }
        }
        assert!(unread.is_empty(), "None means that everything is used up");
    }
}

/// What is seen of bytes that arrive whole, after checking that it is the same when they arrive one by one.
fn seen(bytes: &[u8]) -> Vec<Seen> {
    let mut whole = Peer::new(LIMITS);
    whole.says(bytes);
    let mut chopped = Peer::new(LIMITS);
    bytes.iter().for_each(|byte| chopped.says(&[*byte]));
    assert_eq!(whole.seen, chopped.seen, "in one piece and octet by octet");
    whole.seen
}

fn frame(fin: bool, rsv1: bool, opcode: Opcode, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let header = FrameHeader { fin, rsv1, opcode, mask: None, length: 0 };
    encode_masked(header, payload, [0x37, 0xfa, 0x21, 0x3d], &mut out);
    out
}

fn whole(opcode: Opcode, payload: &[u8]) -> BytesMut {
    frame(true, false, opcode, payload)
}

fn part(opcode: Opcode, payload: &[u8]) -> BytesMut {
    frame(false, false, opcode, payload)
}

fn all<const N: usize>(frames: [BytesMut; N]) -> Vec<u8> {
    frames.concat()
}

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
fn a_message_that_is_whole_is_not_copied() {
    let mut buffer = whole(Opcode::Binary, b"payload");
    let range = buffer.as_ptr_range();
    let (mut assembler, mut inflater) = (Assembler::new(Role::Server, true), Inflater::new());
    let mut unread = &mut buffer[..];
    match assembler.next(&mut unread, &LIMITS, &mut inflater) {
        Ok(Some(Event::Message(message))) => assert!(range.contains(&message.data.as_ptr())),
        other => panic!("{other:?}"),
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
fn compressed_frames_are_refused_if_compression_was_not_agreed_on() {
    let mut buffer = frame(true, true, Opcode::Text, &[0x00]);
    let mut unread = &mut buffer[..];
    let refused =
        Assembler::new(Role::Server, false).next(&mut unread, &LIMITS, &mut Inflater::new()).unwrap_err();
    assert_eq!(refused, FrameError::ReservedBit);
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

#[test]
fn close_codes_are_those_that_may_be_sent() {
    for code in (1000..=1003).chain(1007..=1011).chain([3000, 3999, 4000, 4999]) {
        let bytes = whole(Opcode::Close, &u16::to_be_bytes(code));
        assert_eq!(seen(&bytes), [Seen::Close(Some(code), String::new())]);
    }
    for code in [0, 999, 1004, 1005, 1006, 1012, 1013, 1014, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        let bytes = whole(Opcode::Close, &u16::to_be_bytes(code));
        assert_eq!(seen(&bytes), [Seen::Error(FrameError::CloseCode(code))]);
    }
    assert_eq!(seen(&whole(Opcode::Close, b"")), [Seen::Close(None, String::new())]);
    assert_eq!(seen(&whole(Opcode::Close, b"\x03")), [Seen::Error(FrameError::CloseTooShort)]);
    assert_eq!(seen(&whole(Opcode::Close, b"\x03\xe8\xff")), [Seen::Error(FrameError::NotUtf8)]);
}

const NOT_UTF8: [&[u8]; 9] = [
    b"\xff",
    b"\x80",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf8\x88\x80\x80\x80",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    b"a\xe2\x82",
];

#[test]
fn text_that_is_not_utf8_is_refused() {
    for bad in NOT_UTF8 {
        assert_eq!(seen(&whole(Opcode::Text, bad)), [Seen::Error(FrameError::NotUtf8)], "{bad:x?}");
        for cut in 0..bad.len() {
            let fragments = all([part(Opcode::Text, &bad[..cut]), whole(Opcode::Continuation, &bad[cut..])]);
            assert_eq!(seen(&fragments), [Seen::Error(FrameError::NotUtf8)], "{bad:x?} cut at {cut}");
        }
        assert_eq!(seen(&whole(Opcode::Binary, bad)), [Seen::Message(MessageKind::Binary, bad.to_vec())]);
    }
}

#[test]
fn text_may_be_cut_inside_a_character() {
    let message = "κόσμε €𐍈";
    for cut in 0..message.len() {
        let (head, tail) = message.as_bytes().split_at(cut);
        assert_eq!(
            seen(&all([part(Opcode::Text, head), whole(Opcode::Continuation, tail)])),
            [text(message)]
        );
    }
}

#[test]
fn bad_text_is_refused_before_its_frame_is_whole() {
    let bytes = whole(Opcode::Text, b"good \xf4\x90 and more that never comes");
    let header = 6;
    let mut peer = Peer::new(LIMITS);
    peer.says(&bytes[..header + 6]);
    assert_eq!(peer.seen, [], "F4 alone may become a character");
    peer.says(&bytes[header + 6..header + 7]);
    assert_eq!(peer.seen, [Seen::Error(FrameError::NotUtf8)], "F4 90 may not");
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

fn deflated(payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    assert!(Deflater::new(6).deflate(payload, &mut out));
    out
}

#[test]
fn compressed_messages_arrive_inflated() {
    let message = "to be or not to be, ".repeat(50);
    let compressed = deflated(message.as_bytes());
    assert_eq!(seen(&frame(true, true, Opcode::Text, &compressed)), [text(&message)]);
    for cut in [0, 1, compressed.len() / 2, compressed.len()] {
        let (head, tail) = compressed.split_at(cut);
        let bytes = all([
            frame(false, true, Opcode::Text, head),
            whole(Opcode::Ping, b""),
            whole(Opcode::Continuation, tail),
            whole(Opcode::Text, b"not compressed"),
        ]);
        assert_eq!(seen(&bytes), [Seen::Ping(vec![]), text(&message), text("not compressed")]);
    }
}

#[test]
fn compressed_messages_are_checked_like_others() {
    let bad_text = deflated(&[0xff; 100]);
    assert_eq!(seen(&frame(true, true, Opcode::Text, &bad_text)), [Seen::Error(FrameError::NotUtf8)]);
    let cut_short = &deflated(&[b'a'; 1000])[..3];
    assert_eq!(seen(&frame(true, true, Opcode::Text, cut_short)), [Seen::Error(FrameError::NotDeflate)]);
    let bomb = deflated(&vec![0; LIMITS.message_bytes_max + 1]);
    assert!(bomb.len() < 10_000);
    assert_eq!(seen(&frame(true, true, Opcode::Binary, &bomb)), [Seen::Error(FrameError::MessageTooBig)]);
}

#[test]
fn a_message_of_the_largest_size_may_be_compressed_even_if_that_makes_it_longer() {
    // What a compressor makes of noise: stored blocks, each five bytes longer than what it holds.
    let limits = Limits { message_bytes_max: 65_536, frame_bytes_max: 65_536, fragments_max: 1 };
    let mut stored = Vec::new();
    for chunk in [7; 65_536].chunks(16_383) {
        let length = chunk.len() as u16;
        stored.push(0);
        stored.extend(length.to_le_bytes());
        stored.extend((!length).to_le_bytes());
        stored.extend(chunk);
    }
    stored.push(0);
    assert!(stored.len() > 65_536);
    let mut peer = Peer::new(limits);
    peer.says(&frame(true, true, Opcode::Binary, &stored));
    assert_eq!(peer.seen, [Seen::Message(MessageKind::Binary, vec![7; 65_536])]);
}

/// Frames as a client may send them, mostly in order.
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
