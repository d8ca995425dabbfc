//! The figures of findings as rows of text. The name of a field gives the label and the unit of its row, and the rows have
//! the order of the fields.

use std::fmt;

use indicatif::{HumanBytes, HumanFloatCount};
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Labels of the fields whose names say too little.
const WORDS: &[(&str, &str)] = &[
    ("open", "time to open"),
    ("to_ready", "time to ready"),
    ("to_recovered", "time to recovered"),
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
/// Settings are shown in the page and in the JSON only.
const SETTINGS: &str = "settings";
/// The parts that are left out where nothing was to be published.
const OF_PUBLISHING: [&str; 2] = ["publications", "deliveries"];

/// A group of figures: a heading, and rows of a label and a value.
#[derive(Serialize, Debug)]
pub(super) struct Group {
    pub(super) heading: String,
    pub(super) rows: Vec<(String, String)>,
}

/// The fields of an object in their order, which [`Value`] does not keep.
struct Fields(Vec<(String, Box<RawValue>)>);

/// Makes a group of each part of the findings that has fields of its own.
pub(super) fn groups(json: &str) -> Vec<Group> {
    let fields = |json: &str| serde_json::from_str(json).map_or(Vec::new(), |Fields(fields)| fields);
    let parts = fields(json);
    let value = |raw: &RawValue| serde_json::from_str(raw.get()).unwrap_or(Value::Null);
    let publications = parts.iter().find(|(name, _)| name == OF_PUBLISHING[0]);
    let publishes = publications.is_some_and(|(_, raw)| value(raw)["scheduled"] != 0);
    let told = parts
        .iter()
        .filter(|(name, _)| name != SETTINGS && (publishes || !OF_PUBLISHING.contains(&name.as_str())));
    let groups = told.map(|(name, raw)| {
        let rows = fields(raw.get()).iter().flat_map(|(name, raw)| rows(name, &value(raw))).collect();
        Group { heading: heading(name), rows }
    });
    groups.filter(|group| !group.rows.is_empty()).collect()
}

/// Makes one row, and for counts by reason one more for each reason.
fn rows(name: &str, value: &Value) -> Vec<(String, String)> {
    let figure = |field: &str| value[field].as_f64();
    let told = match value {
        Value::Number(_) => with_unit(name, value.as_f64().unwrap_or_default()),
        Value::String(text) => text.clone(),
        Value::Object(_) if figure("p999").is_some() => latency(value),
        Value::Object(_) if figure("resident_bytes").is_some() => {
            let proportional = figure("proportional_bytes").map(|size| format!(", {} PSS", bytes(size)));
            format!(
                "{} RSS{}",
                bytes(figure("resident_bytes").unwrap_or_default()),
                proportional.unwrap_or_default()
            )
        }
        Value::Object(reasons) => {
            let times = reasons
                .iter()
                .filter_map(|(reason, times)| Some((format!("· {reason}"), number(times.as_f64()?))));
            let total = number(reasons.values().filter_map(Value::as_f64).sum());
            return std::iter::once((words(name), total))
                .chain(times)
                .filter(|_| !reasons.is_empty())
                .collect();
        }
        _ => return Vec::new(),
    };
    vec![(words(name), told)]
}

fn latency(of: &Value) -> String {
    if of["count"] == 0 {
        return "none".to_owned();
    }
    let [p50, p90, p99, p999, max] =
        ["p50", "p90", "p99", "p999", "max"].map(|field| number(of[field].as_f64().unwrap_or_default()));
    format!("p50 {p50} · p90 {p90} · p99 {p99} · p99.9 {p999} · max {max} ms")
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

/// Formats a number with separators between thousands, and with three significant digits or so.
pub(super) fn number(value: f64) -> String {
    let digits = match value.abs() {
        1_000.0.. => 0,
        100.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{:.digits$}", HumanFloatCount(value))
}

/// Formats a size in the binary unit that fits.
pub(super) fn bytes(value: f64) -> String {
    format!("{}{}", if value < 0.0 { "-" } else { "" }, HumanBytes(value.abs() as u64))
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                std::iter::from_fn(|| map.next_entry().transpose()).collect::<Result<_, _>>().map(Fields)
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_in_the_order_and_the_units_of_their_fields() {
        let latency = r#"{"count":1,"min":1,"mean":1,"p50":1.5,"p90":2,"p99":3,"p999":4,"max":5}"#;
        let json = format!(
            r#"{{"settings":{{"x":1}},"deliveries":{{"x":1}},"storm":{{"to_recovered":{latency},"cpu_micros_each":6.5,
            "list":[1],"absent":null,"memory_ready":{{"resident_bytes":2048,"proportional_bytes":null}},
            "failures":{{"HTTP 503":9,"other":1}},"slow_ends":{{}}}},"server":null}}"#
        );
        let told: Vec<_> = groups(&json)
            .iter()
            .map(|group| {
                let rows = group.rows.iter().map(|(what, value)| format!("{what}={value}"));
                format!("{}: {}", group.heading, rows.collect::<Vec<_>>().join("; "))
            })
            .collect();
        let storm = "Storm: time to recovered=p50 1.5 · p90 2 · p99 3 · p99.9 4 · max 5 ms; CPU for each=6.5 µs; \
                     memory ready=2.00 KiB RSS; failures=10; · HTTP 503=9; · other=1";
        assert_eq!(told, [storm]);
    }

    #[test]
    fn numbers_are_grouped_and_keep_three_digits_or_so() {
        let numbers = [0.0, 7.0, 999.0, 1_234_567.8, -1_234.0, 123.456, 12.345, 0.01234].map(number);
        assert_eq!(numbers, ["0", "7", "999", "1,234,568", "-1,234", "123.5", "12.35", "0.012"]);
        assert_eq!([1_536.0, -2.0 * 1024.0 * 1024.0].map(bytes), ["1.50 KiB", "-2.00 MiB"]);
    }
}
