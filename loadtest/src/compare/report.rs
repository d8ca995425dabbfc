//! What came of a comparison: the JSON file, and the tables for a terminal.

use serde::{Deserialize, Serialize};

use super::figures::{CPU_PER_MILLION, FIGURES, Figure, compare};
use crate::report::text::{Group, number};
use crate::report::{Findings, Host, Report, Threshold};

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Comparison {
    pub title: String,
    /// Version of this program.
    pub version: String,
    pub started_unix: u64,
    pub cut_short: Option<String>,
    /// The load, as it was given.
    pub load: String,
    pub server_cpus: Option<String>,
    pub host: Host,
    /// The first is what the others are held against.
    pub servers: Vec<Compared>,
    pub thresholds: Vec<Threshold>,
    /// Every run, in the order in which they were made.
    pub turns: Vec<Turn>,
}

/// One server, over all rounds.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct Compared {
    pub name: String,
    pub rounds: usize,
    pub figures: Vec<Figure>,
    /// What did not go well, in all rounds together.
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub connections_failed: u64,
    pub publications_failed: u64,
    pub disconnects: u64,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
pub struct Turn {
    /// Its place among the servers.
    pub server: usize,
    pub round: u32,
    pub report: Report,
}

impl Comparison {
    /// The figures of all servers from the runs that were made.
    pub fn of(names: Vec<String>, turns: Vec<Turn>) -> Self {
        let servers = names
            .into_iter()
            .enumerate()
            .map(|(server, name)| {
                let own: Vec<&Report> =
                    turns.iter().filter(|turn| turn.server == server).map(|turn| &turn.report).collect();
                let first = turns.iter().filter(|turn| turn.server == 0).map(|turn| &turn.report);
                let first: Vec<&Report> = first.collect();
                let figures = FIGURES.iter().map(|measure| {
                    let values = |reports: &[&Report]| -> Vec<Option<f64>> {
                        reports.iter().map(|report| (measure.of)(report)).collect()
                    };
                    compare(measure, values(&own), &values(&first))
                });
                let sum = |of: fn(&Report) -> u64| own.iter().map(|report| of(report)).sum();
                Compared {
                    name,
                    rounds: own.len(),
                    figures: figures.collect(),
                    lost: sum(|report| report.deliveries.lost),
                    duplicated: sum(|report| report.deliveries.duplicated),
                    reordered: sum(|report| report.deliveries.reordered),
                    connections_failed: sum(|report| report.connections.failed),
                    publications_failed: sum(|report| report.publications.failed),
                    disconnects: sum(|report| report.connections.disconnects),
                }
            })
            .collect();
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), servers, turns, ..Self::default() }
    }

    /// Holds every server but the first against the most CPU that it may take.
    pub(super) fn check(&mut self, max_cpu_ratio: Option<f64>) {
        let Some(limit) = max_cpu_ratio else { return };
        let thresholds = self.servers.iter().skip(1).map(|server| {
            let measured = server.figure(CPU_PER_MILLION).and_then(|figure| figure.ratio);
            let measured = measured.map(|ratio| ratio.median);
            let held = measured.is_some_and(|measured| measured <= limit);
            Threshold { name: format!("max-cpu-ratio of {}", server.name), limit, measured, held }
        });
        self.thresholds = thresholds.collect();
    }
}

impl Compared {
    pub fn figure(&self, key: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.key == key)
    }

    /// What did not go well, if anything.
    fn mishaps(&self) -> Option<String> {
        let mishaps = [
            (self.lost, "lost"),
            (self.duplicated, "duplicated"),
            (self.reordered, "reordered"),
            (self.connections_failed, "connections failed"),
            (self.publications_failed, "publications failed"),
            (self.disconnects, "disconnects"),
        ];
        let told: Vec<String> = mishaps
            .into_iter()
            .filter(|(times, _)| *times > 0)
            .map(|(times, what)| format!("{} {what}", number(times as f64)))
            .collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

impl Findings for Comparison {
    fn title(&self) -> &str {
        &self.title
    }

    fn cut_short(&self) -> Option<&str> {
        self.cut_short.as_deref()
    }

    fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = FIGURES
            .iter()
            .filter_map(|measure| {
                let rows: Vec<(String, String)> = self
                    .servers
                    .iter()
                    .filter_map(|server| {
                        let figure = server.figure(measure.key)?;
                        let median = number(figure.median?);
                        let ratio = figure.ratio.map_or(String::new(), |ratio| {
                            format!("{:>8.2} ×  ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max)
                        });
                        Some((server.name.clone(), format!("{median:>10}{ratio}")))
                    })
                    .collect();
                (!rows.is_empty()).then_some(Group { heading: measure.label, rows })
            })
            .collect();
        let mishaps: Vec<(String, String)> =
            self.servers.iter().filter_map(|server| Some((server.name.clone(), server.mishaps()?))).collect();
        if !mishaps.is_empty() {
            groups.push(Group { heading: "What did not go well", rows: mishaps });
        }
        groups
    }

    fn thresholds(&self) -> &[Threshold] {
        &self.thresholds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::text::render;
    use crate::report::{Deliveries, Server};

    fn turn(server: usize, round: u32, cpu: f64, lost: u64) -> Turn {
        let report = Report {
            deliveries: Deliveries { received: 1_000, lost, ..Deliveries::default() },
            server: Some(Server { seconds_per_million: Some(cpu), ..Server::default() }),
            ..Report::default()
        };
        Turn { server, round, report }
    }

    #[test]
    fn each_server_has_its_median_and_its_ratio_and_what_went_wrong() {
        let turns = vec![turn(0, 0, 3.0, 0), turn(1, 0, 6.0, 2), turn(0, 1, 4.0, 0), turn(1, 1, 6.0, 3)];
        let mut comparison = Comparison::of(vec!["one".to_owned(), "two".to_owned()], turns);
        comparison.check(Some(1.7));
        let two = &comparison.servers[1];
        let figure = two.figure(CPU_PER_MILLION).unwrap();
        assert_eq!((figure.median, figure.ratio.unwrap().median), (Some(6.0), 1.75));
        assert_eq!((two.lost, two.rounds), (5, 2));
        assert_eq!(comparison.thresholds.len(), 1);
        assert!(!comparison.thresholds[0].held);
        let text = render(&comparison);
        assert!(text.contains("1.75 ×  (1.50 to 2.00)") && text.contains("5 lost"), "{text}");
    }
}
