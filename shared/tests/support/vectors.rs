//! Vector files, which hold named cases.

/// One case of a vector file: its name, the input (lines with `>`) and the expected results (lines with `=` or `!`).
pub(crate) struct Case<'a> {
    pub(crate) name: &'a str,
    pub(crate) frame: String,
    pub(crate) expected: Vec<String>,
}

pub(crate) fn cases(file: &str) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    for line in file.lines() {
        if let Some(name) = line.strip_prefix("# ") {
            cases.push(Case { name, frame: String::new(), expected: Vec::new() });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        if let Some(line) = line.strip_prefix('>') {
            case.frame.push_str(line.trim_start());
            case.frame.push('\n');
        } else if let Some(line) = line.strip_prefix("= ") {
            case.expected.push(line.to_owned());
        } else if line.starts_with("! ") {
            case.expected.push(line.to_owned());
        }
    }
    for case in &mut cases {
        case.frame.pop();
    }
    assert!(cases.len() > 10, "the file was not read");
    cases
}
