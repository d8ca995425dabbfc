//! Reports for a terminal.

use std::fmt::Write;

use super::Report;
use super::figures::number;

const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

impl Report {
    /// What did not go well stands on top; in red, if `coloured`.
    pub fn text(&self, coloured: bool) -> String {
        let (red, plain) = if coloured { (RED, PLAIN) } else { ("", "") };
        let run = &self.run;
        let mut text = format!("{}\n{}\n{}\n", run.title, run.described(), run.command_line.join(" "));
        // Writing to a string cannot fail, here and below.
        for failure in &self.failures {
            let _ = writeln!(text, "{red}✗ {failure}{plain}");
        }
        for group in &self.groups {
            let _ = writeln!(text, "\n{}", group.heading);
            for (what, value) in &group.rows {
                let _ = writeln!(text, "  {what:<36} {value}");
            }
        }
        for (place, threshold) in run.thresholds.iter().filter(|threshold| threshold.held).enumerate() {
            let heading = if place == 0 { "\nThresholds that held\n" } else { "" };
            let [measured, limit] = [threshold.measured.unwrap_or_default(), threshold.limit].map(number);
            let _ = writeln!(text, "{heading}  {:<36} {measured} (limit {limit})", threshold.name);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::Group;
    use super::super::tests::report;
    use crate::thresholds::Threshold;

    #[test]
    fn what_did_not_go_well_stands_on_top() {
        let mut report = report("x");
        let held = Threshold { name: "max-p99-ms".to_owned(), limit: 9.0, measured: Some(1.0), held: true };
        report.run.thresholds = vec![held];
        report.groups = vec![Group { heading: "Deliveries".to_owned(), rows: Vec::new() }];
        let told = report.text(true);
        assert!(told.contains("\x1b[31m✗ 3 lost\x1b[0m\n\nDeliveries"), "{told}");
        assert!(
            told.contains("Thresholds that held\n  max-p99-ms") && told.contains("1 (limit 9)"),
            "{told}"
        );
        assert!(!report.text(false).contains('\x1b'));
    }
}
