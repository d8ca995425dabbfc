//! A report as one page that needs nothing else: `page.html`, with what it shows inside.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::Report;

const PAGE: &str = include_str!("page.html");
/// Stands in the page for its data.
const DATA: &str = "null /* data */";

impl Report {
    pub fn write_page(&self, path: &Path) -> io::Result<()> {
        fs::write(path, self.page()?)
    }

    fn page(&self) -> io::Result<String> {
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
    use super::super::tests::report;

    #[test]
    fn a_page_needs_nothing_from_elsewhere_and_its_data_cannot_end_the_script() {
        let page = report("</script><script>alert(1)</script>").page().unwrap();
        assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
        assert!(page.contains("\\u003c/script>") && page.contains("\"3 lost\""));
        assert!(!page.contains("https://") && !page.contains("src=") && !page.contains("import"));
    }
}
