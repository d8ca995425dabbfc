//! See [`tidegate_fuzz::checks::centrifuge_uni`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::checks::centrifuge_uni(data));
