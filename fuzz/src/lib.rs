//! Fuzz targets for everything that reads bytes from the network.
//!
//! `cargo install cargo-fuzz`, then `cargo fuzz run -s none websocket_frames` (on a stable toolchain; with a nightly one
//! without `-s none`). The checks themselves are in [`checks`], which `shared/tests/fuzz_smoke.rs` also runs for a
//! moment in every test run.

pub mod checks;
