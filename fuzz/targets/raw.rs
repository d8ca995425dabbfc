//! See [`tidegate_fuzz::checks::raw`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::checks::raw(data));
