//! The merged values of a configuration: a tree that knows where each value came from.

use std::collections::BTreeMap;

/// The origin of a value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ValueOrigin {
    File(String),
    Environment,
    Flag,
}

impl ValueOrigin {
    /// Returns a text for the person who has to find the value at `path`.
    pub(super) fn describe(&self, path: &[String]) -> String {
        match self {
            Self::File(file) => file.clone(),
            Self::Environment => super::collect_values::variable(path),
            Self::Flag => format!("the flag --{}", flag(path)),
        }
    }
}

/// Returns the flag that sets the value at `path`. Flags of the section `server` do not have its name.
fn flag(path: &[String]) -> String {
    match path {
        [section, key] if section == "server" => key.replace('_', "-"),
        path => path.join("-").replace('_', "-"),
    }
}

#[derive(Clone, Debug)]
pub(super) struct ConfigNode {
    pub(super) origin: ValueOrigin,
    pub(super) kind: ValueKind,
}

#[derive(Clone, Debug)]
pub(super) enum ValueKind {
    Nothing,
    Bool(bool),
    Whole(i64),
    Float(f64),
    Text(String),
    /// Each element with its index in the source, which stays when other elements are pruned.
    List(Vec<(usize, ConfigNode)>),
    Table(BTreeMap<String, ConfigNode>),
}

impl ConfigNode {
    pub(super) fn empty() -> Self {
        Self { origin: ValueOrigin::Flag, kind: ValueKind::Table(BTreeMap::new()) }
    }

    /// Returns the value at `path`.
    pub(super) fn find(&self, path: &[String]) -> Option<&Self> {
        path.iter().try_fold(self, |node, step| match &node.kind {
            ValueKind::Table(entries) => entries.get(step),
            ValueKind::List(elements) => {
                elements.iter().find(|(index, _)| step == &index.to_string()).map(|(_, element)| element)
            }
            _ => None,
        })
    }

    /// Returns the origin of this value, which is the one at `path`. For a section, returns the origin of its first value:
    /// sources are merged value by value, so a section itself has no origin. `None` for an empty section.
    pub(super) fn source_of(&self, path: &[String]) -> Option<String> {
        let ValueKind::Table(entries) = &self.kind else { return Some(self.origin.describe(path)) };
        let (key, entry) = entries.first_key_value()?;
        let path: Vec<String> = path.iter().chain([key]).cloned().collect();
        entry.source_of(&path)
    }

    /// Returns the path that steps joined by dots mean: names of namespaces may contain dots.
    pub(super) fn resolve(&self, dotted: &str) -> Option<Vec<String>> {
        if let ValueKind::Table(entries) = &self.kind {
            for (step, node) in entries {
                if step == dotted {
                    return Some(vec![step.clone()]);
                }
                let rest = dotted.strip_prefix(step.as_str()).and_then(|rest| rest.strip_prefix('.'));
                if let Some(rest) = rest.and_then(|rest| node.resolve(rest)) {
                    return Some(std::iter::once(step.clone()).chain(rest).collect());
                }
            }
            return None;
        }
        // A problem of a part of a value is a problem of the value, unless the value is a list whose elements are independent.
        let path: Vec<String> = dotted.split('.').map(str::to_owned).collect();
        Some(if self.find(&path).is_some() { path } else { Vec::new() })
    }

    /// Removes the value at `path`. Returns false if there is none.
    pub(super) fn prune(&mut self, path: &[String]) -> bool {
        let Some((step, rest)) = path.split_first() else { return false };
        match &mut self.kind {
            ValueKind::Table(entries) if rest.is_empty() => entries.remove(step).is_some(),
            ValueKind::Table(entries) => entries.get_mut(step).is_some_and(|node| node.prune(rest)),
            ValueKind::List(elements) => {
                let Some(place) = elements.iter().position(|(index, _)| step == &index.to_string()) else {
                    return false;
                };
                if rest.is_empty() {
                    elements.remove(place);
                    true
                } else {
                    elements[place].1.prune(rest)
                }
            }
            _ => false,
        }
    }
}

impl From<config::Value> for ConfigNode {
    fn from(value: config::Value) -> Self {
        let origin = match value.origin() {
            Some(super::collect_values::ENVIRONMENT) => ValueOrigin::Environment,
            Some(file) => ValueOrigin::File(file.to_owned()),
            None => ValueOrigin::Flag,
        };
        let kind = match value.kind {
            config::ValueKind::Nil => ValueKind::Nothing,
            config::ValueKind::Boolean(value) => ValueKind::Bool(value),
            config::ValueKind::I64(value) => ValueKind::Whole(value),
            // No source produces these. As text they are refused with their value.
            config::ValueKind::I128(value) => ValueKind::Text(value.to_string()),
            config::ValueKind::U64(value) => ValueKind::Text(value.to_string()),
            config::ValueKind::U128(value) => ValueKind::Text(value.to_string()),
            config::ValueKind::Float(value) => ValueKind::Float(value),
            config::ValueKind::String(text) => ValueKind::Text(text),
            config::ValueKind::Array(values) => {
                ValueKind::List(values.into_iter().map(Self::from).enumerate().collect())
            }
            config::ValueKind::Table(entries) => {
                ValueKind::Table(entries.into_iter().map(|(key, value)| (key, Self::from(value))).collect())
            }
        };
        Self { origin, kind }
    }
}
