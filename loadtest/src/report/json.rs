//! The report as a JSON file.

use std::fs;
use std::io;
use std::path::Path;

use super::Report;

pub fn write(report: &Report, path: &Path) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(report)?;
    bytes.push(b'\n');
    fs::write(path, bytes)
}
