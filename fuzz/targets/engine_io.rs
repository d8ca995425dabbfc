//! See [`tidegate_fuzz::checks::engine_io`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::checks::engine_io(data));
