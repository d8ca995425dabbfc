//! Figures as a table in Markdown, ready to be pasted or included.

use std::fmt::Write;

use super::label;
use super::runs::Run;
use crate::report::text::number;

pub(super) fn write(runs: &[Run], keys: &[String]) -> String {
    let mut out = String::from("| load | server |");
    for key in keys {
        // Writing to a string cannot fail, here and below.
        let _ = write!(out, " {} |", label(key).unwrap_or_default());
    }
    let _ = writeln!(out, "\n| --- | --- |{}", " --- |".repeat(keys.len()));
    for run in runs {
        for server in &run.servers {
            let _ = write!(out, "| {} | {} |", run.name, server.name);
            for key in keys {
                let figure = server.figure(key);
                let median = figure.and_then(|figure| figure.median).map(number);
                let ratio =
                    figure.and_then(|figure| figure.ratio).map(|ratio| format!(" ({:.2} ×)", ratio.median));
                let _ = write!(out, " {}{} |", median.unwrap_or_default(), ratio.unwrap_or_default());
            }
            out.push('\n');
        }
    }
    out
}
