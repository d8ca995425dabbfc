//! A report as one page that needs nothing else: `page.html`, with what it shows inside.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::{Findings, Group, Report};

const PAGE: &str = include_str!("page.html");
/// Stands in the page for its data.
const DATA: &str = "null /* data */";

/// What `page.html` draws.
#[derive(Serialize)]
struct Page<'a, F> {
    report: &'a Report<F>,
    described: String,
    failures: Vec<String>,
    groups: Vec<Group>,
}

pub fn write<F: Findings>(report: &Report<F>, path: &Path) -> io::Result<()> {
    fs::write(path, render(report)?)
}

fn render<F: Findings>(report: &Report<F>) -> io::Result<String> {
    let page = Page {
        report,
        described: report.run.described(),
        failures: report.failures(),
        groups: report.findings.groups(),
    };
    // Inside a script, a `<` could end it; in JSON it can be written otherwise.
    let data = serde_json::to_string(&page)?.replace('<', "\\u003c");
    Ok(PAGE.replacen(DATA, &data, 1))
}

#[cfg(test)]
mod tests {
    use super::super::LoadFindings;
    use super::*;

    #[test]
    fn a_page_needs_nothing_from_elsewhere_and_its_data_cannot_end_the_script() {
        let mut report = Report::<LoadFindings>::default();
        report.run.title = "</script><script>alert(1)</script>".to_owned();
        report.findings.deliveries.lost = 3;
        let page = render(&report).unwrap();
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
        assert!(page.contains("\\u003c/script>") && page.contains("\"3 lost\""));
        assert!(!page.contains("https://") && !page.contains("src=") && !page.contains("import"));
    }
}
