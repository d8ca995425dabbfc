//! See [`tidegate_fuzz::gateway_checks::proxy_header`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::proxy_header(data));
