//! Fuzz targets for everything that reads bytes from the network.
//!
//! `cargo install cargo-fuzz`, then `cargo fuzz run -s none websocket_frames` (on a stable toolchain; with a nightly
//! one without `-s none`). The checks are in [`checks`], which `shared/tests/fuzz_smoke.rs` also runs briefly in every
//! test run, and in [`gateway_checks`], which `gateway/tests/fuzz_smoke.rs` runs. `seeds/` has a folder of valid inputs
//! for each target: `cargo fuzz run -s none redis fuzz/corpus/redis fuzz/seeds/redis` begins with them.

pub mod checks;
pub mod gateway_checks;
