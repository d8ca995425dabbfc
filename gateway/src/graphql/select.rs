//! Turns the selection of an operation into rules that are applied to each payload, after checking the fields and their types.

use async_graphql_parser::types::{BaseType, Type};
use shared::protocol::graphql::{
    Field, FieldOf, GraphQlError, LIMIT_EXCEEDED, Objects, Scalar, Typed, ValueRule, ValueType,
};

use super::document::{Document, FieldGroup};
use super::schema::SchemaTypeKind;
use super::{Errors, NOT_SUPPORTED, VALIDATION_FAILED, one};

/// The field that every object has.
pub(super) const TYPE_NAME: &str = "__typename";

/// Returns the rule that makes a value of this type from a payload. `depth`: how many fields enclose it.
pub(super) fn complete(
    document: &Document<'_>,
    ty: &Type,
    group: &FieldGroup<'_>,
    depth: usize,
) -> Result<ValueRule, Errors> {
    let max = document.limits.depth_max;
    if depth > max {
        return Err(one(LIMIT_EXCEEDED, format!("fields are nested more than {max} levels deep")));
    }
    let of = match &ty.base {
        BaseType::List(item) => ValueType::List(Box::new(complete(document, item, group, depth)?)),
        BaseType::Named(name) => of(document, name, group, depth)?,
    };
    Ok(ValueRule { non_null: !ty.nullable, of })
}

fn of(
    document: &Document<'_>,
    name: &str,
    group: &FieldGroup<'_>,
    depth: usize,
) -> Result<ValueType, Errors> {
    let at = group.first.pos;
    let here = |why: String| vec![GraphQlError::new(VALIDATION_FAILED, why).at(at.line, at.column)];
    let is_bare = group.sets.iter().all(|set| set.items.is_empty());
    let field = &group.first.node.name.node;
    let kind = document.schema.kind(name).ok_or_else(|| here(format!("there is no type {name}")))?;
    match kind {
        SchemaTypeKind::Scalar | SchemaTypeKind::Enum(_) if !is_bare => {
            Err(here(format!("{field} has the type {name}, of which no fields can be selected")))
        }
        SchemaTypeKind::Scalar => Ok(scalar(name).map_or(ValueType::Any, ValueType::Scalar)),
        SchemaTypeKind::Enum(values) => {
            Ok(ValueType::Enum(values.iter().map(|value| value.name.clone()).collect()))
        }
        SchemaTypeKind::Input(_) => Err(here(format!("{name} is not a type of results"))),
        _ if is_bare => Err(here(format!("{field} has the type {name}: select some of its fields"))),
        SchemaTypeKind::Object { .. } | SchemaTypeKind::Interface { .. } | SchemaTypeKind::Union(_) => {
            let possible = document.schema.possible(name);
            let types =
                possible.iter().map(|name| typed(document, name, group, depth)).collect::<Result<_, _>>()?;
            Ok(ValueType::Object(Objects {
                is_abstract: !matches!(kind, SchemaTypeKind::Object { .. }),
                types,
            }))
        }
    }
}

fn typed(document: &Document<'_>, name: &str, group: &FieldGroup<'_>, depth: usize) -> Result<Typed, Errors> {
    let mut fields = Vec::new();
    for (key, group) in document.collect(name, &group.sets)? {
        let field = group.first;
        let (called, at) = (&*field.node.name.node, field.pos);
        let here = |code, why: String| vec![GraphQlError::new(code, why).at(at.line, at.column)];
        if called == TYPE_NAME {
            fields.push(Field { key: key.into(), of: FieldOf::TypeName });
            continue;
        }
        let known = document.schema.field(name, called);
        let known = known.ok_or_else(|| here(VALIDATION_FAILED, format!("{name} has no field {called}")))?;
        if !field.node.arguments.is_empty() {
            let why = format!("arguments of {name}.{called} are not supported: leave them out");
            return Err(here(NOT_SUPPORTED, why));
        }
        let of = complete(document, &known.ty, &group, depth + 1)?;
        fields.push(Field { key: key.into(), of: FieldOf::Member(called.into(), of) });
    }
    Ok(Typed { name: name.into(), fields: fields.into() })
}

fn scalar(name: &str) -> Option<Scalar> {
    Some(match name {
        "Int" => Scalar::Int,
        "Float" => Scalar::Float,
        "String" => Scalar::String,
        "Boolean" => Scalar::Boolean,
        "ID" => Scalar::Id,
        _ => return None,
    })
}
