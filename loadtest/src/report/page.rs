//! A report as one self-contained page: `page.html` with the data inside.

use std::io;

use serde_json::{Value, json};

use super::Report;

const PAGE: &str = include_str!("page.html");
/// The placeholder in the page for its data.
const DATA: &str = "null /* data */";

impl Report {
    pub fn page(&self) -> io::Result<String> {
        let told = json!({
            "report": serde_json::from_str::<Value>(&self.json)?,
            "described": self.run.described(),
            "failures": self.failures,
            "groups": self.groups,
        });
        // Inside a script, a `<` could end it; in JSON it can be written otherwise.
        Ok(PAGE.replacen(DATA, &told.to_string().replace('<', "\\u003c"), 1))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::report::RunInfo;

    #[test]
    fn a_page_needs_nothing_from_elsewhere_and_its_data_cannot_end_the_script() {
        let json = json!({"title": "</script><script>alert(1)</script>"}).to_string();
        let run = RunInfo::new("x", SystemTime::UNIX_EPOCH);
        let report = Report { run, json, failures: vec!["3 lost".to_owned()], groups: Vec::new() };
        let page = report.page().unwrap();
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
        assert!(page.contains("\\u003c/script>") && page.contains("\"3 lost\""));
        assert!(!page.contains("https://") && !page.contains("src=") && !page.contains("import"));
    }
}
