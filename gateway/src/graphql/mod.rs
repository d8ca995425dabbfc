//! Interprets GraphQL operations: which channel a field of the subscription type stands for, and what is selected of payloads.
//!
//! Nothing here knows clients or nodes. A [`Catalog`] is built from the configuration, and from a schema if there is
//! one, and plans each operation that a client asks for.

use std::collections::HashSet;
use std::sync::Arc;

use async_graphql_parser::parse_query;
use async_graphql_parser::types::{ExecutableDocument, OperationType};
use bytes::Bytes;
use parking_lot::Mutex;
use shared::protocol::graphql::{
    FieldSelection, GraphQlError, LIMIT_EXCEEDED, Plan, PlannedSubscription, Planner, RequestedOperation,
};
use shared::publication::Payload;

mod coerce;
mod document;
mod fields;
pub mod graphql_config;
mod introspect;
mod schema;
mod select;
mod template;

pub(crate) use fields::FieldConfigError;
pub use graphql_config::GraphqlConfig;

use document::{Document, operation_of};
use fields::SubscriptionFields;
use schema::Schema;

/// Error codes of operations that a client has got wrong.
const BAD_USER_INPUT: &str = "BAD_USER_INPUT";
const VALIDATION_FAILED: &str = "GRAPHQL_VALIDATION_FAILED";
const PARSE_FAILED: &str = "GRAPHQL_PARSE_FAILED";
const NOT_SUPPORTED: &str = "OPERATION_NOT_SUPPORTED";

/// The deepest nesting of brackets that is parsed: no reasonable document goes deeper.
const BRACKETS_MAX: usize = 64;
/// The number of shared selections that are kept before those that no client uses are dropped.
const SELECTIONS_MIN: usize = 256;

type Errors = Vec<GraphQlError>;

/// Plans the operations of clients.
#[derive(Debug)]
pub struct Catalog {
    schema: Schema,
    fields: SubscriptionFields,
    limits: DocumentLimits,
    /// The selections that clients use, so that clients with the same selection share the results.
    selections: Mutex<Selections>,
}

/// The limits of a document, and whether introspection is allowed.
#[derive(Clone, Copy, Debug)]
struct DocumentLimits {
    query_bytes_max: usize,
    depth_max: usize,
    fields_max: usize,
    introspection: bool,
}

#[derive(Debug)]
struct Selections {
    known: HashSet<Arc<FieldSelection>>,
    looks_at: usize,
}

impl Catalog {
    /// Builds the catalog. `sdl`: the text of `schema_file`, if there is one.
    pub fn new(config: &GraphqlConfig, sdl: Option<&str>) -> Result<Self, Vec<FieldConfigError>> {
        let (schema, fields) = SubscriptionFields::read(config, sdl)?;
        Ok(Self {
            schema,
            fields,
            limits: DocumentLimits {
                query_bytes_max: config.query_bytes_max,
                depth_max: config.depth_max as usize,
                fields_max: config.fields_max as usize,
                introspection: config.introspection,
            },
            selections: Mutex::new(Selections { known: HashSet::new(), looks_at: SELECTIONS_MIN }),
        })
    }

    fn read(&self, requested: &RequestedOperation<'_>) -> Result<ExecutableDocument, Errors> {
        let max = self.limits.query_bytes_max;
        if requested.query.len() > max {
            return Err(one(LIMIT_EXCEEDED, format!("the document is longer than {max} bytes")));
        }
        if brackets_are_too_deep(&requested.query) {
            return Err(one(PARSE_FAILED, "the document is nested too deeply"));
        }
        parse_query(&*requested.query).map_err(|error| {
            let message = match &error {
                // Only the reason: the parser's message includes a drawing for terminals.
                async_graphql_parser::Error::Syntax { message, .. } => reason_of(message),
                other => other.to_string(),
            };
            let at = error.positions().next();
            let error = GraphQlError::new(PARSE_FAILED, message);
            vec![at.map_or(error.clone(), |at| error.at(at.line, at.column))]
        })
    }

    fn share(&self, selection: FieldSelection) -> Arc<FieldSelection> {
        let mut selections = self.selections.lock();
        if let Some(known) = selections.known.get(&selection) {
            return known.clone();
        }
        if selections.known.len() >= selections.looks_at {
            selections.known.retain(|known| Arc::strong_count(known) > 1);
            selections.looks_at = (2 * selections.known.len()).max(SELECTIONS_MIN);
        }
        let selection = Arc::new(selection);
        selections.known.insert(selection.clone());
        selection
    }
}

impl Planner for Catalog {
    fn plan(&self, requested: &RequestedOperation<'_>) -> Result<Plan, Errors> {
        let parsed = self.read(requested)?;
        let operation = operation_of(&parsed, requested.operation_name.as_deref())?;
        if operation.ty == OperationType::Mutation {
            return Err(one(NOT_SUPPORTED, "mutations are not supported: use a subscription"));
        }
        let variables = coerce::variables(&self.schema, operation, requested.variables)?;
        if operation.ty == OperationType::Query {
            // The size of the result follows from the schema, not from the client.
            let limits = DocumentLimits { fields_max: introspect::VALUES_MAX, ..self.limits };
            let document = Document::new(&self.schema, &parsed.fragments, &variables, limits);
            return introspect::answer(&self.schema, &document, operation).map(Plan::Answer);
        }
        let document = Document::new(&self.schema, &parsed.fragments, &variables, self.limits);
        let Some(root) = &self.schema.subscription else {
            return Err(one(NOT_SUPPORTED, "the schema has no subscription type"));
        };
        let chosen = document.collect(root, &[&operation.selection_set.node])?;
        let [(key, group)] = &chosen[..] else {
            return Err(one(
                VALIDATION_FAILED,
                "a subscription must have exactly one field at its top level",
            ));
        };
        let name = &group.first.node.name.node;
        let at = group.first.pos;
        let here = |error: GraphQlError| vec![error.at(at.line, at.column)];
        let field = self.schema.field(root, name).ok_or_else(|| {
            here(GraphQlError::new(VALIDATION_FAILED, format!("there is no subscription field {name}")))
        })?;
        let arguments = coerce::arguments(&self.schema, field, &group.first.node.arguments, &variables);
        let arguments = arguments.map_err(|why| here(GraphQlError::new(BAD_USER_INPUT, why)))?;
        let value = select::complete(&document, &field.ty, group, 1)?;
        let Some(mapped) = self.fields.find(name) else {
            let message = format!("the field {name} is not configured");
            return Err(here(GraphQlError::new(NOT_SUPPORTED, message)));
        };
        let channel = mapped.template.fill(&arguments);
        let channel = channel.map_err(|why| here(GraphQlError::new(BAD_USER_INPUT, why)))?;
        let ask = mapped.hook.then(|| question(name, &arguments, requested));
        let selection = self.share(FieldSelection { key: (*key).into(), value });
        Ok(Plan::Subscribe(PlannedSubscription { channel, ask, selection }))
    }
}

/// Returns the data of the hook that decides about the operation.
fn question(field: &str, arguments: &coerce::ArgumentValues, requested: &RequestedOperation<'_>) -> Payload {
    let mut question = serde_json::Map::new();
    question.insert("field".to_owned(), field.into());
    question.insert("arguments".to_owned(), arguments.clone().into());
    question.insert("query".to_owned(), (*requested.query).into());
    if let Some(name) = &requested.operation_name {
        question.insert("operationName".to_owned(), (**name).into());
    }
    if let Some(variables) = requested.variables.and_then(|raw| serde_json::from_str(raw.get()).ok()) {
        question.insert("variables".to_owned(), variables);
    }
    Payload::json(Bytes::from(serde_json::Value::Object(question).to_string()))
}

fn one(code: &'static str, message: impl Into<String>) -> Errors {
    vec![GraphQlError::new(code, message)]
}

/// Returns the last line of a parser's error, which says what was expected.
fn reason_of(message: &str) -> String {
    let last = message.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    format!("syntax error: {}", last.trim_start_matches(['=', ' ']))
}

/// Whether brackets are nested deeper than a recursive parser should go. Brackets inside strings and comments close
/// none: a parser skips them.
fn brackets_are_too_deep(query: &str) -> bool {
    let mut depth = 0_usize;
    let mut rest = query.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            first if opens(*first) => depth += 1,
            b'}' | b']' | b')' => depth = depth.saturating_sub(1),
            b'#' => rest = &behind[memchr::memchr2(b'\n', b'\r', behind).unwrap_or(behind.len())..],
            b'"' => match text_bytes(behind) {
                Some(bytes) => rest = &behind[bytes..],
                // It is not clear where a parser takes the string to end.
                None => return depth + behind.iter().filter(|byte| opens(**byte)).count() > BRACKETS_MAX,
            },
            _ => {}
        }
        if depth > BRACKETS_MAX {
            return true;
        }
    }
    false
}

fn opens(byte: u8) -> bool {
    matches!(byte, b'{' | b'[' | b'(')
}

/// Returns the length of the string that begins behind this first quotation mark, with its end (GraphQL, section
/// 2.9.4). `None`: it has no end.
fn text_bytes(behind: &[u8]) -> Option<usize> {
    const BLOCK: &[u8] = b"\"\"\"";
    const ESCAPED: &[u8] = b"\\\"\"\"";
    let is_block = behind.starts_with(&BLOCK[1..]);
    let mut at = if is_block { 2 } else { 0 };
    loop {
        let rest = behind.get(at..)?;
        at += match (is_block, rest.first()?) {
            (true, _) if rest.starts_with(BLOCK) => return Some(at + BLOCK.len()),
            (true, _) if rest.starts_with(ESCAPED) => ESCAPED.len(),
            (false, b'"') => return Some(at + 1),
            (false, b'\n' | b'\r') => return None,
            (false, b'\\') => 2,
            _ => 1,
        };
    }
}

#[cfg(test)]
mod tests;
