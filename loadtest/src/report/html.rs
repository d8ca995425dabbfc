//! The report as one page that needs nothing else: style and plots are inside.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use super::chart::{Chart, Horizontal, Line, Vertical, escape};
use super::text::{bytes, groups, milliseconds, number};
use super::{Point, Report};

const STYLE: &str = include_str!("style.css");
const BYTES_PER_MIB: f64 = 1024.0 * 1024.0;

pub fn write(report: &Report, path: &Path) -> io::Result<()> {
    fs::write(path, render(report))
}

pub fn render(report: &Report) -> String {
    let mut page = String::new();
    let title = escape(&report.title);
    // Writing to a string cannot fail, here and below.
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1><p>{}</p>",
        escape(&summary(report))
    );
    put_flags(report, &mut page);
    put_tiles(report, &mut page);
    page.push_str("<div class=\"charts\">");
    for chart in charts(report) {
        page.push_str(&chart.render());
    }
    page.push_str("</div><div class=\"tables\">");
    put_tables(report, &mut page);
    let _ = write!(
        page,
        "</div><footer>tidegate-loadtest {} · {} cores · Linux {} · {} of memory · \
         latency counts from the moment a publication was due</footer></main></body></html>",
        escape(&report.version),
        report.host.cores,
        escape(&report.host.kernel),
        bytes(report.host.memory_bytes as f64)
    );
    page
}

fn summary(report: &Report) -> String {
    let settings = &report.settings;
    let mut text = format!(
        "{} connections over {}{} to {}, {} channel{}",
        number(f64::from(settings.connections)),
        settings.protocol,
        match settings.transport.as_str() {
            "" | "websocket" => String::new(),
            transport => format!(" ({transport})"),
        },
        settings.urls.join(", "),
        number(f64::from(settings.channels)),
        if settings.channels == 1 { "" } else { "s" },
    );
    // Writing to a string cannot fail.
    let _ = if settings.rate_per_second > 0.0 {
        write!(
            text,
            "; {} publications a second of {} bytes for {} s via {}",
            number(settings.rate_per_second),
            number(settings.payload_bytes as f64),
            number(settings.duration_seconds),
            settings.publish_via
        )
    } else {
        write!(text, "; held for {} s without publications", number(settings.duration_seconds))
    };
    text
}

fn put_flags(report: &Report, page: &mut String) {
    if let Some(reason) = &report.cut_short {
        let _ = write!(page, "<span class=\"flag bad\">cut short: {}</span>", escape(reason));
    }
    for threshold in &report.thresholds {
        let (class, sign) = if threshold.held { ("good", "✓") } else { ("bad", "✗") };
        let measured = threshold.measured.map_or("nothing".to_owned(), number);
        let _ = write!(
            page,
            "<span class=\"flag {class}\">{sign} {} {} · measured {measured}</span>",
            escape(&threshold.name),
            number(threshold.limit)
        );
    }
}

fn put_tiles(report: &Report, page: &mut String) {
    let latency = &report.deliveries.latency;
    let mut tiles = vec![("connections ready", number(report.connections.ready as f64), false)];
    if report.publications.scheduled > 0 {
        let deliveries = &report.deliveries;
        let wrong = deliveries.lost + deliveries.duplicated + deliveries.reordered;
        tiles.push(("deliveries a second", number(deliveries.per_second), false));
        tiles.push(("latency, median", milliseconds(latency.p50), false));
        tiles.push(("latency, 99 %", milliseconds(latency.p99), false));
        tiles.push((
            "lost · duplicated · reordered",
            format!("{} · {} · {}", deliveries.lost, deliveries.duplicated, deliveries.reordered),
            wrong > 0,
        ));
    }
    tiles.push(("ready a second", number(report.connections.ready_per_second), false));
    if let Some(server) = &report.server {
        if let Some(seconds) = server.seconds_per_million {
            tiles.push(("CPU s per million deliveries", number(seconds), false));
        }
        if let Some(each) = server.resident_bytes_per_connection {
            tiles.push(("memory per connection", bytes(each), false));
        }
    }
    page.push_str("<div class=\"tiles\">");
    for (what, value, wrong) in tiles {
        let class = if wrong { " class=\"bad\"" } else { "" };
        let _ = write!(page, "<div class=\"tile\"><b{class}>{value}</b><span>{what}</span></div>");
    }
    page.push_str("</div>");
}

fn charts(report: &Report) -> Vec<Chart<'_>> {
    let line = |label: &'static str, colour, filled, value: fn(&Point) -> Option<f64>| Line {
        label: label.into(),
        colour,
        filled,
        points: report.series.iter().map(|point| (point.seconds, value(point))).collect(),
    };
    let over_time = |title: &'static str, unit: &'static str, vertical, lines| Chart {
        title: title.into(),
        unit: unit.into(),
        lines,
        stages: &report.stages,
        horizontal: Horizontal::Time,
        vertical,
    };
    let mut charts = vec![over_time(
        "Connections",
        "ready",
        Vertical::FromZero,
        vec![line("connections", 1, true, |point| Some(point.connections as f64))],
    )];
    if report.publications.sent > 0 {
        charts.push(over_time(
            "Deliveries",
            "a second",
            Vertical::FromZero,
            vec![line("deliveries", 4, true, |point| Some(point.deliveries_per_second))],
        ));
        charts.push(over_time(
            "Latency",
            "milliseconds",
            Vertical::Logarithmic,
            vec![
                line("max", 3, false, |point| point.max),
                line("99 %", 2, false, |point| point.p99),
                line("median", 1, false, |point| point.p50),
            ],
        ));
        charts.push(Chart {
            title: "Latency by percentile".into(),
            unit: "milliseconds".into(),
            lines: vec![Line {
                label: "latency".into(),
                colour: 1,
                filled: true,
                points: report.deliveries.percentiles.iter().map(|&(at, value)| (at, Some(value))).collect(),
            }],
            stages: &[],
            horizontal: Horizontal::Percentile,
            vertical: Vertical::Logarithmic,
        });
    }
    if report.server.is_some() {
        charts.push(over_time(
            "CPU",
            "cores",
            Vertical::FromZero,
            vec![
                line("load tester", 4, false, |point| Some(point.own_cores)),
                line("server", 1, true, |point| Some(point.server_user + point.server_system)),
                line("server, user part", 2, true, |point| Some(point.server_user)),
            ],
        ));
        charts.push(over_time(
            "Server memory",
            "resident MiB",
            Vertical::FromZero,
            vec![line("resident", 3, true, |point| Some(point.server_resident_bytes as f64 / BYTES_PER_MIB))],
        ));
    } else {
        charts.push(over_time(
            "CPU",
            "cores, load tester",
            Vertical::FromZero,
            vec![line("load tester", 4, true, |point| Some(point.own_cores))],
        ));
    }
    charts
}

fn put_tables(report: &Report, page: &mut String) {
    for group in groups(report) {
        let _ = write!(page, "<section><h2>{}</h2><table>", group.heading);
        for (what, value) in group.rows {
            let _ = write!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(&what), escape(&value));
        }
        page.push_str("</table></section>");
    }
    page.push_str("<section><h2>Settings</h2><table>");
    // The settings are a flat structure of our own, which always is a JSON object.
    if let Ok(serde_json::Value::Object(settings)) = serde_json::to_value(&report.settings) {
        for (name, value) in settings {
            let value = match value {
                serde_json::Value::String(text) => text,
                serde_json::Value::Array(items) => {
                    items.iter().filter_map(|item| item.as_str()).collect::<Vec<_>>().join(", ")
                }
                other => other.to_string(),
            };
            let _ = write!(
                page,
                "<tr><td>{}</td><td>{}</td></tr>",
                escape(&name.replace('_', " ")),
                escape(&value)
            );
        }
    }
    page.push_str("</table></section>");
}

#[cfg(test)]
mod tests {
    use super::super::Stage;
    use super::*;

    #[test]
    fn a_page_needs_nothing_from_elsewhere_and_trusts_no_text() {
        let mut report = Report { title: "<script>alert(1)</script>".to_owned(), ..Report::default() };
        report.connections.failures.insert("</td><b>".to_owned(), 1);
        report.publications.sent = 1;
        report.publications.scheduled = 1;
        report.deliveries.percentiles = vec![(0.0, 1.0), (50.0, 2.0), (100.0, 9.0)];
        report.stages.push(Stage { name: "publish".to_owned(), from: 0.0, to: 2.0 });
        report.series = vec![
            Point { seconds: 1.0, connections: 5, p50: Some(1.0), ..Point::default() },
            Point { seconds: 2.0, connections: 6, p50: Some(2.0), ..Point::default() },
        ];
        let page = render(&report);
        assert!(
            !page.contains("<script") && !page.contains("<b>\"") && page.contains("&lt;/td&gt;&lt;b&gt;")
        );
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
        assert_eq!(page.matches("<svg").count(), 5);
        assert!(page.contains("prefers-color-scheme:dark"));
    }
}
