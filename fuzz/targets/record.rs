//! See [`tidegate_fuzz::checks::record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::checks::record(data));
