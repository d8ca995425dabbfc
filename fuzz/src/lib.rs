//! Fuzz targets for everything that reads bytes from the network.
//!
//! `cargo install cargo-fuzz`, then `cargo fuzz run -s none websocket_frames` (on a stable toolchain; with a nightly one
//! without `-s none`). The checks themselves are in [`checks`], which `shared/tests/fuzz_smoke.rs` also runs for a
//! moment in every test run, and [`gateway_checks`], which `gateway/tests/fuzz_smoke.rs` runs. Bytes that are read without
//! complaint are in `seeds/`, a folder for each target: `cargo fuzz run -s none redis fuzz/corpus/redis fuzz/seeds/redis`
//! begins with them.

pub mod checks;
pub mod gateway_checks;
