//! Passes the release of the compiler to the code of the ceilings.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc).arg("-V").output().map(|output| output.stdout).unwrap_or_default();
    // "rustc 1.95.0 (…)" becomes "1.95": the release without its patch version.
    let version = String::from_utf8_lossy(&version);
    let release = version.split_whitespace().nth(1).unwrap_or("unknown");
    let minor = release.rsplit_once('.').map_or(release, |(minor, _)| minor);
    println!("cargo::rustc-env=COUNTED_BY={minor}");
}
