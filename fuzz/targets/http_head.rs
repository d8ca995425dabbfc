//! See [`tidegate_fuzz::gateway_checks::http_head`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::http_head(data));
