//! What one Redis and one node did.

use serde::{Deserialize, Serialize};

use crate::report::text::{latency, number};
use crate::report::{Findings, Group, Latency};

#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct RedisFindings {
    pub payload_bytes: usize,
    /// Of the parts that measure latency.
    pub rate_per_second: f64,
    /// Every part of every turn, as it was measured.
    pub rows: Vec<PartFigures>,
    /// What came to the node through Redis, over what its clients were to have.
    pub received_over_needed: Option<f64>,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default)]
pub struct PartFigures {
    pub part: Part,
    pub published: u64,
    /// Refused, or not arrived where somebody read.
    pub failed: u64,
    /// Publications a second: until the last one had arrived, or was answered.
    pub per_second: f64,
    /// CPU for each publication.
    pub node_micros: f64,
    pub redis_micros: f64,
    pub latency: Option<Latency>,
}

#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Pipelined PUBLISH to one who reads: a bare connection, or the node with a client.
    #[default]
    LinkBare,
    LinkNode,
    /// Publishing what nobody reads: PUBLISH, and the node's API.
    PublishBare,
    ApiSingle,
    ApiBatch,
    ApiSingleKept,
    ApiBatchKept,
    /// From when it was due until it was read: PUBLISH to a bare connection, PUBLISH to the node's client, the node's API
    /// to its own client.
    LatencyBare,
    LatencyNode,
    LatencyApi,
}

impl Part {
    pub fn describe(self) -> &'static str {
        match self {
            Self::LinkBare => "bare link",
            Self::LinkNode => "node's link",
            Self::PublishBare => "PUBLISH",
            Self::ApiSingle => "API, one a request",
            Self::ApiBatch => "API, batches",
            Self::ApiSingleKept => "API, one a request, with history",
            Self::ApiBatchKept => "API, batches, with history",
            Self::LatencyBare => "PUBLISH to a bare link",
            Self::LatencyNode => "PUBLISH to a client",
            Self::LatencyApi => "API to a client",
        }
    }
}

impl RedisFindings {
    /// What the node took from its link, over what a bare connection took: the median turn.
    pub fn link_ratio(&self) -> Option<f64> {
        self.ratio(Part::LinkNode, Part::LinkBare, |row| row.per_second)
    }

    /// Publications a second in batches, without history: the median turn.
    pub fn api_per_second(&self) -> Option<f64> {
        median(self.of(Part::ApiBatch).map(|row| row.per_second))
    }

    /// By how much a client has a publication later than a bare connection, at p99: the median turn.
    pub fn later_p99_ms(&self) -> Option<f64> {
        let p99 = |part| self.of(part).filter_map(|row| Some(row.latency?.p99));
        median(p99(Part::LatencyApi).zip(p99(Part::LatencyBare)).map(|(api, bare)| api - bare))
    }

    pub fn failed(&self) -> u64 {
        self.rows.iter().map(|row| row.failed).sum()
    }

    fn of(&self, part: Part) -> impl Iterator<Item = &PartFigures> {
        self.rows.iter().filter(move |row| row.part == part)
    }

    fn ratio(&self, part: Part, to: Part, figure: fn(&PartFigures) -> f64) -> Option<f64> {
        let pairs = self.of(part).zip(self.of(to)).filter(|(_, to)| figure(to) > 0.0);
        median(pairs.map(|(one, to)| figure(one) / figure(to)))
    }

    fn line(&self, part: Part) -> Option<(String, String)> {
        let of = |figure: fn(&PartFigures) -> f64| median(self.of(part).map(figure));
        let (node, redis) = (of(|row| row.node_micros)?, of(|row| row.redis_micros)?);
        let mut value = match self.of(part).find_map(|row| row.latency.as_ref()) {
            None => format!("{} a second", number(of(|row| row.per_second)?)),
            Some(_) => {
                let mut turns: Vec<_> = self.of(part).filter_map(|row| row.latency).collect();
                turns.sort_by(|one, other| one.p99.total_cmp(&other.p99));
                latency(&turns[(turns.len() - 1) / 2])
            }
        };
        value += &format!(" · CPU for each: node {} µs, Redis {} µs", number(node), number(redis));
        Some((part.describe().to_owned(), value))
    }
}

impl Findings for RedisFindings {
    fn groups(&self) -> Vec<Group> {
        let lines = |parts: &[Part]| parts.iter().filter_map(|part| self.line(*part)).collect::<Vec<_>>();
        let row = |what: &str, value: Option<f64>, unit: &str| {
            value.map(|value| (what.to_owned(), format!("{}{unit}", number(value))))
        };
        let mut link = lines(&[Part::LinkBare, Part::LinkNode]);
        link.extend(row("node / bare", self.link_ratio(), ""));
        link.extend(row("received / needed", self.received_over_needed, ""));
        let publishing =
            [Part::PublishBare, Part::ApiSingle, Part::ApiBatch, Part::ApiSingleKept, Part::ApiBatchKept];
        let mut late = lines(&[Part::LatencyBare, Part::LatencyNode, Part::LatencyApi]);
        late.extend(row("API to a client later than a bare link, p99", self.later_p99_ms(), " ms"));
        let mut groups = vec![
            Group { heading: "One link, to the end", rows: link },
            Group { heading: "Publishing", rows: lines(&publishing) },
            Group { heading: "Latency at a fixed rate", rows: late },
        ];
        groups.retain(|group| !group.rows.is_empty());
        groups
    }

    fn faults(&self) -> Vec<(&'static str, u64)> {
        vec![("publications refused or not arrived", self.failed())]
    }
}

/// The middle one, or halfway between the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_turn_and_the_middle_one_is_told() {
        let row = |part, per_second| PartFigures { part, per_second, ..PartFigures::default() };
        let rows = [(100.0, 50.0), (200.0, 180.0), (10.0, 8.0)]
            .into_iter()
            .flat_map(|(bare, node)| [row(Part::LinkBare, bare), row(Part::LinkNode, node)])
            .collect();
        let found = RedisFindings { rows, ..RedisFindings::default() };
        assert_eq!(found.link_ratio(), Some(0.8));
        assert_eq!((found.api_per_second(), found.later_p99_ms()), (None, None));
    }
}
