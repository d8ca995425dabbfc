//! The validity of text and of closes.

use super::*;

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
