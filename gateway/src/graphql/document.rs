//! The document of an operation: finds the operation to run, and collects the fields that it selects.

use std::cell::Cell;
use std::collections::HashMap;

use async_graphql_parser::Positioned;
use async_graphql_parser::types::{
    Directive, DocumentOperations, ExecutableDocument, Field, FragmentDefinition, OperationDefinition,
    Selection, SelectionSet,
};
use async_graphql_value::{Name, Value};
use serde_json::Value as Json;
use shared::protocol::graphql::{GraphQlError, LIMIT_EXCEEDED};

use super::coerce::{self, ArgumentValues};
use super::schema::Schema;
use super::{BAD_USER_INPUT, DocumentLimits, Errors, VALIDATION_FAILED, one};

/// The most fragments that one selection may go through: each may be nested in the last.
const FRAGMENTS_MAX: usize = 500;

/// Returns the operation of this name, or the only one.
pub(super) fn operation_of<'a>(
    document: &'a ExecutableDocument,
    name: Option<&str>,
) -> Result<&'a OperationDefinition, Errors> {
    let name = name.filter(|name| !name.is_empty());
    let found = match (&document.operations, name) {
        (DocumentOperations::Single(only), None) => Some(only),
        (DocumentOperations::Multiple(named), None) if named.len() == 1 => named.values().next(),
        (DocumentOperations::Multiple(_), None) => {
            return Err(one(
                BAD_USER_INPUT,
                "the document has several operations: operationName must name one of them",
            ));
        }
        (DocumentOperations::Multiple(named), Some(name)) => named.get(name),
        (DocumentOperations::Single(_), Some(_)) => None,
    };
    let found =
        found.ok_or_else(|| one(BAD_USER_INPUT, "the document has no operation called operationName"))?;
    Ok(&found.node)
}

/// The fields with one name in the result: a field that may be selected several times, with all its selection sets.
#[derive(Debug)]
pub(super) struct FieldGroup<'a> {
    pub(super) first: &'a Positioned<Field>,
    pub(super) sets: Vec<&'a SelectionSet>,
}

pub(super) type Groups<'a> = Vec<(&'a str, FieldGroup<'a>)>;

/// A document, with the values of its variables.
#[derive(Debug)]
pub(super) struct Document<'a> {
    pub(super) schema: &'a Schema,
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    pub(super) variables: &'a ArgumentValues,
    pub(super) limits: DocumentLimits,
    /// The number of selections that may still be visited.
    left: Cell<usize>,
}

impl<'a> Document<'a> {
    pub(super) fn new(
        schema: &'a Schema,
        fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
        variables: &'a ArgumentValues,
        limits: DocumentLimits,
    ) -> Self {
        Self { schema, fragments, variables, limits, left: Cell::new(limits.fields_max) }
    }

    /// Returns the fields that are selected of objects of this type, in the order of their first mention (GraphQL,
    /// section 6.3.2).
    pub(super) fn collect(&self, of: &str, sets: &[&'a SelectionSet]) -> Result<Groups<'a>, Errors> {
        let mut groups = Vec::new();
        let mut visited = Vec::new();
        for set in sets {
            self.collect_into(of, set, &mut visited, &mut groups)?;
        }
        Ok(groups)
    }

    fn collect_into(
        &self,
        of: &str,
        set: &'a SelectionSet,
        visited: &mut Vec<&'a str>,
        groups: &mut Groups<'a>,
    ) -> Result<(), Errors> {
        for item in &set.items {
            let max = self.limits.fields_max;
            let too_many = || one(LIMIT_EXCEEDED, format!("more than {max} fields are selected"));
            self.left.set(self.left.get().checked_sub(1).ok_or_else(too_many)?);
            if !self.is_included(item.node.directives())? {
                continue;
            }
            match &item.node {
                Selection::Field(field) => add(groups, field)?,
                Selection::InlineFragment(fragment) => {
                    let condition = fragment.node.type_condition.as_ref().map(|on| &*on.node.on.node);
                    if self.applies(condition, of)? {
                        self.collect_into(of, &fragment.node.selection_set.node, visited, groups)?;
                    }
                }
                Selection::FragmentSpread(spread) => {
                    let name = &spread.node.fragment_name;
                    let (key, fragment) = self.fragments.get_key_value(&*name.node).ok_or_else(|| {
                        let message = format!("there is no fragment {}", name.node);
                        vec![GraphQlError::new(VALIDATION_FAILED, message).at(name.pos.line, name.pos.column)]
                    })?;
                    if visited.contains(&key.as_str()) {
                        continue;
                    }
                    if visited.len() >= FRAGMENTS_MAX {
                        let why = format!("one selection goes through more than {FRAGMENTS_MAX} fragments");
                        return Err(one(LIMIT_EXCEEDED, why));
                    }
                    visited.push(key);
                    if self.applies(Some(&fragment.node.type_condition.node.on.node), of)? {
                        self.collect_into(of, &fragment.node.selection_set.node, visited, groups)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a fragment with this type condition applies to objects of type `of`.
    fn applies(&self, condition: Option<&str>, of: &str) -> Result<bool, Errors> {
        let Some(condition) = condition else { return Ok(true) };
        if self.schema.kind(condition).is_none_or(|_| self.schema.is_leaf(condition)) {
            return Err(one(VALIDATION_FAILED, format!("there is no type {condition}")));
        }
        Ok(self.schema.possible(condition).contains(&of))
    }

    fn is_included(&self, directives: &[Positioned<Directive>]) -> Result<bool, Errors> {
        let mut is_included = true;
        for directive in directives {
            let (name, at) = (&*directive.node.name.node, directive.pos);
            let wanted = match name {
                "include" => true,
                "skip" => false,
                known if self.schema.directives.iter().any(|own| *own.name == *known) => continue,
                _ => {
                    let error =
                        GraphQlError::new(VALIDATION_FAILED, format!("there is no directive @{name}"));
                    return Err(vec![error.at(at.line, at.column)]);
                }
            };
            match directive.node.get_argument("if").map(|value| self.boolean(&value.node)) {
                Some(Some(value)) => is_included &= value == wanted,
                _ => {
                    let message = format!("the argument if of @{name} must be a Boolean");
                    return Err(vec![GraphQlError::new(VALIDATION_FAILED, message).at(at.line, at.column)]);
                }
            }
        }
        Ok(is_included)
    }

    fn boolean(&self, value: &Value) -> Option<bool> {
        match coerce::substituted(value, self.variables) {
            Some(Json::Bool(value)) => Some(value),
            _ => None,
        }
    }
}

fn add<'a>(groups: &mut Groups<'a>, field: &'a Positioned<Field>) -> Result<(), Errors> {
    let key = field.node.response_key().node.as_str();
    let set = &field.node.selection_set.node;
    match groups.iter_mut().find(|(known, _)| *known == key) {
        None => groups.push((key, FieldGroup { first: field, sets: vec![set] })),
        Some((_, group)) => {
            let first = &group.first.node;
            let is_same = first.name.node == field.node.name.node
                && first.arguments.len() == field.node.arguments.len()
                && first.arguments.iter().all(|(name, value)| {
                    field.node.get_argument(&name.node).is_some_and(|other| other.node == value.node)
                });
            if !is_same {
                let message = format!(
                    "{key} is selected twice with different fields or arguments: give one of them an alias"
                );
                let at = field.pos;
                return Err(vec![GraphQlError::new(VALIDATION_FAILED, message).at(at.line, at.column)]);
            }
            group.sets.push(set);
        }
    }
    Ok(())
}
