//! See [`tidegate_fuzz::gateway_checks::backend_answer`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::backend_answer(data));
