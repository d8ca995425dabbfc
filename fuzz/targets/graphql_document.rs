//! See [`tidegate_fuzz::gateway_checks::graphql_document`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::graphql_document(data));
