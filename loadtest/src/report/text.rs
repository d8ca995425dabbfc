//! The report for a terminal, and the words and numbers that the page uses too.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Deliveries, Findings, Latency, Report, StormReport};

/// One group of figures: a heading, and what with its value.
#[derive(Debug)]
pub struct Group {
    pub heading: &'static str,
    pub rows: Vec<(String, String)>,
}

pub fn render(findings: &impl Findings) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", findings.title());
    if let Some(reason) = findings.cut_short() {
        let _ = writeln!(text, "cut short: {reason}");
    }
    for group in findings.groups() {
        let _ = writeln!(text, "\n{}", group.heading);
        for (what, value) in group.rows {
            let _ = writeln!(text, "  {what:<36} {value}");
        }
    }
    if !findings.thresholds().is_empty() {
        let _ = writeln!(text, "\nThresholds");
        for threshold in findings.thresholds() {
            let measured = threshold.measured.map_or("not measured".to_owned(), number);
            let verdict = if threshold.held { "held" } else { "BROKEN" };
            let _ = writeln!(
                text,
                "  {:<36} {verdict}: {measured} (limit {})",
                threshold.name,
                number(threshold.limit)
            );
        }
    }
    text
}

/// All figures of a run, in the order in which they are read.
pub fn groups(report: &Report) -> Vec<Group> {
    let mut groups = vec![connections(report)];
    if report.publications.scheduled > 0 {
        groups.extend([publications(report), deliveries(report)]);
    }
    groups.extend(report.storm.as_ref().map(storm));
    groups.extend(server(report));
    groups.push(load_tester(report));
    groups
}

/// With separators between thousands, and no more digits than mean something.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let text = match size {
        _ if value.fract() == 0.0 || size >= 1_000.0 => format!("{value:.0}"),
        100.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let (whole, fraction) =
        digits.split_once('.').map_or((digits, None), |(whole, rest)| (whole, Some(rest)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match fraction {
        Some(fraction) => format!("{sign}{grouped}.{fraction}"),
        None => format!("{sign}{grouped}"),
    }
}

pub fn milliseconds(value: f64) -> String {
    format!("{} ms", number(value))
}

/// In the binary unit that fits.
pub fn bytes(value: f64) -> String {
    const KIB: f64 = 1024.0;
    match value.abs() {
        size if size >= KIB * KIB * KIB => format!("{:.2} GiB", value / KIB / KIB / KIB),
        size if size >= KIB * KIB => format!("{:.1} MiB", value / KIB / KIB),
        size if size >= KIB => format!("{:.1} KiB", value / KIB),
        _ => format!("{value:.0} B"),
    }
}

fn connections(report: &Report) -> Group {
    let connections = &report.connections;
    let mut rows = vec![
        row(
            "ready / requested",
            format!("{} / {}", count(connections.ready), count(connections.requested.into())),
        ),
        row("ready per second", number(connections.ready_per_second)),
        row("time to open", latency(&connections.open)),
        row("time to ready", latency(&connections.to_ready)),
    ];
    if report.settings.compression {
        rows.push(row("agreed on compression", count(connections.compressed)));
    }
    rows.push(row("failed", count(connections.failed)));
    rows.extend(reasons(&connections.failures));
    rows.push(row("disconnects", count(connections.disconnects)));
    rows.extend(reasons(&connections.disconnect_reasons));
    if report.settings.reconnect {
        rows.push(row("reconnects", count(connections.reconnects)));
        rows.push(row(
            "subscriptions recovered / not",
            format!("{} / {}", count(connections.recovered), count(connections.unrecovered)),
        ));
        rows.push(row("publications recovered", count(connections.recovered_publications)));
    }
    if connections.unsubscribed > 0 {
        rows.push(row("unsubscribed by the server", count(connections.unsubscribed)));
    }
    Group { heading: "Connections", rows }
}

fn publications(report: &Report) -> Group {
    let publications = &report.publications;
    let mut rows = vec![
        row("sent / scheduled", format!("{} / {}", count(publications.sent), count(publications.scheduled))),
        row("sent per second", number(publications.per_second)),
        row("confirmed", count(publications.confirmed)),
        row("failed", count(publications.failed)),
    ];
    rows.extend(reasons(&publications.failures));
    rows.push(row("time to confirmation", latency(&publications.answered)));
    rows.push(row("latest after its due time", milliseconds(publications.late_ms_max)));
    Group { heading: "Publications", rows }
}

fn deliveries(report: &Report) -> Group {
    let deliveries = &report.deliveries;
    let mut rows = vec![
        row("received", count(deliveries.received)),
        row("received per second", number(deliveries.per_second)),
        row("latency", latency(&deliveries.latency)),
        row("lost", lost(deliveries)),
        row("duplicated", count(deliveries.duplicated)),
        row("reordered", count(deliveries.reordered)),
    ];
    // These are nothing in an ordinary run, and then only in the way.
    for (what, value) in [
        ("missing, publisher got an error", deliveries.uncertain),
        ("missed while away", deliveries.missed_away),
        ("not of this run", deliveries.foreign),
        ("not understood", deliveries.malformed),
    ] {
        if value > 0 {
            rows.push(row(what, count(value)));
        }
    }
    Group { heading: "Deliveries", rows }
}

fn storm(storm: &StormReport) -> Group {
    let mut rows = vec![
        row("back / cut", format!("{} / {}", count(storm.reconnected), count(storm.cut_off))),
        row("back per second", number(storm.per_second)),
        row("time to recovered", latency(&storm.to_recovered)),
        row("last one recovered after", format!("{} s", number(storm.seconds_to_last))),
        row("failed attempts", count(storm.failed)),
        row(
            "subscriptions recovered / not",
            format!("{} / {}", count(storm.recovered), count(storm.unrecovered)),
        ),
        row("publications recovered", count(storm.recovered_publications)),
    ];
    if let Some(micros) = storm.cpu_micros_each {
        rows.push(row("CPU per reconnect", format!("{} µs", number(micros))));
    }
    if let Some(reads) = storm.history_reads {
        rows.push(row("history reads from Redis", number(reads)));
    }
    if let Some(refused) = storm.refused_handshakes {
        rows.push(row("handshakes the server refused", number(refused)));
    }
    Group { heading: "Storm", rows }
}

fn lost(deliveries: &Deliveries) -> String {
    match deliveries.lost_at_end {
        0 => count(deliveries.lost),
        at_end => format!(
            "{}, of which {} at the end (perhaps still on their way; see --drain)",
            count(deliveries.lost),
            count(at_end)
        ),
    }
}

fn server(report: &Report) -> Option<Group> {
    let server = report.server.as_ref()?;
    let mut rows: Vec<(String, String)> = server
        .processes
        .iter()
        .map(|process| row("process", format!("{} {}", process.pid, process.name)))
        .collect();
    let share = (server.user_seconds + server.system_seconds) / server.window_seconds.max(1e-3);
    rows.push(row(
        if report.publications.scheduled > 0 { "CPU while publishing" } else { "CPU while holding" },
        format!(
            "{:.2} s user + {:.2} s system in {:.2} s, {:.1} % of a core",
            server.user_seconds,
            server.system_seconds,
            server.window_seconds,
            share * 100.0
        ),
    ));
    let parts =
        (server.user_seconds_per_million, server.system_seconds_per_million, server.seconds_per_million);
    if let (Some(user), Some(system), Some(both)) = parts {
        rows.push(row(
            "CPU s per million deliveries",
            format!("{} ({} user + {} system)", number(both), number(user), number(system)),
        ));
    }
    if let Some(micros) = server.connect_micros {
        rows.push(row("CPU per connection opened", format!("{} µs", number(micros))));
    }
    for (what, memory) in [
        ("memory before", server.memory_before),
        ("memory with all connections", server.memory_ready),
        ("memory after publishing", server.memory_after_publishing),
        ("memory after closing", server.memory_after_closing),
    ] {
        let resident = bytes(memory.resident_bytes as f64);
        let value = match memory.proportional_bytes {
            Some(proportional) => format!("{resident} RSS, {} PSS", bytes(proportional as f64)),
            None => format!("{resident} RSS"),
        };
        rows.push(row(what, value));
    }
    if let Some(resident) = server.resident_bytes_per_connection {
        let value = match server.proportional_bytes_per_connection {
            Some(proportional) => format!("{} RSS, {} PSS", bytes(resident), bytes(proportional)),
            None => format!("{} RSS", bytes(resident)),
        };
        rows.push(row("memory per connection", value));
    }
    rows.push(row("memory after / before", format!("{} %", number(server.memory_after_percent))));
    Some(Group { heading: "Server", rows })
}

fn load_tester(report: &Report) -> Group {
    let own = &report.load_tester;
    let rows = vec![
        row("cores in use meanwhile", format!("{} of {}", number(own.cores), report.host.cores)),
        row("memory", format!("{} RSS", bytes(own.resident_bytes as f64))),
    ];
    Group { heading: "Load tester itself", rows }
}

pub fn latency(latency: &Latency) -> String {
    if latency.count == 0 {
        return "none".to_owned();
    }
    format!(
        "p50 {} · p90 {} · p99 {} · p99.9 {} · max {} ms",
        number(latency.p50),
        number(latency.p90),
        number(latency.p99),
        number(latency.p999),
        number(latency.max)
    )
}

fn row(what: &str, value: String) -> (String, String) {
    (what.to_owned(), value)
}

fn reasons(reasons: &BTreeMap<String, u64>) -> impl Iterator<Item = (String, String)> {
    reasons.iter().map(|(reason, times)| (format!("· {reason}"), count(*times)))
}

fn count(value: u64) -> String {
    number(value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_keep_three_digits_or_so() {
        let cases = [
            (0.0, "0"),
            (7.0, "7"),
            (999.0, "999"),
            (1_000.0, "1,000"),
            (1_234_567.8, "1,234,568"),
            (-1_234.0, "-1,234"),
            (123.456, "123.5"),
            (12.345, "12.35"),
            (0.01234, "0.012"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
        assert_eq!(bytes(1536.0), "1.5 KiB");
        assert_eq!(bytes(-2.0 * 1024.0 * 1024.0), "-2.0 MiB");
    }

    #[test]
    fn broken_thresholds_stand_out() {
        let threshold = super::super::Threshold {
            name: "max-lost".to_owned(),
            limit: 0.0,
            measured: Some(3.0),
            held: false,
        };
        let report = Report { thresholds: vec![threshold], ..Report::default() };
        assert!(render(&report).contains("BROKEN: 3 (limit 0)"));
    }
}
