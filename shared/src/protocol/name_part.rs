//! Any text as a part of a channel's name, for protocols whose names are of other characters.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What does not stand for itself: what names are told apart by, and what patterns of names are made of.
const ENCODED: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'%')
    .add(b'#')
    .add(b'&')
    .add(b',')
    .add(b':')
    .add(b'$')
    .add(b'/')
    .add(b'*')
    .add(b'?')
    .add(b'[')
    .add(b']')
    .add(b'{')
    .add(b'}')
    .add(b'\\');

pub(in crate::protocol) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

pub(in crate::protocol) fn decode(part: &str) -> String {
    percent_decode_str(part).decode_utf8_lossy().into_owned()
}
