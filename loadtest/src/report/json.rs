//! A report as a JSON file.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

pub fn write(report: &impl Serialize, path: &Path) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(report)?;
    bytes.push(b'\n');
    fs::write(path, bytes)
}
