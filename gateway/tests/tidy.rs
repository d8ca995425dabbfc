//! Checks the rules of ARCHITECTURE.md that a program can check: which code may use which, and what no code may use.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[path = "support/code.rs"]
mod code;
#[path = "support/pages.rs"]
mod pages;

/// The longest file allowed. Longer ones should be split by event or verb; most are far shorter.
const LINES_MAX: usize = 600;

/// A rule: code under `inside` does not contain `never`, except in the files `except`. Words are written as
/// [`code::code_of`] writes them, paths from their root.
struct Absence {
    inside: &'static str,
    never: &'static [&'static str],
    except: &'static [&'static str],
}

const ABSENCES: &[Absence] = &[
    // The two lower layers do no IO because they do not use anything that does.
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
    // A broker reports what arrives through the events that it was created with.
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
        never: &["crate::node", "crate::worker", "crate::client"],
        except: &[],
    },
    // A part of the program receives its own settings, not the whole configuration.
    Absence {
        inside: "gateway/src",
        never: &["crate::config::Config"],
        except: &[
            "gateway/src/app.rs",
            "gateway/src/cli.rs",
            "gateway/src/config",
            "gateway/src/app/connect.rs",
            "gateway/src/app/reload.rs",
        ],
    },
    // One file connects sessions with the hub and the node.
    Absence { inside: "gateway/src", never: &["Effect::"], except: &["gateway/src/client/perform.rs"] },
    // Unsafe code is only where bytes are sent to raw descriptors, and where the allocator reads a symbol of ours.
    Absence {
        inside: "gateway/src",
        never: &["unsafe"],
        except: &[
            "gateway/src/transport/direct.rs",
            "gateway/src/transport/send_batch.rs",
            "gateway/src/allocator.rs",
        ],
    },
    Absence { inside: "shared/src", never: &["unsafe"], except: &[] },
    Absence { inside: "gateway/core/src", never: &["unsafe"], except: &[] },
    // Code included from elsewhere would escape these checks.
    Absence { inside: "gateway/src", never: &["include!", "#[path"], except: &[] },
    Absence { inside: "shared/src", never: &["include!", "#[path"], except: &[] },
    Absence { inside: "gateway/core/src", never: &["include!", "#[path"], except: &[] },
];

#[test]
fn every_arrow_points_down() {
    let mut broken = Vec::new();
    for absence in ABSENCES {
        let files = sources(absence.inside);
        let tests: Vec<String> =
            files.iter().flat_map(|(path, text)| code::modules_of_tests(path, text)).collect();
        for (path, text) in files {
            let is_spared = absence.except.iter().any(|except| path.starts_with(except))
                || tests.iter().any(|tests| path.starts_with(&**tests));
            if is_spared {
                continue;
            }
            let code = code::code_of(&path, &text);
            for never in absence.never.iter().filter(|never| code::names(&code, never)) {
                broken.push(format!("{path} names {never}"));
            }
        }
    }
    assert!(broken.is_empty(), "see the invariants in ARCHITECTURE.md:\n{}", broken.join("\n"));
}

/// Modules that form one unit: a client lives on a worker, and both call the node, which answers into their inboxes.
const ONE_THING: [&str; 3] = ["client", "worker", "node"];

#[test]
fn no_module_of_the_gateway_needs_one_that_needs_it() {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in sources("gateway/src") {
        let module = path.trim_start_matches("gateway/src/").trim_end_matches(".rs");
        let module = module.split('/').next().unwrap_or_default();
        let of = |module: &str| if ONE_THING.contains(&module) { "client" } else { module }.to_owned();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let code = code::code_of(&path, &text);
        let named = code.split("crate::").skip(1).filter_map(|rest| {
            let end = rest.find(|found: char| !(found.is_alphanumeric() || found == '_'));
            Some(of(&rest[..end?])).filter(|named| *named != of(module))
        });
        needs.entry(of(module)).or_default().extend(named);
    }
    assert!(needs["client"].contains("transport") && needs.len() > 15, "{needs:?}");
    // Removes modules that need no remaining module; those that are left depend on each other in a circle.
    while let Some(free) = needs.iter().find(|(_, of)| !of.iter().any(|one| needs.contains_key(one))) {
        let free = free.0.clone();
        needs.remove(&free);
    }
    assert!(needs.is_empty(), "these need each other: {needs:?}");
}

#[test]
fn what_code_names_is_seen_however_it_is_written() {
    for (never, text) in [
        ("unsafe", "unsafe impl Sync for A {}"),
        ("unsafe", "let a = unsafe\n{ b() };"),
        ("unsafe", "#[unsafe(no_mangle)] fn a() {}"),
        ("unsafe", "macro_rules! a { () => { unsafe { b() } } }"),
        ("unsafe", "const A: &str = \"/*\"; unsafe fn a() {} // */"),
        ("unsafe", "const A: char = '\"'; unsafe fn a() {} const B: char = '\\'';"),
        ("unsafe", "const A: &str = r#\"\"//\"#; unsafe fn a() {}"),
        ("unsafe", "/* /* */ */ unsafe fn a() {}"),
        ("unsafe", "#[cfg(test)] use a::{b, c}; unsafe fn a() {}"),
        ("unsafe", "#[cfg(test)]\n#[derive(Debug)]\nstruct A<B, C>(B, C);\nunsafe fn a() {}"),
        ("unsafe", "impl A { #[cfg(test)] fn a() {} } unsafe fn b() {}"),
        ("unsafe", "struct A { #[cfg(test)] a: u8 } unsafe fn b() {}"),
        ("unsafe", "#[cfg(test)] mod tests { fn a() { '}'; \"}\"; } } unsafe fn b() {}"),
        ("unsafe", "#[cfg(not(test))] unsafe fn a() {}"),
        ("unsafe", "#[cfg(any(test, unix))] unsafe fn a() {}"),
        ("std::net", "use std::{\n    fmt,\n    net::{self, IpAddr},\n};"),
        ("std::net", "fn a<'a>(b: &'a std :: /* not */ net::IpAddr) {}"),
        ("tokio::", "use tokio as t; fn a() { t::spawn(b()) }"),
        ("tokio::", "fn a() { ::r#tokio::spawn(b()) }"),
        ("tokio::", "use ::tokio::spawn;"),
        ("Instant::now", "use std::time::{Duration, Instant as Clock}; fn a() { Clock::now(); }"),
        ("Effect::", "use a::Effect::*;"),
        ("crate::hub", "use crate::{feed, hub::Hub};"),
        ("crate::hub", "use super::super::hub::Hub;"),
        ("crate::hub", "fn a() -> super::super::hub::Hub { b() }"),
        ("crate::hub", "pub(super) use self::super::super::hub;"),
        ("crate::session::state", "use self::state::State;"),
        ("crate::session::on_connect::state", "use self::state::State;"),
        ("include!", "include!(\"a.rs\");"),
        ("#[path", "#[path = \"a.rs\"] mod a;"),
    ] {
        let paths = ["gateway/core/src/session/on_connect.rs", "gateway/core/src/session/mod.rs"];
        let is_seen = |path: &&str| code::names(&code::code_of(path, text), never);
        // A path that begins with `super` or `self` depends on where the file is.
        assert!(paths.iter().any(is_seen), "{never} in {text}: {}", code::code_of(paths[0], text));
    }
}

#[test]
fn what_code_does_not_name_is_not_seen() {
    for (never, text) in [
        ("unsafe", "#![expect(unsafe_code)] // unsafe\n/* unsafe */ const A: &str = \"unsafe\";"),
        ("unsafe", "const A: &[u8] = br##\"unsafe \"# unsafe\"##; const B: &str = \"\\\" unsafe\";"),
        ("unsafe", "#[cfg(test)] unsafe fn a() {}"),
        ("unsafe", "#[cfg(test)]\nmod tests { mod more { unsafe fn a() {} } }"),
        ("unsafe", "#[cfg(all(test, unix))] mod tests { unsafe fn a() {} }"),
        ("unsafe", "#![cfg(test)] unsafe fn a() {}"),
        ("rand::", "use operand::a;"),
        ("tokio::", "use tokio_util::task; fn a(tokio: u8) -> impl Fn() + use<'_> { b() }"),
        ("crate::hub", "use crate::session::hub; use super::hub;"),
    ] {
        let code = code::code_of("gateway/core/src/session/on_connect.rs", text);
        assert!(!code::names(&code, never), "{never} in {text}: {code}");
    }
    let text = "mod a; #[cfg(test)] mod tests; #[cfg(test)] #[path = \"b_tests.rs\"] mod b;";
    let tests = code::modules_of_tests("gateway/core/src/feed.rs", text);
    let expected =
        ["gateway/core/src/feed/tests.rs", "gateway/core/src/feed/tests/", "gateway/core/src/b_tests.rs"];
    assert_eq!(tests, expected);
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

/// The sources of the crates in which names of types and files must be unique.
const CRATES: [&str; 3] = ["shared/src", "gateway/core/src", "gateway/src"];

/// Files that may share their name with others of their crate: below this folder, with one of these names, or with any if
/// there are none.
struct SameName {
    inside: &'static str,
    names: &'static [&'static str],
}

const SAME_NAMES: &[SameName] = &[
    // Every protocol and every framing has a folder with a file per step, and the steps have the same names.
    SameName { inside: "shared/src/protocol", names: &[] },
    SameName { inside: "shared/src/framing", names: &[] },
    // Presence, ledger and sessions each have implementations in memory, over several servers and in NATS.
    SameName { inside: "gateway/src", names: &["memory.rs", "shards.rs", "nats.rs"] },
];

/// Names that Rust gives to the file of a folder, of a crate, or of a module's tests.
const FILES_OF_RUST: [&str; 4] = ["mod.rs", "lib.rs", "main.rs", "tests.rs"];

#[test]
fn a_type_and_a_file_have_names_that_stand_once_in_their_crate() {
    let mut broken = Vec::new();
    for inside in CRATES {
        let sources = sources(inside);
        let tests: Vec<String> =
            sources.iter().flat_map(|(path, text)| code::modules_of_tests(path, text)).collect();
        let (mut types, mut files) = (BTreeMap::<String, Vec<&str>>::new(), BTreeMap::new());
        for (path, text) in &sources {
            if tests.iter().any(|tests| path.starts_with(&**tests)) {
                continue;
            }
            for name in types_of(&code::code_of(path, text)) {
                types.entry(name).or_default().push(path);
            }
            let name = path.rsplit('/').next().unwrap_or_default();
            let may_recur = |same: &SameName| {
                path.starts_with(same.inside) && (same.names.is_empty() || same.names.contains(&name))
            };
            if !FILES_OF_RUST.contains(&name) && !SAME_NAMES.iter().any(may_recur) {
                files.entry(name.to_owned()).or_insert_with(Vec::new).push(&**path);
            }
        }
        assert!(types.len() > 100 && files.len() > 10, "{inside}: {} and {}", types.len(), files.len());
        let recurring = types.iter().chain(&files).filter(|(_, paths)| paths.len() > 1);
        broken.extend(recurring.map(|(name, paths)| format!("{name}: {}", paths.join(", "))));
    }
    assert!(broken.is_empty(), "these names stand more than once:\n{}", broken.join("\n"));
}

/// Participles that name what was done to a thing. Names should say what the thing is: a message instead of `told`, a request
/// instead of `asked`, a reply instead of `said`, `retained` for `kept`, a history for the `past`, `pending` for `owed`,
/// `received` for `heard`, `excluded` for `spared`, `repaired` for `mended`.
const NO_NAMES: [&str; 9] = ["told", "asked", "said", "kept", "past", "owed", "heard", "spared", "mended"];

#[test]
fn what_stands_in_code_is_named_by_what_it_is_and_not_by_what_was_done_to_it() {
    let is_no_name = |word: &str| NO_NAMES.contains(&word.rsplit('_').next().unwrap_or_default());
    assert!(["told", "failed_told"].into_iter().all(is_no_name) && !is_no_name("told_apart"));
    let mut broken = BTreeSet::new();
    for inside in CRATES {
        let sources = sources(inside);
        let tests: Vec<String> =
            sources.iter().flat_map(|(path, text)| code::modules_of_tests(path, text)).collect();
        for (path, text) in &sources {
            if tests.iter().any(|tests| path.starts_with(&**tests)) {
                continue;
            }
            // Strings are not names.
            let code = code::code_of(path, text);
            let words = code
                .split('"')
                .step_by(2)
                .flat_map(|code| code.split(|found: char| !(found.is_alphanumeric() || found == '_')));
            broken.extend(words.filter(|word| is_no_name(word)).map(|word| format!("{path}: {word}")));
        }
    }
    assert!(broken.is_empty(), "these need other names:\n{}", Vec::from_iter(broken).join("\n"));
}

#[test]
fn types_are_found_wherever_they_are_written_down_and_those_of_traits_are_not_meant() {
    let code = code::code_of(
        "gateway/src/a.rs",
        "pub(crate) struct A<T>(T);\nimpl<T> B for A<T> { type C = D; fn e() -> impl F { struct G; } }
        enum H { I } trait J { type K; } type L = M; const N: &str = \"struct O\";
        macro_rules! p { ($q:ident) => { struct $q; }; } #[cfg(test)] mod r { struct S; }",
    );
    assert_eq!(types_of(&code), ["A", "G", "H", "J", "L"], "{code}");
}

/// Returns the names of the types that a piece of code defines, in their order, without associated types.
fn types_of(code: &str) -> Vec<String> {
    let is_word = |found: char| found.is_alphanumeric() || found == '_';
    let (mut names, mut rest) = (Vec::new(), code);
    // For each open block, whether it belongs to a trait or an implementation, and whether the next one will.
    let (mut blocks, mut header) = (Vec::new(), None);
    while let Some(first) = rest.chars().next() {
        let end = match is_word(first) {
            true => rest.find(|found| !is_word(found)).unwrap_or(rest.len()),
            false => first.len_utf8(),
        };
        let (token, behind) = rest.split_at(end);
        rest = behind;
        match token {
            "{" => blocks.push(header.take() == Some(true)),
            "}" => (header, _) = (None, blocks.pop()),
            ";" => header = None,
            "fn" => header = Some(false),
            "impl" | "trait" if header.is_none() => header = Some(true),
            _ => {}
        }
        let defines = match token {
            "struct" | "enum" | "union" | "trait" => true,
            "type" => blocks.last() != Some(&true),
            _ => false,
        };
        let name = rest.strip_prefix(' ').unwrap_or_default();
        let name = &name[..name.find(|found| !is_word(found)).unwrap_or(name.len())];
        if defines && name.starts_with(char::is_uppercase) {
            names.push(name.to_owned());
        }
    }
    names
}

#[test]
fn every_fuzz_target_is_built_and_its_check_runs_in_every_test_run() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let (manifest, own) = (read("fuzz/Cargo.toml"), read("gateway/tests/fuzz_smoke.rs"));
    let shared = read("shared/tests/fuzz_smoke.rs");
    let targets = sources("fuzz/targets");
    assert!(targets.len() >= 13, "{}", targets.len());
    for (path, _) in targets {
        let name = path.trim_start_matches("fuzz/targets/").trim_end_matches(".rs");
        assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "fuzz/Cargo.toml lacks {name}");
        let runs = |smoke: &str| smoke.contains(&format!(": {name};"));
        assert!(runs(&own) || runs(&shared), "no smoke test runs {name}");
        assert!(!runs(&own) || root().join("fuzz/seeds").join(name).is_dir(), "{name} has no seeds");
    }
}

#[test]
fn every_finding_cleans_up_after_itself_and_fails_when_it_is_no_longer_true() {
    use std::os::unix::fs::PermissionsExt;

    let mut files = Vec::new();
    collect(&root().join("findings"), "sh", &mut files);
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        for needed in
            ["set -euo pipefail", "mktemp -d", "trap ", "timeout ", "# The guess: ", "# Versions: ", "exit"]
        {
            assert!(text.contains(needed), "{} lacks {needed}", file.display());
        }
        assert!(mode & 0o111 == 0o111, "{} cannot be run", file.display());
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Returns every Rust file below a folder with its path from the root.
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
