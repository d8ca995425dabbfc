//! See [`tidegate_fuzz::gateway_checks::node_message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::node_message(data));
