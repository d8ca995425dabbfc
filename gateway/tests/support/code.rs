//! Rust code as the tidy test reads it: the names that it uses, however they are written.
//!
//! Comments and the contents of strings are removed, and so is code that is compiled for tests alone. Lists of imports
//! are expanded (`use std::{fs, net}` contains `std::net`), `super::` and `self::` become the path they stand for, a
//! name given by `as` becomes the original name, `r#` is removed, and so is every space that is not needed.

use std::collections::HashMap;

/// Returns the code of a file. `path` is that of the file from the root of the repository.
pub(crate) fn code_of(path: &str, text: &str) -> String {
    let tokens = without_tests(tokens_of(text));
    written(&with_whole_paths(&module_of(path), tokens))
}

/// Returns the files and folders that this file declares as test modules: `#[cfg(test)] mod tests;`.
pub(crate) fn modules_of_tests(path: &str, text: &str) -> Vec<String> {
    let tokens = tokens_of(text);
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let file = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
    let inside =
        if matches!(file, "mod" | "lib" | "main") { folder.to_owned() } else { format!("{folder}/{file}") };
    let named = |at: usize| match &tokens[at..] {
        [hash, open, path, equals, name, close, word, _, semicolon, ..]
            if [hash, open, path, equals, close, word, semicolon].map(|t| &**t)
                == ["#", "[", "path", "=", "]", "mod", ";"] =>
        {
            Some(vec![format!("{folder}/{}", name.trim_matches('"'))])
        }
        [word, name, semicolon, ..] if (&**word, &**semicolon) == ("mod", ";") => {
            Some(vec![format!("{inside}/{name}.rs"), format!("{inside}/{name}/")])
        }
        _ => None,
    };
    (0..tokens.len()).filter_map(|at| named(test_attribute(&tokens, at)?)).flatten().collect()
}

/// Whether the code contains these words, not as parts of longer words.
pub(crate) fn names(code: &str, words: &str) -> bool {
    let is_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let (bytes, wanted) = (code.as_bytes(), words.as_bytes());
    code.match_indices(words).any(|(at, _)| {
        let (before, after) = (bytes[..at].last(), bytes.get(at + wanted.len()));
        !(is_word(wanted.first()) && is_word(before) || is_word(wanted.last()) && is_word(after))
    })
}

/// Splits a text into words, `::`, and single characters. Of a string only the quotes are kept, and the name of a file
/// for `#[path]`.
fn tokens_of(text: &str) -> Vec<String> {
    let (all, mut tokens): (Vec<char>, Vec<String>) = (text.chars().collect(), Vec::new());
    let at = |index: usize| all.get(index).copied().unwrap_or('\0');
    let is_word = |found: char| found.is_alphanumeric() || found == '_';
    let mut next = 0;
    while next < all.len() {
        match at(next) {
            space if space.is_whitespace() => next += 1,
            '/' if at(next + 1) == '/' => {
                while next < all.len() && at(next) != '\n' {
                    next += 1;
                }
            }
            '/' if at(next + 1) == '*' => next = comment_end(&all, next),
            '"' => {
                let end = text_end(&all, next + 1);
                tokens.push(name_of_file(&all[next..end]));
                next = end;
            }
            // A character literal, or the name of a lifetime.
            '\'' if at(next + 1) == '\\' || at(next + 2) == '\'' => {
                next += if at(next + 1) == '\\' { 3 } else { 2 };
                while next < all.len() && at(next) != '\'' {
                    next += 1;
                }
                (next, _) = (next + 1, tokens.push("''".to_owned()));
            }
            first if is_word(first) => {
                let end = (next..all.len()).find(|index| !is_word(at(*index))).unwrap_or(all.len());
                let word: String = all[next..end].iter().collect();
                let hashes = (end..all.len()).take_while(|index| at(*index) == '#').count();
                next = match (&*word, at(end), at(end + hashes)) {
                    // A raw string, which ends with as many `#` as it began with.
                    ("r" | "br" | "cr", _, '"') => {
                        tokens.push("\"\"".to_owned());
                        raw_text_end(&all, end + hashes + 1, hashes)
                    }
                    ("r", '#', _) if hashes == 1 => end + 1,
                    // The next character is read as the beginning of an ordinary literal.
                    ("b" | "c", '"' | '\'', _) => end,
                    _ => {
                        tokens.push(word);
                        end
                    }
                };
            }
            ':' if at(next + 1) == ':' => (next, _) = (next + 2, tokens.push("::".to_owned())),
            sign => (next, _) = (next + 1, tokens.push(sign.to_string())),
        }
    }
    tokens
}

fn comment_end(all: &[char], start: usize) -> usize {
    let (mut next, mut depth) = (start, 0);
    while next < all.len() {
        match all[next..] {
            ['/', '*', ..] => (next, depth) = (next + 2, depth + 1),
            ['*', '/', ..] => (next, depth) = (next + 2, depth - 1),
            _ => next += 1,
        }
        if depth == 0 {
            break;
        }
    }
    next
}

fn text_end(all: &[char], mut next: usize) -> usize {
    while next < all.len() && all[next] != '"' {
        next += if all[next] == '\\' { 2 } else { 1 };
    }
    (next + 1).min(all.len())
}

fn raw_text_end(all: &[char], start: usize, hashes: usize) -> usize {
    let ends = |at: &usize| {
        all[*at] == '"' && all[at + 1..].iter().take_while(|sign| **sign == '#').count() >= hashes
    };
    (start..all.len()).find(ends).map_or(all.len(), |at| at + 1 + hashes)
}

/// Returns the name of a file, for `#[path]`; other strings become empty.
fn name_of_file(text: &[char]) -> String {
    let text: String = text.iter().collect();
    if text.ends_with(".rs\"") && !text.contains(char::is_whitespace) { text } else { "\"\"".to_owned() }
}

/// Returns the start of the item that a `#[cfg(test)]` at `at` belongs to.
fn test_attribute(tokens: &[String], at: usize) -> Option<usize> {
    let begins = |words: &[&str]| {
        tokens[at..].iter().map(|token| &**token).take(words.len()).eq(words.iter().copied())
    };
    (begins(&["#", "[", "cfg", "(", "test", ")", "]"])
        || begins(&["#", "[", "cfg", "(", "all", "(", "test", ","]))
    .then(|| group_end(tokens, at + 1))
}

/// Returns the index behind the bracket that closes the one at `at`.
fn group_end(tokens: &[String], at: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match &**token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth <= 0 {
            return index + 1;
        }
    }
    tokens.len()
}

fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let of_all = ["#", "!", "[", "cfg", "(", "test", ")", "]"];
    if tokens.windows(of_all.len()).any(|found| found.iter().map(|token| &**token).eq(of_all)) {
        return Vec::new();
    }
    let (mut left, mut next) = (Vec::new(), 0);
    while next < tokens.len() {
        match test_attribute(&tokens, next) {
            Some(item) => next = item_end(&tokens, item),
            None => (next, _) = (next + 1, left.push(tokens[next].clone())),
        }
    }
    left
}

/// Returns the index behind an item, a statement, a field or an arm: after its block, its semicolon, or its comma.
fn item_end(tokens: &[String], start: usize) -> usize {
    const ITEMS: [&str; 11] =
        ["fn", "mod", "use", "impl", "struct", "enum", "trait", "const", "static", "type", "let"];
    let (mut next, mut is_item) = (start, false);
    while let Some(token) = tokens.get(next) {
        match &**token {
            ";" => return next + 1,
            "," if !is_item => return next + 1,
            "{" => {
                let end = group_end(tokens, next);
                // A list of imports, or a value, continues to its semicolon.
                return end + usize::from(tokens.get(end).is_some_and(|token| token == ";"));
            }
            "(" | "[" => {
                next = group_end(tokens, next);
                continue;
            }
            // The last element of an enclosing group.
            ")" | "]" | "}" => return next,
            word => is_item |= ITEMS.contains(&word),
        }
        next += 1;
    }
    next
}

/// `gateway/src/node/publish.rs` is `crate::node::publish`.
fn module_of(path: &str) -> Vec<String> {
    let inside = path.split_once("src/").map_or(path, |(_, inside)| inside).trim_end_matches(".rs");
    let parts = inside.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
    std::iter::once("crate").chain(parts).map(str::to_owned).collect()
}

fn with_whole_paths(module: &[String], tokens: Vec<String>) -> Vec<String> {
    let (mut whole, mut renamed, mut next) = (Vec::new(), HashMap::new(), 0);
    while next < tokens.len() {
        let follows = |at: usize, sign: &str| tokens.get(at).is_some_and(|token| token == sign);
        match &*tokens[next] {
            // `use<'a>` names the captures of a type.
            "use" if !follows(next + 1, "<") => {
                let end = (next..tokens.len()).find(|at| tokens[*at] == ";").unwrap_or(tokens.len());
                for path in imports(&tokens[next + 1..end], &mut renamed) {
                    whole.push("use".to_owned());
                    whole.extend(from_the_root(module, path));
                    whole.push(";".to_owned());
                }
                next = end + 1;
            }
            "super" | "self" if follows(next + 1, "::") => {
                let end = (next..tokens.len()).find(|at| !matches!(&*tokens[*at], "super" | "self" | "::"));
                let end = end.unwrap_or(tokens.len());
                whole.extend(from_the_root(module, tokens[next..end].to_vec()));
                next = end;
            }
            token => {
                whole.push(token.to_owned());
                next += 1;
            }
        }
    }
    let original = |token: String| renamed.get(&token).cloned().unwrap_or(token);
    whole.into_iter().map(original).collect()
}

/// Returns every path in a tree of imports, and collects in `renamed` the name behind each `as`.
fn imports(tree: &[String], renamed: &mut HashMap<String, String>) -> Vec<Vec<String>> {
    let Some(open) = tree.iter().position(|token| token == "{") else {
        return match tree {
            [path @ .., name, word, new] if word == "as" => {
                // `self as name` renames the module of the list.
                let last =
                    if name == "self" { path.iter().rfind(|token| *token != "::") } else { Some(name) };
                renamed.extend(last.filter(|_| new != "_").map(|last| (new.clone(), last.clone())));
                vec![[path, std::slice::from_ref(name)].concat()]
            }
            [] => Vec::new(),
            path => vec![path.to_vec()],
        };
    };
    let (before, inside) = (&tree[..open], &tree[open + 1..group_end(tree, open) - 1]);
    let (mut paths, mut start, mut at) = (Vec::new(), 0, 0);
    while at <= inside.len() {
        match inside.get(at).map(|token| &**token) {
            Some("{") => at = group_end(inside, at),
            Some(",") | None => {
                if start < at {
                    paths.extend(imports(&[before, &inside[start..at]].concat(), renamed));
                }
                (start, at) = (at + 1, at + 1);
            }
            Some(_) => at += 1,
        }
    }
    paths
}

fn from_the_root(module: &[String], path: Vec<String>) -> Vec<String> {
    let mut base = module.to_vec();
    let mut rest = path.as_slice();
    match rest.first().map(|first| &**first) {
        Some("self" | "super") => {}
        // As written: `::std` is `std`.
        Some("::") => return path[1..].to_vec(),
        _ => return path,
    }
    while let [first, others @ ..] = rest {
        match &**first {
            "super" => drop(base.pop()),
            "self" | "::" => {}
            _ => break,
        }
        rest = others;
    }
    let mut whole = base.join(" :: ").split(' ').map(str::to_owned).collect::<Vec<_>>();
    whole.push("::".to_owned());
    whole.extend_from_slice(rest);
    whole
}

fn written(tokens: &[String]) -> String {
    let (mut code, mut was_word) = (String::new(), false);
    for token in tokens {
        let is_word = token.starts_with(|first: char| first.is_alphanumeric() || first == '_');
        if is_word && was_word {
            code.push(' ');
        }
        code.push_str(token);
        was_word = is_word;
    }
    code
}
