//! Reports for a terminal, and the words and numbers that the page has too.

use std::fmt::Write;

use super::{Findings, Latency, Report};

const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// What did not go well stands on top; in red, if `coloured`.
pub fn render<F: Findings>(report: &Report<F>, coloured: bool) -> String {
    let run = &report.run;
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    let _ = writeln!(text, "{}\n{}\n{}", run.title, run.described(), run.command_line.join(" "));
    for failure in report.failures() {
        let _ = match coloured {
            true => writeln!(text, "{RED}✗ {failure}{PLAIN}"),
            false => writeln!(text, "✗ {failure}"),
        };
    }
    for group in report.findings.groups() {
        let _ = writeln!(text, "\n{}", group.heading);
        for (what, value) in group.rows {
            let _ = writeln!(text, "  {what:<36} {value}");
        }
    }
    if run.thresholds.iter().any(|threshold| threshold.held) {
        let _ = writeln!(text, "\nThresholds that held");
        for threshold in run.thresholds.iter().filter(|threshold| threshold.held) {
            let measured = threshold.measured.map_or(String::new(), number);
            let _ = writeln!(text, "  {:<36} {measured} (limit {})", threshold.name, number(threshold.limit));
        }
    }
    text
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

pub fn count(value: u64) -> String {
    number(value as f64)
}

#[cfg(test)]
mod tests {
    use super::super::{LoadFindings, check};
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
    fn what_did_not_go_well_stands_on_top() {
        let mut report = Report::<LoadFindings>::default();
        report.run.thresholds =
            check([("max-lost", Some(0.0), Some(3.0)), ("max-p99-ms", Some(9.0), Some(1.0))]);
        report.findings.deliveries.lost = 3;
        let told = render(&report, true);
        let failures =
            "\x1b[31m✗ max-lost broken: 3 (limit 0)\x1b[0m\n\x1b[31m✗ 3 lost\x1b[0m\n\nConnections";
        assert!(told.contains(failures), "{told}");
        assert!(!render(&report, false).contains('\x1b') && told.contains("max-p99-ms"));
    }
}
