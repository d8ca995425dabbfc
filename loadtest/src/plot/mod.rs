//! Draws what runs have written as JSON: plots as SVG files and tables in Markdown, for pages of documentation.
//!
//! ```text
//! runs (comparisons and reports, read alike) ─► bars, lines (report/chart) or table ─► a file
//! ```

mod bars;
mod runs;
mod table;

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::compare::FIGURES;
use crate::report::chart::{Chart, Horizontal, Line, Vertical};
use runs::{Run, read};

#[derive(Args, Clone, Debug)]
pub struct PlotArguments {
    #[arg(value_enum)]
    pub kind: Kind,
    /// What compare and the plain run have written with --json.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where to write.
    #[arg(short, long, value_name = "FILE")]
    pub out: PathBuf,
    /// The figure, by its key in the JSON of a comparison. A table may have several.
    #[arg(long = "figure", value_name = "KEY", default_value = "cpu_seconds_per_million")]
    pub figures: Vec<String>,
    /// A name for each file, in their order; otherwise its title.
    #[arg(long = "name", value_name = "TEXT")]
    pub names: Vec<String>,
    /// Where each file stands on the horizontal axis of a curve, in their order.
    #[arg(long = "at", value_name = "NUMBER")]
    pub at: Vec<f64>,
    /// What the horizontal axis of a curve is.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub axis: String,
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// How many times the first server's, in place of the figure itself.
    #[arg(long)]
    pub ratios: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One figure of every server, with its spread over the rounds; files one below the other.
    Bars,
    /// One figure over several files: a line for each server.
    Curve,
    /// Latency by percentile of one file: a line for each server.
    Percentiles,
    /// Figures of every server, in Markdown.
    Table,
}

#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    #[error("{path} cannot be read: {error}")]
    Unreadable { path: String, error: io::Error },
    #[error("{path} is neither a comparison nor a report: {error}")]
    Unintelligible { path: String, error: serde_json::Error },
    #[error("there is no figure {given}; there are {}", known())]
    Figure { given: String },
    #[error("--{name} must be {expected}")]
    Argument { name: &'static str, expected: &'static str },
    #[error("there is nothing to draw")]
    Nothing,
    #[error("{path} cannot be written: {error}")]
    Unwritable { path: String, error: io::Error },
}

/// Draws and writes.
pub fn run(arguments: &PlotArguments) -> Result<(), PlotError> {
    let drawn = draw(arguments)?;
    if drawn.is_empty() {
        return Err(PlotError::Nothing);
    }
    fs::write(&arguments.out, drawn)
        .map_err(|error| PlotError::Unwritable { path: arguments.out.display().to_string(), error })
}

fn draw(arguments: &PlotArguments) -> Result<String, PlotError> {
    let wrong = |name, expected| Err(PlotError::Argument { name, expected });
    if !arguments.names.is_empty() && arguments.names.len() != arguments.files.len() {
        return wrong("name", "given once for each file, or not at all");
    }
    if arguments.kind == Kind::Curve && arguments.at.len() != arguments.files.len() {
        return wrong("at", "given once for each file");
    }
    if arguments.kind == Kind::Percentiles && arguments.files.len() != 1 {
        return wrong("out", "that of one file's percentiles");
    }
    if let Some(given) = arguments.figures.iter().find(|key| label(key).is_none()) {
        return Err(PlotError::Figure { given: given.clone() });
    }
    if arguments.kind != Kind::Table && arguments.figures.len() != 1 {
        return wrong("figure", "given once, but for a table");
    }
    let mut runs: Vec<Run> = arguments.files.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    for (run, name) in runs.iter_mut().zip(&arguments.names) {
        run.name.clone_from(name);
    }
    let figure = arguments.figures.first().map_or("", String::as_str);
    let mut unit = label(figure).unwrap_or_default().to_owned();
    if arguments.ratios {
        unit.push_str(", times the first server's");
    }
    let title = arguments.title.clone();
    Ok(match arguments.kind {
        Kind::Bars => bars::draw(&runs, figure, arguments.ratios, title, &unit),
        Kind::Curve => {
            let lines = curve(&runs, &arguments.at, figure, arguments.ratios);
            chart(title, unit, lines, Horizontal::Linear, Vertical::FromZero).document(&arguments.axis)
        }
        Kind::Percentiles => {
            let lines = runs.first().map(percentiles).unwrap_or_default();
            let unit = "latency in milliseconds, by percentile".to_owned();
            chart(title, unit, lines, Horizontal::Percentile, Vertical::Logarithmic).document("")
        }
        Kind::Table => table::write(&runs, &arguments.figures),
    })
}

fn chart(
    title: Option<String>,
    unit: String,
    lines: Vec<Line>,
    horizontal: Horizontal,
    vertical: Vertical,
) -> Chart<'static> {
    Chart {
        title: title.unwrap_or_default().into(),
        unit: unit.into(),
        lines,
        stages: &[],
        horizontal,
        vertical,
    }
}

fn curve(runs: &[Run], at: &[f64], key: &str, ratios: bool) -> Vec<Line> {
    let mut names: Vec<&str> = Vec::new();
    for name in runs.iter().flat_map(|run| &run.servers).map(|server| server.name.as_str()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut order: Vec<(f64, &Run)> = at.iter().copied().zip(runs).collect();
    order.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let value = |run: &Run, name: &str| {
        let server = run.servers.iter().find(|server| server.name == name)?;
        let figure = server.figure(key)?;
        if ratios { figure.ratio.map(|ratio| ratio.median) } else { figure.median }
    };
    names
        .iter()
        .zip(1..)
        .map(|(name, colour)| Line {
            label: (*name).to_owned().into(),
            colour,
            filled: false,
            points: order.iter().map(|(x, run)| (*x, value(run, name))).collect(),
        })
        .collect()
}

fn percentiles(run: &Run) -> Vec<Line> {
    run.percentiles
        .iter()
        .zip(1..)
        .map(|((name, points), colour)| Line {
            label: name.clone().into(),
            colour,
            filled: false,
            points: points.iter().map(|&(at, value)| (at, Some(value))).collect(),
        })
        .collect()
}

/// A figure's name for people.
fn label(key: &str) -> Option<&'static str> {
    FIGURES.iter().find(|measure| measure.key == key).map(|measure| measure.label)
}

fn known() -> String {
    FIGURES.iter().map(|measure| measure.key).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Comparison, Turn};
    use crate::report::{Deliveries, Latency, Report, Server};

    fn comparison(directory: &std::path::Path, name: &str, cpu: [f64; 2]) -> PathBuf {
        let turns = (0..2).map(|server| {
            let deliveries = Deliveries {
                received: 10,
                latency: Latency { count: 10, p99: 3.0, ..Latency::default() },
                percentiles: vec![(0.0, 0.5), (50.0, 1.0), (99.0, 3.0)],
                ..Deliveries::default()
            };
            let server_part = Server { seconds_per_million: Some(cpu[server]), ..Server::default() };
            Turn {
                server,
                round: 0,
                report: Report { deliveries, server: Some(server_part), ..Report::default() },
            }
        });
        let comparison = Comparison {
            title: name.to_owned(),
            ..Comparison::of(vec!["bare".to_owned(), "a<b".to_owned()], turns.collect())
        };
        let path = directory.join(format!("{name}.json"));
        fs::write(&path, serde_json::to_vec(&comparison).unwrap()).unwrap();
        path
    }

    fn arguments(kind: Kind, files: Vec<PathBuf>, figures: &[&str]) -> PlotArguments {
        PlotArguments {
            kind,
            files,
            out: PathBuf::new(),
            figures: figures.iter().map(|&figure| figure.to_owned()).collect(),
            names: Vec::new(),
            at: Vec::new(),
            axis: "messages".to_owned(),
            title: Some("a title".to_owned()),
            ratios: false,
        }
    }

    #[test]
    fn every_kind_is_drawn_from_what_was_measured() {
        let directory = std::env::temp_dir().join(format!("tidegate-plot-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let files =
            || vec![comparison(&directory, "one", [2.0, 3.0]), comparison(&directory, "two", [4.0, 8.0])];
        let cpu = ["cpu_seconds_per_million"];

        let bars = draw(&arguments(Kind::Bars, files(), &cpu)).unwrap();
        assert!(bars.starts_with("<svg xmlns=") && bars.contains("a&lt;b") && bars.contains("two"), "{bars}");
        assert_eq!(bars.matches("class=\"bar").count(), 4);
        let ratios = PlotArguments { ratios: true, ..arguments(Kind::Bars, files(), &cpu) };
        assert!(draw(&ratios).unwrap().contains("1.50"));

        let curve = PlotArguments { at: vec![8.0, 1.0], ..arguments(Kind::Curve, files(), &cpu) };
        let curve = draw(&curve).unwrap();
        assert!(
            curve.contains("class=\"l1\"") && curve.contains("class=\"l2\"") && curve.contains("messages")
        );

        let latency = draw(&arguments(Kind::Percentiles, files()[..1].to_vec(), &cpu)).unwrap();
        assert!(latency.contains("99 %") && !latency.contains("NaN"));

        let table =
            draw(&arguments(Kind::Table, files(), &["cpu_seconds_per_million", "latency_p99_ms"])).unwrap();
        assert!(table.contains("| one | a<b | 3 (1.50 ×) | 3 (1.00 ×) |"), "{table}");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_cannot_be_drawn_is_refused_with_its_reason() {
        let files = || vec![PathBuf::from("/nowhere.json")];
        let refused = |arguments: &PlotArguments| draw(arguments).unwrap_err().to_string();
        assert!(refused(&arguments(Kind::Bars, files(), &["speed"])).contains("there is no figure speed"));
        let cpu = ["cpu_seconds_per_million"];
        assert!(refused(&arguments(Kind::Bars, files(), &cpu)).contains("/nowhere.json cannot be read"));
        assert!(refused(&arguments(Kind::Curve, files(), &cpu)).starts_with("--at"));
        assert!(
            refused(&arguments(Kind::Bars, files(), &["latency_p99_ms", "latency_p50_ms"]))
                .contains("--figure")
        );
    }
}
