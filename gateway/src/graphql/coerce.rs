//! Coerces the values of arguments and variables to their types (GraphQL, sections 3 and 6.1.2).

use async_graphql_parser::Positioned;
use async_graphql_parser::types::{BaseType, OperationDefinition, Type};
use async_graphql_value::{ConstValue, Name, Value};
use serde_json::Value as Json;
use serde_json::value::RawValue;
use shared::protocol::graphql::GraphQlError;

use super::schema::{Field, Input, Schema, SchemaTypeKind};
use super::{BAD_USER_INPUT, Errors, VALIDATION_FAILED, one};

/// Values by name. A missing one was not given and has no default.
pub(super) type ArgumentValues = serde_json::Map<String, Json>;

/// Returns the variables of an operation, from the values that the client has sent.
pub(super) fn variables(
    schema: &Schema,
    operation: &OperationDefinition,
    given: Option<&RawValue>,
) -> Result<ArgumentValues, Errors> {
    let given: ArgumentValues = match given.map(|given| serde_json::from_str(given.get())) {
        None => ArgumentValues::new(),
        Some(Ok(Json::Object(given))) => given,
        Some(_) => return Err(one(BAD_USER_INPUT, "variables must be an object")),
    };
    let mut found = ArgumentValues::new();
    for definition in &operation.variable_definitions {
        let (variable, at) = (&definition.node, definition.pos);
        let (name, ty) = (&*variable.name.node, &variable.var_type.node);
        let fails = |code, why: String| vec![GraphQlError::new(code, why).at(at.line, at.column)];
        if !schema.takes(ty) {
            return Err(fails(
                VALIDATION_FAILED,
                format!("${name} has the type {ty}, which is not an input type"),
            ));
        }
        let wrong = |why: String| fails(BAD_USER_INPUT, format!("${name}: {why}"));
        match (given.get(name), &variable.default_value) {
            (Some(value), _) => {
                found.insert(name.to_owned(), of_json(schema, ty, value).map_err(wrong)?);
            }
            (None, Some(default)) => {
                found.insert(name.to_owned(), constant(schema, ty, &default.node).map_err(wrong)?);
            }
            (None, None) if !ty.nullable => {
                return Err(wrong("a value is required".to_owned()));
            }
            (None, None) => {}
        }
    }
    Ok(found)
}

/// Returns the arguments of a field.
pub(super) fn arguments(
    schema: &Schema,
    field: &Field,
    given: &[(Positioned<Name>, Positioned<Value>)],
    variables: &ArgumentValues,
) -> Result<ArgumentValues, String> {
    if let Some((name, _)) =
        given.iter().find(|(name, _)| !field.arguments.iter().any(|one| *one.name == *name.node))
    {
        return Err(format!("{} has no argument {}", field.name, name.node));
    }
    let mut found = ArgumentValues::new();
    for input in &field.arguments {
        let value = given.iter().find(|(name, _)| *name.node == *input.name).map(|(_, value)| &value.node);
        let value = value.map(|value| literal(schema, &input.ty, value, variables)).transpose();
        let wrong = |why: String| format!("{}: {why}", input.name);
        if let Some(value) = or_default(schema, input, value.map_err(wrong)?.flatten()).map_err(wrong)? {
            found.insert(input.name.to_string(), value);
        }
    }
    Ok(found)
}

fn or_default(schema: &Schema, input: &Input, value: Option<Json>) -> Result<Option<Json>, String> {
    match (value, &input.default) {
        (Some(value), _) => Ok(Some(value)),
        (None, Some(default)) => constant(schema, &input.ty, default).map(Some),
        (None, None) if !input.ty.nullable => Err("a value is required".to_owned()),
        (None, None) => Ok(None),
    }
}

/// Coerces a literal that contains no variable.
pub(super) fn constant(schema: &Schema, ty: &Type, value: &ConstValue) -> Result<Json, String> {
    let none = ArgumentValues::new();
    let missing = || "the value is missing".to_owned();
    literal(schema, ty, &value.clone().into_value(), &none)?.ok_or_else(missing)
}

/// Coerces a literal of a document. `None`: it is a variable that was not given.
fn literal(
    schema: &Schema,
    ty: &Type,
    value: &Value,
    variables: &ArgumentValues,
) -> Result<Option<Json>, String> {
    if let Value::Variable(name) = value {
        let Some(value) = variables.get(&**name) else { return Ok(None) };
        // The variable was coerced to its own type, and must be valid for this one too.
        return of_json(schema, ty, value).map(Some);
    }
    let name = match &ty.base {
        _ if matches!(value, Value::Null) => return null(ty).map(Some),
        BaseType::List(item) => {
            let items = match value {
                Value::List(items) => &items[..],
                // A single value stands for a list with that value.
                one => std::slice::from_ref(one),
            };
            let each = |one: &Value| Ok(literal(schema, item, one, variables)?.unwrap_or(Json::Null));
            return Ok(Some(Json::Array(items.iter().map(each).collect::<Result<_, String>>()?)));
        }
        BaseType::Named(name) => name,
    };
    match (schema.kind(name), value) {
        (Some(SchemaTypeKind::Enum(values)), Value::Enum(one))
            if values.iter().any(|known| *known.name == **one) =>
        {
            Ok(Some((**one).into()))
        }
        (Some(SchemaTypeKind::Enum(_)), _) => Err(format!("the value is not one of {name}")),
        (Some(SchemaTypeKind::Input(fields)), Value::Object(members)) => {
            let given = |input: &Input| match members.get(&*input.name) {
                Some(value) => literal(schema, &input.ty, value, variables),
                None => Ok(None),
            };
            let names = members.keys().map(|name| &**name);
            object(schema, name, fields, names, given).map(Some)
        }
        (Some(SchemaTypeKind::Scalar), _) => {
            let json = substituted(value, variables).ok_or("the value is missing")?;
            scalar(name, json).map(Some)
        }
        _ => Err(format!("the value is not of type {name}")),
    }
}

/// Coerces a value given as JSON.
fn of_json(schema: &Schema, ty: &Type, value: &Json) -> Result<Json, String> {
    let name = match &ty.base {
        _ if value.is_null() => return null(ty),
        BaseType::List(item) => {
            let items = match value {
                Json::Array(items) => &items[..],
                one => std::slice::from_ref(one),
            };
            return items
                .iter()
                .map(|one| of_json(schema, item, one))
                .collect::<Result<_, _>>()
                .map(Json::Array);
        }
        BaseType::Named(name) => name,
    };
    match (schema.kind(name), value) {
        (Some(SchemaTypeKind::Enum(values)), Json::String(one))
            if values.iter().any(|known| *known.name == **one) =>
        {
            Ok(value.clone())
        }
        (Some(SchemaTypeKind::Enum(_)), _) => Err(format!("the value is not one of {name}")),
        (Some(SchemaTypeKind::Input(fields)), Json::Object(members)) => {
            let given = |input: &Input| match members.get(&*input.name) {
                Some(value) => of_json(schema, &input.ty, value).map(Some),
                None => Ok(None),
            };
            object(schema, name, fields, members.keys().map(|name| &**name), given)
        }
        (Some(SchemaTypeKind::Scalar), value) => scalar(name, value.clone()),
        _ => Err(format!("the value is not of type {name}")),
    }
}

fn null(ty: &Type) -> Result<Json, String> {
    if ty.nullable { Ok(Json::Null) } else { Err("the value must not be null".to_owned()) }
}

fn object<'n>(
    schema: &Schema,
    name: &str,
    fields: &[Input],
    mut given: impl Iterator<Item = &'n str>,
    value: impl Fn(&Input) -> Result<Option<Json>, String>,
) -> Result<Json, String> {
    if let Some(unknown) = given.find(|given| !fields.iter().any(|input| *input.name == **given)) {
        return Err(format!("{name} has no field {unknown}"));
    }
    let mut found = ArgumentValues::new();
    for input in fields {
        if let Some(value) = or_default(schema, input, value(input)?)? {
            found.insert(input.name.to_string(), value);
        }
    }
    Ok(Json::Object(found))
}

/// Checks the value of a scalar. Scalars of the application accept anything.
fn scalar(name: &str, value: Json) -> Result<Json, String> {
    let is_whole =
        |value: &Json| value.as_i64().is_some() || value.as_f64().is_some_and(|float| float.fract() == 0.0);
    let fits = |value: &Json| {
        value.as_f64().is_some_and(|float| (-2_147_483_648.0..=2_147_483_647.0).contains(&float))
    };
    match (name, &value) {
        ("Int", Json::Number(_)) if is_whole(&value) && fits(&value) => {
            Ok((value.as_f64().unwrap_or_default() as i32).into())
        }
        ("Float", Json::Number(_)) | ("Boolean", Json::Bool(_)) | ("String" | "ID", Json::String(_)) => {
            Ok(value)
        }
        ("ID", Json::Number(number)) if value.is_i64() || value.is_u64() => Ok(number.to_string().into()),
        ("Int" | "Float" | "Boolean" | "String" | "ID", _) => Err(format!("the value is not of type {name}")),
        _ => Ok(value),
    }
}

/// Converts a literal to JSON, whatever its type. `None`: a variable in it was not given.
pub(super) fn substituted(value: &Value, variables: &ArgumentValues) -> Option<Json> {
    Some(match value {
        Value::Variable(name) => variables.get(&**name)?.clone(),
        Value::Null | Value::Binary(_) => Json::Null,
        Value::Number(number) => Json::Number(number.clone()),
        Value::String(text) => text.clone().into(),
        Value::Boolean(value) => (*value).into(),
        Value::Enum(name) => (**name).into(),
        Value::List(items) => {
            Json::Array(items.iter().map(|one| substituted(one, variables)).collect::<Option<_>>()?)
        }
        Value::Object(members) => {
            let member =
                |(name, value): (&Name, &Value)| Some((name.to_string(), substituted(value, variables)?));
            Json::Object(members.iter().map(member).collect::<Option<_>>()?)
        }
    })
}

impl Schema {
    /// Whether this is an input type.
    fn takes(&self, ty: &Type) -> bool {
        let kind = self.kind(super::fields::innermost(ty));
        matches!(kind, Some(SchemaTypeKind::Scalar | SchemaTypeKind::Enum(_) | SchemaTypeKind::Input(_)))
    }
}
