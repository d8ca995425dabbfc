//! Percent-encoding of arbitrary text as part of a channel name, for protocols whose names allow other characters.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Characters to encode: separators and other special characters of channel names, and those of name patterns.
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
