//! See [`tidegate_fuzz::gateway_checks::key_set`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::key_set(data));
