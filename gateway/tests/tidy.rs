//! The rules of ARCHITECTURE.md that a program can check: who may name whom, and what must not be named at all.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::{Path, PathBuf};

/// Files longer than this want splitting by event or verb. Most are far shorter.
const LINES_MAX: usize = 600;

/// A rule: code under `inside` does not say `never`, except in `except`.
struct Absence {
    inside: &'static str,
    never: &'static [&'static str],
    except: &'static [&'static str],
}

const ABSENCES: &[Absence] = &[
    // The lower storeys do no IO because they have nothing to do it with.
    Absence {
        inside: "shared/src",
        never: &[
            "tokio::",
            "std::net",
            "std::fs",
            "std::env",
            "std::io",
            "Instant::now",
            "SystemTime",
            "rand::",
        ],
        except: &[],
    },
    Absence {
        inside: "gateway/core/src",
        never: &[
            "tokio::",
            "std::net",
            "std::fs",
            "std::env",
            "std::io",
            "Instant::now",
            "SystemTime",
            "rand::",
        ],
        except: &[],
    },
    Absence { inside: "gateway/core/src/session", never: &["crate::hub", "crate::feed"], except: &[] },
    Absence {
        inside: "gateway/core/src/hub",
        never: &["crate::session", "centrifuge", "raw::Raw"],
        except: &[],
    },
    Absence { inside: "shared/src/framing", never: &["crate::protocol", "crate::command"], except: &[] },
    Absence { inside: "shared/src/protocol", never: &["framing::websocket"], except: &[] },
    // What arrives leaves a broker through the events it was made with.
    Absence { inside: "gateway/src/broker", never: &["crate::node", "crate::worker"], except: &[] },
    Absence { inside: "gateway/src/presence", never: &["crate::node", "crate::worker"], except: &[] },
    Absence {
        inside: "gateway/src/transport",
        never: &["gateway_core::session", "crate::worker", "crate::node"],
        except: &[],
    },
    Absence {
        inside: "gateway/src/node",
        never: &["crate::http", "crate::listener", "gateway_core::session"],
        except: &[],
    },
    Absence {
        inside: "gateway/src/telemetry",
        never: &["crate::node", "crate::worker", "crate::connection"],
        except: &[],
    },
    // Parts are given their own settings, not everybody's.
    Absence {
        inside: "gateway/src",
        never: &["crate::config::Config"],
        except: &[
            "gateway/src/app.rs",
            "gateway/src/cli.rs",
            "gateway/src/config",
            "gateway/src/broker/connect.rs",
        ],
    },
    // A session meets the hub and the node in one place.
    Absence { inside: "gateway/src", never: &["Effect::"], except: &["gateway/src/connection/perform.rs"] },
    // Raw descriptors are sent to in one place.
    Absence { inside: "gateway/src", never: &["unsafe {"], except: &["gateway/src/transport/direct.rs"] },
    Absence { inside: "shared/src", never: &["unsafe {"], except: &[] },
    Absence { inside: "gateway/core/src", never: &["unsafe {"], except: &[] },
];

#[test]
fn every_arrow_points_down() {
    let mut broken = Vec::new();
    for absence in ABSENCES {
        for (path, text) in sources(absence.inside) {
            if absence.except.iter().any(|except| path.starts_with(except)) {
                continue;
            }
            let code = without_tests_and_comments(&text);
            for never in absence.never.iter().filter(|never| code.contains(**never)) {
                broken.push(format!("{path} names {never}"));
            }
        }
    }
    assert!(broken.is_empty(), "see the invariants in ARCHITECTURE.md:\n{}", broken.join("\n"));
}

#[test]
fn every_file_says_what_it_holds_and_is_not_too_long() {
    let mut broken = Vec::new();
    for (path, text) in ["shared", "gateway", "loadtest", "benches", "fuzz"].into_iter().flat_map(sources) {
        if !text.starts_with("//!") {
            broken.push(format!("{path} does not begin with a line of what it holds"));
        }
        if text.lines().count() > LINES_MAX {
            broken.push(format!("{path} has more than {LINES_MAX} lines"));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_that_is_linked_is_there() {
    let root = root();
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md"), root.join("CONTRIBUTING.md")];
    collect(&root.join("docs"), "md", &mut pages);
    let mut broken = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            let is_local = !target.is_empty() && !target.contains("://");
            if is_local && !page.parent().unwrap().join(target).exists() {
                broken.push(format!("{} links to {link}", page.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every Rust file below a folder, by its path from the root.
fn sources(inside: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(&root().join(inside), "rs", &mut files);
    files.sort();
    let read = |file: PathBuf| {
        let path = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        (path, std::fs::read_to_string(&file).unwrap())
    };
    files.into_iter().map(read).collect()
}

fn collect(folder: &Path, ending: &str, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, ending, files);
        } else if path.extension().is_some_and(|found| found == ending) {
            files.push(path);
        }
    }
}

/// Tests may reach for anything, and comments may speak of it.
fn without_tests_and_comments(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}
