//! Checks of the Markdown pages that need no site: links, the menu, names in code, settings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::path::{Component, Path, PathBuf};

use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::push::UnsubscribeCode;
use tidegate::config::{Config, Sources};

use super::{CRATES, code, collect, root, sources};

/// The sources of the site's menu: each page of `docs/` is listed in one of these.
const LISTS: [&str; 3] = ["docs/README.md", "docs/migrating/README.md", "docs/decisions/README.md"];
/// Files that define codes, or translate all of them for a protocol: a name in them does not send a code.
const CODES_IN_WORDS: [&str; 5] = [
    "shared/src/disconnect.rs",
    "shared/src/push.rs",
    "shared/src/protocol/graphql/encode.rs",
    "shared/src/protocol/graphql/operations.rs",
    "shared/src/protocol/socketio/encode_push.rs",
];
/// Pages with the TOML of other programs.
const OF_OTHER_PROGRAMS: [&str; 1] = ["docs/load-testing.md"];

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let pages = pages();
    let anchors: BTreeMap<&str, BTreeSet<String>> =
        pages.iter().map(|(path, text)| (path.as_str(), anchors(text))).collect();
    let mut broken = Vec::new();
    for (path, text) in &pages {
        for link in links(text).into_iter().filter(|link| !link.contains("://")) {
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if target.is_empty() { path.clone() } else { beside(path, target) };
            if !root().join(&target).exists() {
                broken.push(format!("{path} links to {link}: there is no such file"));
            } else if !anchor.is_empty()
                && !anchors.get(target.as_str()).is_some_and(|all| all.contains(anchor))
            {
                broken.push(format!("{path} links to {link}: there is no such heading"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_page_is_in_the_menu_once() {
    let pages = pages();
    let listed: Vec<String> = LISTS.iter().flat_map(|list| listed_in(list, &pages[*list])).collect();
    let missing: Vec<&String> =
        pages.keys().filter(|path| path.starts_with("docs/") && !listed.contains(path)).collect();
    assert_eq!(missing, ["docs/README.md"], "{} list the pages of the site", LISTS.join(" and "));
    let twice: Vec<&String> =
        listed.iter().filter(|one| listed.iter().filter(|other| other == one).count() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[test]
fn every_code_that_a_client_can_meet_is_explained() {
    let text = &pages()["docs/troubleshooting.md"];
    let row = |code: &dyn Display, words: &str| {
        format!("\n| {code} | {words}{}", if words.is_empty() { "" } else { " " })
    };
    let closes = Disconnect::ALL.iter().map(|one| row(&one.code, &one.reason));
    let errors = ErrorCode::ALL.iter().map(|one| row(&one.code(), one.message()));
    let ends = [
        UnsubscribeCode::Server,
        UnsubscribeCode::InsufficientState,
        UnsubscribeCode::Expired,
        UnsubscribeCode::StateInvalidated,
    ];
    let ends = ends.iter().map(|one| row(&one.code(), one.reason()));
    let missing: Vec<String> = closes.chain(errors).chain(ends).filter(|row| !text.contains(row)).collect();
    assert!(missing.is_empty(), "docs/troubleshooting.md lacks {missing:?}");
    for disconnect in Disconnect::ALL {
        let says = if disconnect.invites_reconnect() { "yes" } else { "no" };
        let row = row(&disconnect.code, &disconnect.reason) + "| " + says;
        assert!(text.contains(&row), "docs/troubleshooting.md lacks {row:?}");
    }
}

#[test]
fn codes_that_a_page_calls_not_sent_are_those_that_nothing_sends() {
    let text = &pages()["docs/troubleshooting.md"];
    let is_unsent = |code: &str| {
        let mut rows = text.lines().filter(|line| line.starts_with(&format!("| {code} |")));
        rows.any(|row| row.contains("not sent by the gateway"))
    };
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("a file");
    // `    WRITE_ERROR = 3009 "write error";` and `    StateInvalidated = 2502,`
    let defined = |text: &str| -> Vec<(String, String)> {
        let lines = text.lines().filter_map(|line| line.trim().split_once(" = "));
        let codes = lines.filter_map(|(name, rest)| Some((name, rest.get(..4)?)));
        let codes = codes.filter(|(name, code)| !name.contains(' ') && code.parse::<u16>().is_ok());
        codes.map(|(name, code)| (name.to_owned(), code.to_owned())).collect()
    };
    let mut sent = String::new();
    for files in CRATES.map(sources) {
        let tests: Vec<String> =
            files.iter().flat_map(|(path, text)| code::modules_of_tests(path, text)).collect();
        for (path, text) in &files {
            let is_spared = CODES_IN_WORDS.contains(&path.as_str())
                || tests.iter().any(|tests| path.starts_with(tests.as_str()));
            if !is_spared {
                sent.push_str(&code::code_of(path, text));
                sent.push('\n');
            }
        }
    }
    let closes = defined(&read("shared/src/disconnect.rs"));
    let ends = defined(&read("shared/src/push.rs"));
    assert!(closes.len() == Disconnect::ALL.len() && ends.len() >= 4, "{closes:?} {ends:?}");
    // The file of the definitions names a code by its type where it uses one.
    let own = code::code_of(CODES_IN_WORDS[0], &read(CODES_IN_WORDS[0]));
    let mut wrong = Vec::new();
    for (name, code) in closes.iter().chain(&ends) {
        let is_sent = code::names(&sent, name)
            || code::names(&sent, stands_for(name))
            || code::names(&own, &format!("Disconnect::{name}"));
        if is_sent == is_unsent(code) {
            wrong.push(format!("{code} {name}: sent: {is_sent}"));
        }
    }
    assert!(wrong.is_empty(), "docs/troubleshooting.md is wrong about {wrong:?}");
}

#[test]
fn what_the_glossary_names_is_in_the_tree() {
    let text = &pages()["docs/glossary.md"];
    let named: Vec<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.starts_with("gateway/") || name.starts_with("shared/"))
        .collect();
    assert!(named.len() > 50, "{}", named.len());
    let gone: Vec<&str> = named.into_iter().filter(|name| !root().join(name).exists()).collect();
    assert!(gone.is_empty(), "docs/glossary.md names what is not there: {gone:?}");
}

#[test]
fn every_configuration_on_a_page_is_one() {
    let file = std::env::temp_dir().join(format!("tidegate-pages-{}.toml", std::process::id()));
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, text) in pages() {
        if OF_OTHER_PROGRAMS.contains(&path.as_str()) {
            continue;
        }
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            std::fs::write(&file, block).expect("a file in the folder for such files");
            let sources = Sources { file: Some(&file), ..Sources::default() };
            if let Err(mistakes) = Config::load(&sources) {
                wrong.push(format!("{path}:\n{block}{mistakes}"));
            }
            count += 1;
        }
    }
    std::fs::remove_file(&file).expect("it was written");
    assert!(wrong.is_empty() && count > 30, "{count} blocks\n{}", wrong.join("\n\n"));
}

/// Returns the end of a subscription that a close code stands for, and that is sent in its place.
fn stands_for(close: &str) -> &str {
    match close {
        "INSUFFICIENT_STATE" => "InsufficientState",
        "SUBSCRIPTION_EXPIRED" => "Expired",
        other => other,
    }
}

/// Returns the pages of `docs/` that a list adds to the menu: those in its own folder, without those that its
/// introduction links to.
fn listed_in(list: &str, text: &str) -> Vec<String> {
    let below = list.trim_end_matches("README.md");
    let begin = text.find("\n## ").filter(|_| list == LISTS[0]).unwrap_or_default();
    let targets = links(&text[begin..]).into_iter().map(|link| beside(list, &link));
    targets.filter(|target| target.starts_with(below)).collect()
}

/// Returns every page, by its path from the root.
fn pages() -> BTreeMap<String, String> {
    let root = root();
    let mut files = Vec::new();
    for folder in ["docs", "deploy/examples", "benches"] {
        collect(&root.join(folder), "md", &mut files);
    }
    files.retain(|file| !file.iter().any(|part| part == "node_modules"));
    files.extend(
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)),
    );
    let read = |file: PathBuf| {
        let path = file.strip_prefix(&root).expect("it is below the root").to_string_lossy().into_owned();
        (path, std::fs::read_to_string(&file).expect("a page"))
    };
    files.into_iter().map(read).collect()
}

/// Returns the path from the root for a target relative to a page.
fn beside(page: &str, target: &str) -> String {
    let mut path = PathBuf::new();
    for part in Path::new(page).parent().expect("a page is in a folder").join(target).components() {
        match part {
            Component::ParentDir => _ = path.pop(),
            part => path.push(part),
        }
    }
    path.to_string_lossy().into_owned()
}

/// Returns the lines of a page outside of code fences.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

fn links(text: &str) -> Vec<String> {
    let of = |line: &str| {
        let links = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        links.map(str::to_owned).collect::<Vec<_>>()
    };
    lines(text).flat_map(of).collect()
}

/// Returns the anchors of a page, as GitHub derives them from headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for heading in lines(text).filter(|line| line.starts_with('#')) {
        let shown = heading.trim_start_matches('#').trim();
        let slug: String = shown
            .to_lowercase()
            .chars()
            .filter(|found| found.is_alphanumeric() || matches!(found, ' ' | '-' | '_'))
            .map(|found| if found == ' ' { '-' } else { found })
            .collect();
        let further = (1..).map(|number| format!("{slug}-{number}"));
        let free = std::iter::once(slug.clone()).chain(further).find(|name| !anchors.contains(name));
        anchors.extend(free);
    }
    anchors
}
