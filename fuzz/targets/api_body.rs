//! See [`tidegate_fuzz::gateway_checks::api_body`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::api_body(data));
