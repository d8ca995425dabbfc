//! See [`tidegate_fuzz::checks::websocket_handshake`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::checks::websocket_handshake(data));
