//! See [`tidegate_fuzz::gateway_checks::nats_ledger`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::gateway_checks::nats_ledger(data));
