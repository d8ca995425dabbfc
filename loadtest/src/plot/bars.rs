//! One figure of every server as lying bars, each with the spread over its rounds.

use std::fmt::Write;

use super::runs::Run;
use crate::report::chart::{STANDALONE, escape};
use crate::report::text::number;

const WIDTH: f64 = 720.0;
const LEFT: f64 = 120.0;
/// Room for the number behind the longest bar.
const RIGHT: f64 = 130.0;
const TOP: f64 = 52.0;
const ROW: f64 = 24.0;
const BAR: f64 = 15.0;
const HEADING: f64 = 26.0;
const COLOURS: u8 = 7;

/// What one bar shows.
struct Bar<'a> {
    name: &'a str,
    value: f64,
    least: f64,
    most: f64,
    ratio: Option<f64>,
}

/// Empty if there is nothing to draw.
pub(super) fn draw(runs: &[Run], key: &str, ratios: bool, title: Option<String>, unit: &str) -> String {
    let groups: Vec<(&str, Vec<Bar<'_>>)> =
        runs.iter().map(|run| (run.name.as_str(), bars_of(run, key, ratios))).collect();
    let most = groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.most).fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let scale = (WIDTH - LEFT - RIGHT) / most;
    let mut rows = String::new();
    let mut y = TOP;
    for (name, bars) in &groups {
        // Writing to a string cannot fail, here and below.
        let _ = write!(rows, "<text class=\"name\" x=\"16\" y=\"{:.1}\">{}</text>", y + 14.0, escape(name));
        y += HEADING;
        for (index, bar) in bars.iter().enumerate() {
            put_bar(bar, (index % usize::from(COLOURS)) as u8 + 1, y, scale, ratios, &mut rows);
            y += ROW;
        }
        y += 6.0;
    }
    let height = y + 8.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\"><style>{STANDALONE}\
         </style><rect class=\"card\" width=\"{WIDTH}\" height=\"{height:.0}\"/><text class=\"title\" x=\"16\" y=\"22\">{}\
         </text><text x=\"16\" y=\"40\">{}</text>{rows}</svg>\n",
        escape(&title.unwrap_or_default()),
        escape(unit)
    )
}

fn bars_of<'a>(run: &'a Run, key: &str, ratios: bool) -> Vec<Bar<'a>> {
    run.servers
        .iter()
        .filter_map(|server| {
            let figure = server.figure(key)?;
            let name = server.name.as_str();
            if ratios {
                let ratio = figure.ratio?;
                return Some(Bar {
                    name,
                    value: ratio.median,
                    least: ratio.min,
                    most: ratio.max,
                    ratio: None,
                });
            }
            let values = || figure.values.iter().flatten().copied();
            let (least, most) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
            let ratio = figure.ratio.map(|ratio| ratio.median);
            // A growth of memory may be negative, which no bar can show.
            Some(Bar { name, value: figure.median?.max(0.0), least: least.max(0.0), most, ratio })
        })
        .collect()
}

fn put_bar(bar: &Bar<'_>, colour: u8, y: f64, scale: f64, ratios: bool, out: &mut String) {
    let (middle, end) = (y + BAR / 2.0, LEFT + bar.value * scale);
    let _ = write!(
        out,
        "<text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}</text><rect class=\"bar b{colour}\" x=\"{LEFT}\" y=\"{y:.1}\" \
         width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>",
        LEFT - 8.0,
        middle + 4.0,
        escape(bar.name),
        bar.value * scale
    );
    if bar.most > bar.least {
        let (from, to) = (LEFT + bar.least * scale, LEFT + bar.most * scale);
        let _ = write!(out, "<path class=\"spread\" d=\"M{from:.1} {middle:.1}H{to:.1}\"/>");
    }
    let value = if ratios { format!("{:.2} ×", bar.value) } else { number(bar.value) };
    let ratio = bar.ratio.map_or(String::new(), |ratio| format!(" ({ratio:.2} ×)"));
    let at = end.max(LEFT + bar.most * scale) + 8.0;
    let _ = write!(out, "<text x=\"{at:.1}\" y=\"{:.1}\">{value}{ratio}</text>", middle + 4.0);
}
