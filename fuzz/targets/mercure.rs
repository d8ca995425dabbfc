//! See [`tidegate_fuzz::checks::mercure`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::checks::mercure(data));
