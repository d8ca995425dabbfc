//! Line charts as SVG, drawn here so that a report needs nothing but itself.

use std::borrow::Cow;
use std::fmt::Write;

use super::Stage;
use super::text::number;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 22.0;
const BOTTOM: f64 = 34.0;
/// Aimed at; round steps decide.
const TICKS: usize = 5;
/// A stage narrower than this has no room for its name.
const STAGE_LABEL_WIDTH: f64 = 48.0;

/// What a plot that stands alone needs of style.
pub const STANDALONE: &str = include_str!("standalone.css");

/// One line. Its colour is chosen by the page, by number.
#[derive(Clone, Debug)]
pub struct Line {
    pub label: Cow<'static, str>,
    pub colour: u8,
    /// Fills what is below.
    pub filled: bool,
    /// A gap where there is no value.
    pub points: Vec<(f64, Option<f64>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Horizontal {
    /// Seconds since the start of the run.
    Time,
    /// Any other number.
    Linear,
    /// Percentiles, stretched towards 100 %: each nine takes the same room.
    Percentile,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vertical {
    FromZero,
    Logarithmic,
}

#[derive(Clone, Debug)]
pub struct Chart<'a> {
    pub title: Cow<'static, str>,
    pub unit: Cow<'static, str>,
    pub lines: Vec<Line>,
    /// Drawn behind the lines, against time.
    pub stages: &'a [Stage],
    pub horizontal: Horizontal,
    pub vertical: Vertical,
}

impl Chart<'_> {
    /// A figure with its caption and legend. Empty if there is nothing to draw.
    pub fn render(&self) -> String {
        let Some(scale) = self.scale() else { return String::new() };
        let mut out = String::new();
        // Writing to a string cannot fail, here and below.
        let _ = write!(out, "<figure><figcaption><b>{}</b> <span>{}</span>", self.title, self.unit);
        if self.lines.len() > 1 {
            for line in &self.lines {
                let _ = write!(out, "<i class=\"k{}\">{}</i>", line.colour, line.label);
            }
        }
        let _ = write!(
            out,
            "</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            self.title
        );
        self.draw(&scale, &mut out);
        out.push_str("</svg></figure>");
        out
    }

    /// A file of its own, with title, legend and style inside. Empty if there is nothing to draw.
    pub fn document(&self, axis: &str) -> String {
        let Some(scale) = self.scale() else { return String::new() };
        let (head, foot) = (64.0, 26.0);
        let height = HEIGHT + head + foot;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 {:.0} {WIDTH} {height:.0}\" role=\"img\"><style>\
             {STANDALONE}</style><rect class=\"card\" y=\"{:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\"/>",
            -head, -head
        );
        let _ = write!(
            out,
            "<text class=\"title\" x=\"16\" y=\"-42\">{}</text><text x=\"16\" y=\"-24\">{}</text>",
            escape(&self.title),
            escape(&self.unit)
        );
        let mut x = 16.0;
        for line in &self.lines {
            let label = escape(&line.label);
            let _ = write!(
                out,
                "<rect class=\"b{}\" x=\"{x:.0}\" y=\"-11\" width=\"12\" height=\"4\" rx=\"2\"/>\
                 <text x=\"{:.0}\" y=\"-5\">{label}</text>",
                line.colour,
                x + 17.0
            );
            x += 40.0 + 6.5 * line.label.chars().count() as f64;
        }
        self.draw(&scale, &mut out);
        let _ = writeln!(
            out,
            "<text class=\"x\" x=\"{:.0}\" y=\"{:.0}\">{}</text></svg>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT + 8.0,
            escape(axis)
        );
        out
    }

    fn draw(&self, scale: &Scale, out: &mut String) {
        self.draw_stages(scale, out);
        self.draw_axes(scale, out);
        for line in &self.lines {
            draw_line(line, scale, out);
        }
    }

    fn scale(&self) -> Option<Scale> {
        let values = || self.lines.iter().flat_map(|line| &line.points);
        let xs = || values().map(|(x, _)| position(self.horizontal, *x));
        let ys = || values().filter_map(|(_, y)| *y);
        let x_max = xs().chain(self.stage_ends()).fold(f64::MIN, f64::max);
        let y_max = ys().fold(f64::MIN, f64::max);
        if x_max <= 0.0 || y_max == f64::MIN {
            return None;
        }
        let (y_min, y_max, y_ticks) = match self.vertical {
            Vertical::FromZero => {
                let ticks = round_ticks(y_max);
                (0.0, *ticks.last()?, ticks)
            }
            Vertical::Logarithmic => {
                let least = ys().filter(|y| *y > 0.0).fold(f64::MAX, f64::min).min(y_max);
                logarithmic_ticks(least, y_max)
            }
        };
        Some(Scale { x_max, y_min, y_max, y_ticks, horizontal: self.horizontal, vertical: self.vertical })
    }

    fn stage_ends(&self) -> impl Iterator<Item = f64> {
        self.stages.iter().map(|stage| stage.to)
    }

    fn draw_stages(&self, scale: &Scale, out: &mut String) {
        for (index, stage) in self.stages.iter().enumerate() {
            let (from, to) = (scale.x(stage.from), scale.x(stage.to));
            if index % 2 == 1 {
                let _ = write!(
                    out,
                    "<rect class=\"band\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                    to - from,
                    HEIGHT - TOP - BOTTOM
                );
            }
            if to - from >= STAGE_LABEL_WIDTH {
                let _ = write!(
                    out,
                    "<text class=\"stage\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                    f64::midpoint(from, to),
                    TOP - 7.0,
                    stage.name
                );
            }
        }
    }

    fn draw_axes(&self, scale: &Scale, out: &mut String) {
        for &tick in &scale.y_ticks {
            let y = scale.y(tick);
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{:.1}\"/><text class=\"y\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                short(tick)
            );
        }
        let ticks: Vec<(f64, String)> = match self.horizontal {
            Horizontal::Time => round_ticks(scale.x_max)
                .into_iter()
                .filter(|tick| *tick <= scale.x_max)
                .map(|tick| (tick, format!("{} s", number(tick))))
                .collect(),
            Horizontal::Linear => round_ticks(scale.x_max)
                .into_iter()
                .filter(|tick| *tick <= scale.x_max)
                .map(|tick| (tick, number(tick)))
                .collect(),
            Horizontal::Percentile => [(50.0, "50 %"), (90.0, "90 %"), (99.0, "99 %")]
                .into_iter()
                .chain([(99.9, "99.9 %"), (99.99, "99.99 %"), (99.999, "99.999 %"), (99.9999, "99.9999 %")])
                .filter(|(tick, _)| position(Horizontal::Percentile, *tick) <= scale.x_max)
                .map(|(tick, label)| (tick, label.to_owned()))
                .collect(),
        };
        for (tick, label) in ticks {
            let x = scale.x(tick);
            let bottom = HEIGHT - BOTTOM;
            let _ = write!(
                out,
                "<path class=\"grid\" d=\"M{x:.1} {bottom:.1}v5\"/><text class=\"x\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>",
                bottom + 19.0
            );
        }
    }
}

struct Scale {
    x_max: f64,
    y_min: f64,
    y_max: f64,
    y_ticks: Vec<f64>,
    horizontal: Horizontal,
    vertical: Vertical,
}

impl Scale {
    fn x(&self, value: f64) -> f64 {
        LEFT + position(self.horizontal, value) / self.x_max * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let part = match self.vertical {
            Vertical::FromZero => value / self.y_max,
            Vertical::Logarithmic => {
                (value.max(self.y_min) / self.y_min).ln() / (self.y_max / self.y_min).ln()
            }
        };
        HEIGHT - BOTTOM - part.clamp(0.0, 1.0) * (HEIGHT - TOP - BOTTOM)
    }
}

fn draw_line(line: &Line, scale: &Scale, out: &mut String) {
    let runs = line.points.split(|(_, y)| y.is_none()).filter(|run| !run.is_empty());
    let (mut path, mut area) = (String::new(), String::new());
    for run in runs {
        for (index, &(x, y)) in run.iter().enumerate() {
            let (x, y) = (scale.x(x), scale.y(y.unwrap_or(0.0)));
            let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
            let _ = match index {
                0 => write!(area, "M{x:.1} {:.1}L{x:.1} {y:.1}", HEIGHT - BOTTOM),
                _ => write!(area, "L{x:.1} {y:.1}"),
            };
        }
        let last = run.last().map_or(0.0, |(x, _)| scale.x(*x));
        let _ = write!(area, "L{last:.1} {:.1}Z", HEIGHT - BOTTOM);
        if let [(x, Some(y))] = run {
            // A lone point would be an invisible line.
            let _ = write!(
                out,
                "<circle class=\"d{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2\"/>",
                line.colour,
                scale.x(*x),
                scale.y(*y)
            );
        }
    }
    if line.filled {
        let _ = write!(out, "<path class=\"a{}\" d=\"{area}\"/>", line.colour);
    }
    let _ = write!(out, "<path class=\"l{}\" d=\"{path}\"/>", line.colour);
}

/// Text as it may stand in a document.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where a value lies on the horizontal axis, before it is scaled.
fn position(horizontal: Horizontal, value: f64) -> f64 {
    match horizontal {
        Horizontal::Time | Horizontal::Linear => value,
        // 100 % would lie at infinity: nine nines are enough for it.
        Horizontal::Percentile => -((1.0 - value / 100.0).max(1e-9)).log10(),
    }
}

/// Round values from 0 to at least `max`.
fn round_ticks(max: f64) -> Vec<f64> {
    if max <= 0.0 {
        return vec![0.0, 1.0];
    }
    let rough = max / TICKS as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|part| part * power).find(|step| *step >= rough);
    let step = step.unwrap_or(10.0 * power);
    let steps = (max / step - 1e-9).ceil() as usize;
    (0..=steps).map(|index| index as f64 * step).collect()
}

/// The range that is drawn, and round values in it.
fn logarithmic_ticks(min: f64, max: f64) -> (f64, f64, Vec<f64>) {
    let decade = |value: f64, round: fn(f64) -> f64| 10_f64.powf(round(value.log10()));
    let (low, high) = (decade(min, f64::floor), decade(max, f64::ceil));
    let high = if high > low { high } else { low * 10.0 };
    let decades = (high / low).log10().round() as i32;
    let parts: &[f64] = if decades <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let all = (0..=decades).flat_map(|power| parts.iter().map(move |part| low * 10_f64.powi(power) * part));
    (low, high, all.filter(|tick| *tick <= high * 1.000_001).collect())
}

/// For an axis, where there is little room.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{}M", number(value / 1e6)),
        size if size >= 1e4 => format!("{}k", number(value / 1e3)),
        0.0 => "0".to_owned(),
        size if size < 0.001 => format!("{value:.0e}"),
        _ => {
            let text = format!("{value:.3}");
            let text = text.trim_end_matches('0').trim_end_matches('.');
            if value.abs() >= 1_000.0 { number(value) } else { text.to_owned() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(round_ticks(100.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(round_ticks(7.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(round_ticks(0.0), [0.0, 1.0]);
        let (low, high, ticks) = logarithmic_ticks(0.03, 45.0);
        assert_eq!((low, high), (0.01, 100.0));
        assert_eq!(ticks.len(), 5);
        assert_eq!(logarithmic_ticks(1.0, 1.0).1, 10.0);
    }

    #[test]
    fn each_nine_takes_the_same_room() {
        let at = |value| position(Horizontal::Percentile, value);
        let (a, b, c) = (at(90.0) - at(0.0), at(99.0) - at(90.0), at(99.9) - at(99.0));
        assert!((a - b).abs() < 1e-9 && (b - c).abs() < 1e-9);
        assert!(at(100.0).is_finite());
    }

    #[test]
    fn a_gap_breaks_the_line_and_nothing_leaves_the_frame() {
        let points = vec![(0.0, Some(1.0)), (1.0, None), (2.0, Some(5.0)), (3.0, Some(2.0))];
        let chart = Chart {
            title: "t".into(),
            unit: "u".into(),
            lines: vec![Line { label: "a".into(), colour: 1, filled: true, points }],
            stages: &[],
            horizontal: Horizontal::Time,
            vertical: Vertical::FromZero,
        };
        let drawn = chart.render();
        let line = drawn.split("class=\"l1\" d=\"").nth(1).unwrap().split('"').next().unwrap();
        assert_eq!(line.matches('M').count(), 2);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
        let nothing = Chart { lines: Vec::new(), ..chart };
        assert_eq!(nothing.render(), "");
    }
}
