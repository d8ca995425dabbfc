//! Reads what was written: a comparison, or a report as a comparison of one.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::PlotError;
use crate::compare::{Compared, Comparison, Turn};
use crate::report::Report;

/// One file.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) servers: Vec<Compared>,
    /// Latency by percentile of each server that delivered something: of the round whose p99 is the median.
    pub(super) percentiles: Vec<(String, Vec<(f64, f64)>)>,
}

/// What tells a comparison from a report.
#[derive(Deserialize)]
struct Kind {
    turns: Option<serde::de::IgnoredAny>,
}

pub(super) fn read(path: &Path) -> Result<Run, PlotError> {
    let name = || path.display().to_string();
    let bytes = fs::read(path).map_err(|error| PlotError::Unreadable { path: name(), error })?;
    let wrong = |error| PlotError::Unintelligible { path: name(), error };
    let kind: Kind = serde_json::from_slice(&bytes).map_err(wrong)?;
    let comparison = if kind.turns.is_some() {
        serde_json::from_slice::<Comparison>(&bytes).map_err(wrong)?
    } else {
        let report: Report = serde_json::from_slice(&bytes).map_err(wrong)?;
        let title = report.title.clone();
        let turn = Turn { server: 0, round: 0, report };
        Comparison { title: title.clone(), ..Comparison::of(vec![title], vec![turn]) }
    };
    let percentiles = (0..comparison.servers.len())
        .filter_map(|server| {
            let own = comparison.turns.iter().filter(|turn| turn.server == server);
            let mut own: Vec<&Report> = own.map(|turn| &turn.report).collect();
            own.retain(|report| !report.deliveries.percentiles.is_empty());
            own.sort_by(|one, other| one.deliveries.latency.p99.total_cmp(&other.deliveries.latency.p99));
            let middle = own.get(own.len() / 2)?;
            Some((comparison.servers[server].name.clone(), middle.deliveries.percentiles.clone()))
        })
        .collect();
    Ok(Run { name: comparison.title, servers: comparison.servers, percentiles })
}
