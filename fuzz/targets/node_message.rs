//! See [`tidegate_fuzz::gateway_checks::control`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::node_message(data));
