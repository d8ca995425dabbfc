//! The figures of any findings as rows for people. What they are called and what they are counted in is what their fields
//! are called; the order is that of the fields.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::text::{bytes, latency, number};
use super::{Group, Latency};

/// Where a field's name with spaces for its underscores says too little.
const WORDS: &[(&str, &str)] = &[
    ("open", "time to open"),
    ("to_ready", "time to ready"),
    ("to_recovered", "time to recovered"),
    ("times", "time for each"),
    ("answered", "time to confirmation"),
    ("late_ms_max", "latest after its due time"),
    ("lost_at_end", "of the lost, at the end"),
    ("uncertain", "missing, publisher got an error"),
    ("missed_away", "missed while away"),
    ("foreign", "not of this run"),
    ("malformed", "not understood"),
    ("seconds_per_million", "CPU s per million deliveries"),
    ("connect_micros", "CPU per connection opened"),
    ("cpu_micros_each", "CPU for each"),
    ("idle_cpu_percent", "CPU while holding"),
    ("resident_bytes_per_connection", "memory per connection (RSS)"),
    ("proportional_bytes_per_connection", "memory per connection (PSS)"),
    ("memory_after_percent", "memory after / before"),
    ("cores", "cores in use meanwhile"),
];
/// Stand in the page and in the JSON alone.
const SETTINGS: &str = "settings";
/// Of figures that belong to no part of the findings.
const ALL: &str = "all";

/// JSON whose fields keep their order. What is no figure is nothing.
enum Figure {
    Nothing,
    Number(f64),
    Text(String),
    Fields(Vec<(String, Self)>),
}

/// Each field that has fields of its own is a group.
pub(super) fn groups(findings: &(impl Serialize + ?Sized)) -> Vec<Group> {
    let json = serde_json::to_string(findings).unwrap_or_default();
    let Ok(Figure::Fields(fields)) = serde_json::from_str(&json) else { return Vec::new() };
    let (mut groups, mut all) = (Vec::new(), Vec::new());
    for (name, figure) in fields.into_iter().filter(|(name, _)| name != SETTINGS) {
        match figure {
            Figure::Fields(fields) if value(&fields).is_none() && !is_counts(&fields, &name) => {
                let rows = fields.iter().flat_map(|(name, figure)| rows(name, figure)).collect();
                groups.push(Group { heading: heading(&name), rows });
            }
            figure => all.extend(rows(&name, &figure)),
        }
    }
    if !all.is_empty() {
        groups.insert(0, Group { heading: heading(ALL), rows: all });
    }
    groups
}

/// One row, or one for each reason that is counted.
fn rows(name: &str, figure: &Figure) -> Vec<(String, String)> {
    let value = match figure {
        Figure::Nothing => return Vec::new(),
        Figure::Text(text) => text.clone(),
        Figure::Number(figure) => with_unit(name, *figure),
        Figure::Fields(fields) => match value(fields) {
            Some(value) => value,
            None => {
                let reasons = fields.iter().flat_map(|(reason, figure)| rows(reason, figure));
                return reasons.map(|(reason, times)| (format!("· {reason}"), times)).collect();
            }
        },
    };
    vec![(words(name), value)]
}

/// Of what is told in one row: latencies, and the two ways to see memory.
fn value(fields: &[(String, Figure)]) -> Option<String> {
    let of = |wanted: &str| {
        fields.iter().find_map(|(name, figure)| match figure {
            Figure::Number(figure) if name == wanted => Some(*figure),
            _ => None,
        })
    };
    if let (Some(count), Some(p999)) = (of("count"), of("p999")) {
        let [min, mean, p50, p90, p99, max] =
            ["min", "mean", "p50", "p90", "p99", "max"].map(|name| of(name).unwrap_or(0.0));
        return Some(latency(&Latency { count: count as u64, min, mean, p50, p90, p99, p999, max }));
    }
    let resident = of("resident_bytes").filter(|_| fields.len() == 2)?;
    let proportional = of("proportional_bytes").map(|size| format!(", {} PSS", bytes(size)));
    Some(format!("{} RSS{}", bytes(resident), proportional.unwrap_or_default()))
}

/// Whether these are reasons and how often there was each.
fn is_counts(fields: &[(String, Figure)], name: &str) -> bool {
    fields.is_empty() || ["failures", "reasons", "ends"].iter().any(|end| name.ends_with(end))
}

fn with_unit(name: &str, figure: f64) -> String {
    let has = |word: &str| name.split('_').any(|part| part == word);
    if has("bytes") || has("memory") && !has("percent") {
        return bytes(figure);
    }
    let unit = [("ms", " ms"), ("micros", " µs"), ("seconds", " s"), ("percent", " %")];
    let unit = unit.iter().find_map(|(word, unit)| has(word).then_some(*unit)).unwrap_or("");
    format!("{}{unit}", number(figure))
}

fn words(name: &str) -> String {
    let known = WORDS.iter().find_map(|(field, words)| (*field == name).then_some((*words).to_owned()));
    known.unwrap_or_else(|| name.replace('_', " "))
}

fn heading(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

impl<'de> Deserialize<'de> for Figure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Figures;
        impl<'de> Visitor<'de> for Figures {
            type Value = Figure;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("any JSON")
            }
            fn visit_bool<E>(self, _: bool) -> Result<Figure, E> {
                Ok(Figure::Nothing)
            }
            fn visit_unit<E>(self) -> Result<Figure, E> {
                Ok(Figure::Nothing)
            }
            fn visit_u64<E>(self, figure: u64) -> Result<Figure, E> {
                Ok(Figure::Number(figure as f64))
            }
            fn visit_i64<E>(self, figure: i64) -> Result<Figure, E> {
                Ok(Figure::Number(figure as f64))
            }
            fn visit_f64<E>(self, figure: f64) -> Result<Figure, E> {
                Ok(Figure::Number(figure))
            }
            fn visit_str<E>(self, text: &str) -> Result<Figure, E> {
                Ok(Figure::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Figure, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Figure::Nothing)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Figure, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Figure::Fields(fields))
            }
        }
        deserializer.deserialize_any(Figures)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn figures_are_told_in_the_order_and_the_units_of_their_fields() {
        let latency = r#"{"count":1,"min":1,"mean":1,"p50":1.5,"p90":2,"p99":3,"p999":4,"max":5}"#;
        let json = format!(
            r#"{{"settings":{{"x":1}},"not_last":2,"storm":{{"to_recovered":{latency},"cpu_micros_each":6.5,"list":[1],
            "absent":null,"memory_ready":{{"resident_bytes":2048,"proportional_bytes":null}},"failures":{{"HTTP 503":9}}}}}}"#
        );
        let told = groups(&RawValue::from_string(json).unwrap());
        let told: Vec<_> = told
            .iter()
            .map(|group| {
                let rows = group.rows.iter().map(|(what, value)| format!("{what}={value}"));
                format!("{}: {}", group.heading, rows.collect::<Vec<_>>().join("; "))
            })
            .collect();
        let storm = "Storm: time to recovered=p50 1.50 · p90 2 · p99 3 · p99.9 4 · max 5 ms; CPU for each=6.50 µs; \
                     memory ready=2.0 KiB RSS; · HTTP 503=9";
        assert_eq!(told, ["All: not last=2", storm]);
    }
}
