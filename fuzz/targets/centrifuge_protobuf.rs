//! See [`tidegate_fuzz::checks::centrifuge_protobuf`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tidegate_fuzz::checks::centrifuge_protobuf(data));
