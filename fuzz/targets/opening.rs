//! See [`tidegate_fuzz::gateway_checks::opening`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::opening(data));
