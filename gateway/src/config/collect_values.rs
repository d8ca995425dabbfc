//! Collects the values of a configuration: from a file, overridden by the environment, overridden by flags.

use std::path::Path;

use config::{FileFormat, Source, Value, ValueKind};

use super::Sources;
use super::lines::Lines;
use super::mistake::Mistake;
use super::tree::ConfigNode;
use crate::setting::trimmed;

/// The prefix of every variable that sets a key.
pub const VARIABLE_PREFIX: &str = "TIDEGATE_";

/// The separator between the levels of a key in a variable's name.
pub const LEVEL_SEPARATOR: &str = "__";

/// The values that `--demo` sets. Every other source overrides them.
const DEMO: &str = include_str!("demo.toml");

/// The origin that the `config` crate gives to values from the environment.
pub(super) const ENVIRONMENT: &str = "the environment";

/// The longest configuration file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Returns the variable that sets the key at `path`.
pub(super) fn variable(path: &[String]) -> String {
    format!("{VARIABLE_PREFIX}{}", path.join(LEVEL_SEPARATOR).to_uppercase())
}

/// Merges all sources into one tree. A source that cannot be read is a mistake; the others are still used.
pub(super) fn gather(sources: &Sources<'_>, mistakes: &mut Vec<Mistake>) -> ConfigNode {
    let mut builder = config::Config::builder();
    if sources.demo {
        let mut values = config::Map::new();
        let source = config::File::from_str(DEMO, FileFormat::Toml);
        collect(&source, &mut values, "the flag --demo", &Lines::default(), mistakes);
        builder = builder.add_source(CollectedValues(values));
    }
    let mut values = config::Map::new();
    if let Some(file) = sources.file {
        match read_file(file) {
            Ok(text) => {
                let inner = trimmed(&text);
                let above = text.split(inner).next().map_or(0, |above| above.matches('\n').count());
                let source = config::File::from_str(inner, FileFormat::Toml);
                let lines = Lines::of(inner, above);
                collect(&source, &mut values, &file.display().to_string(), &lines, mistakes);
            }
            Err(problem) => mistakes.push(Mistake {
                path: String::new(),
                problem,
                source: Some(file.display().to_string()),
            }),
        }
    }

    let settings = sources.environment.iter().filter(|(name, _)| sets_a_key(name));
    let environment = config::Environment::with_prefix(VARIABLE_PREFIX.trim_end_matches('_'))
        .prefix_separator("_")
        .separator(LEVEL_SEPARATOR)
        .source(Some(settings.map(|(name, text)| (name.clone(), text.clone())).collect()));

    builder = builder.add_source(CollectedValues(values)).add_source(environment);
    for (path, text) in &sources.flags {
        // The paths of flags are written in this program and always parse.
        builder = match builder.clone().set_override(*path, text.as_str()) {
            Ok(builder) => builder,
            Err(_) => builder,
        };
    }
    match builder.build() {
        Ok(merged) => ConfigNode::from(merged.cache),
        Err(error) => {
            mistakes.push(Mistake { path: String::new(), problem: error.to_string(), source: None });
            ConfigNode::empty()
        }
    }
}

/// Returns the origin of the value at `path`, if a source sets it.
pub(super) fn source_of(tree: &ConfigNode, path: &str) -> Option<String> {
    let path = tree.resolve(path)?;
    tree.find(&path)?.source_of(&path)
}

/// Whether a variable names a key. Every key has a section, so a name without a double underscore sets nothing:
/// orchestrators set such names for their own purposes (`TIDEGATE_PORT`, `TIDEGATE_SERVICE_HOST`). The module `advice`
/// reports them beside the configuration.
pub(super) fn sets_a_key(name: &str) -> bool {
    name.strip_prefix(VARIABLE_PREFIX).is_some_and(|key| {
        key.contains(LEVEL_SEPARATOR)
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    })
}

fn read_file(file: &Path) -> Result<String, String> {
    let length = std::fs::metadata(file).map_err(|error| format!("cannot be read: {error}"))?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("is {length} bytes long, must be at most {FILE_BYTES_MAX}"));
    }
    std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))
}

/// Takes the values of a file, each with the file's name and line as its origin.
fn collect(
    source: &dyn Source,
    values: &mut config::Map<String, Value>,
    file: &str,
    lines: &Lines,
    mistakes: &mut Vec<Mistake>,
) {
    match source.collect() {
        Ok(collected) => {
            for (key, value) in collected {
                let marked = mark(value, file, &mut vec![key.clone()], lines);
                values.insert(key, marked);
            }
        }
        Err(error) => mistakes.push(Mistake {
            path: String::new(),
            problem: format!("is not TOML: {}", error.to_string().trim_end()),
            source: Some(file.to_owned()),
        }),
    }
}

fn mark(value: Value, file: &str, path: &mut Vec<String>, lines: &Lines) -> Value {
    let origin = lines.line(path).map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
    let mut within = |step: String, value: Value| {
        path.push(step);
        let marked = mark(value, file, path, lines);
        path.pop();
        marked
    };
    let kind = match value.kind {
        ValueKind::Table(entries) => ValueKind::Table(
            entries.into_iter().map(|(key, value)| (key.clone(), within(key, value))).collect(),
        ),
        ValueKind::Array(values) => ValueKind::Array(
            values.into_iter().enumerate().map(|(at, value)| within(at.to_string(), value)).collect(),
        ),
        kind => kind,
    };
    Value::new(Some(&origin), kind)
}

/// Returns values that were collected already.
#[derive(Clone, Debug)]
struct CollectedValues(config::Map<String, Value>);

impl Source for CollectedValues {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<config::Map<String, Value>, config::ConfigError> {
        Ok(self.0.clone())
    }
}
