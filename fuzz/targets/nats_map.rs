//! See [`tidegate_fuzz::gateway_checks::nats_map`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::nats_map(data));
