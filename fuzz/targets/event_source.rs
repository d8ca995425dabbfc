//! See [`tidegate_fuzz::checks::event_source`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::checks::event_source(data));
