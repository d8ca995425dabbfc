//! Answers introspection queries (GraphQL, section 4).

use async_graphql_parser::types::{BaseType, OperationDefinition, Type};
use bytes::Bytes;
use serde_json::Value as Json;
use shared::protocol::graphql::{GraphQlError, LIMIT_EXCEEDED};

use super::coerce::{self, ArgumentValues};
use super::document::{Document, FieldGroup};
use super::schema::{Definition, Directive, EnumValue, Field, Input, Schema, SchemaTypeKind};
use super::select::TYPE_NAME;
use super::{Errors, NOT_SUPPORTED, VALIDATION_FAILED, one};

/// The most values in the result of an introspection query.
pub(super) const VALUES_MAX: usize = 200_000;
/// The depth of the introspection query that libraries send.
const DEPTH_MIN: usize = 20;

/// An element of the schema that introspection can describe.
#[derive(Clone, Copy)]
enum SchemaItem<'s> {
    Schema,
    Named(&'s Definition),
    /// A wrapping type: a list, or a non-null type.
    Around(&'s Type),
    /// The list inside a non-null type.
    List(&'s Type),
    Field(&'s Field),
    Input(&'s Input),
    Value(&'s EnumValue),
    Directive(&'s Directive),
}

enum IntrospectionValue<'s> {
    None,
    Leaf(Json),
    One(SchemaItem<'s>),
    Many(Vec<SchemaItem<'s>>),
}

struct IntrospectionContext<'d, 's> {
    schema: &'s Schema,
    document: &'d Document<'s>,
}

/// Returns the members of the result.
pub(super) fn answer<'s>(
    schema: &'s Schema,
    document: &Document<'s>,
    operation: &'s OperationDefinition,
) -> Result<Bytes, Errors> {
    let answering = IntrospectionContext { schema, document };
    let mut data = ArgumentValues::new();
    for (key, group) in document.collect(&schema.query, &[&operation.selection_set.node])? {
        let name = &*group.first.node.name.node;
        let at = group.first.pos;
        let value = match name {
            TYPE_NAME => (*schema.query).into(),
            "__schema" | "__type" if !document.limits.introspection => {
                return Err(one(NOT_SUPPORTED, "introspection is disabled"));
            }
            "__schema" => answering.describe(SchemaItem::Schema, &group, 1)?,
            "__type" => {
                let named = group.first.node.get_argument("name").map(|name| &name.node);
                let named = named.and_then(|name| coerce::substituted(name, document.variables));
                let Some(Json::String(named)) = named else {
                    return Err(one(VALIDATION_FAILED, "__type needs the argument name"));
                };
                match schema.types.get(&*named) {
                    Some(definition) => answering.describe(SchemaItem::Named(definition), &group, 1)?,
                    None => Json::Null,
                }
            }
            _ => {
                let message =
                    format!("{name} cannot be queried: only subscriptions and introspection are supported");
                return Err(vec![GraphQlError::new(NOT_SUPPORTED, message).at(at.line, at.column)]);
            }
        };
        data.insert(key.to_owned(), value);
    }
    Ok(format!("\"data\":{}", Json::Object(data)).into())
}

impl<'s> IntrospectionContext<'_, 's> {
    fn describe(&self, thing: SchemaItem<'s>, group: &FieldGroup<'s>, depth: usize) -> Result<Json, Errors> {
        let max = self.document.limits.depth_max.max(DEPTH_MIN);
        if depth > max {
            return Err(one(LIMIT_EXCEEDED, format!("fields are nested more than {max} levels deep")));
        }
        let of = thing.type_name();
        let mut found = ArgumentValues::new();
        for (key, group) in self.document.collect(of, &group.sets)? {
            let field = group.first;
            let (name, at) = (&*field.node.name.node, field.pos);
            let fails = |why: String| vec![GraphQlError::new(VALIDATION_FAILED, why).at(at.line, at.column)];
            if name == TYPE_NAME {
                found.insert(key.to_owned(), of.into());
                continue;
            }
            let known =
                self.schema.field(of, name).ok_or_else(|| fails(format!("{of} has no field {name}")))?;
            let (given, variables) = (&field.node.arguments, self.document.variables);
            let arguments = coerce::arguments(self.schema, known, given, variables).map_err(fails)?;
            let with_old = arguments.get("includeDeprecated") == Some(&Json::Bool(true));
            let value = match thing.answer(self.schema, name, with_old) {
                IntrospectionValue::Leaf(value) => value,
                IntrospectionValue::None => Json::Null,
                IntrospectionValue::One(thing) => self.describe(thing, &group, depth + 1)?,
                IntrospectionValue::Many(things) => {
                    let each = things.into_iter().map(|thing| self.describe(thing, &group, depth + 1));
                    Json::Array(each.collect::<Result<_, _>>()?)
                }
            };
            found.insert(key.to_owned(), value);
        }
        Ok(Json::Object(found))
    }
}

impl<'s> SchemaItem<'s> {
    fn type_name(self) -> &'static str {
        match self {
            Self::Schema => "__Schema",
            Self::Named(_) | Self::Around(_) | Self::List(_) => "__Type",
            Self::Field(_) => "__Field",
            Self::Input(_) => "__InputValue",
            Self::Value(_) => "__EnumValue",
            Self::Directive(_) => "__Directive",
        }
    }

    /// Returns the value of a field. With `with_old`, deprecated elements are included.
    fn answer(self, schema: &'s Schema, name: &str, with_old: bool) -> IntrospectionValue<'s> {
        match self {
            Self::Schema => of_schema(schema, name),
            Self::Named(definition) => of_type(schema, definition, name, with_old),
            Self::Around(ty) => match name {
                "kind" => text(if ty.nullable { "LIST" } else { "NON_NULL" }),
                "ofType" => match (&ty.base, ty.nullable) {
                    (BaseType::List(item), true) => IntrospectionValue::One(type_of(schema, item)),
                    // The type inside the non-null marker.
                    (BaseType::List(_), false) => IntrospectionValue::One(Self::List(ty)),
                    (BaseType::Named(named), _) => schema
                        .types
                        .get(&**named)
                        .map_or(IntrospectionValue::None, |one| IntrospectionValue::One(Self::Named(one))),
                },
                _ => IntrospectionValue::None,
            },
            Self::List(ty) => match (name, &ty.base) {
                ("kind", _) => text("LIST"),
                ("ofType", BaseType::List(item)) => IntrospectionValue::One(type_of(schema, item)),
                _ => IntrospectionValue::None,
            },
            Self::Field(field) => match name {
                "args" => inputs(&field.arguments, with_old),
                "type" => IntrospectionValue::One(type_of(schema, &field.ty)),
                _ => of_any(&field.name, &field.description, &field.deprecated, name),
            },
            Self::Input(input) => match name {
                "type" => IntrospectionValue::One(type_of(schema, &input.ty)),
                "defaultValue" => input.default.as_ref().map_or(IntrospectionValue::None, |value| {
                    IntrospectionValue::Leaf(value.to_string().into())
                }),
                _ => of_any(&input.name, &input.description, &input.deprecated, name),
            },
            Self::Value(value) => of_any(&value.name, &value.description, &value.deprecated, name),
            Self::Directive(directive) => of_directive(directive, name, with_old),
        }
    }
}

fn text(text: &str) -> IntrospectionValue<'static> {
    IntrospectionValue::Leaf(text.into())
}

fn of_any<'s>(
    own: &str,
    description: &Option<Box<str>>,
    deprecated: &Option<Box<str>>,
    name: &str,
) -> IntrospectionValue<'s> {
    let maybe =
        |text: &Option<Box<str>>| IntrospectionValue::Leaf(text.as_deref().map_or(Json::Null, Json::from));
    match name {
        "name" => IntrospectionValue::Leaf(own.into()),
        "description" => maybe(description),
        "isDeprecated" => IntrospectionValue::Leaf(deprecated.is_some().into()),
        "deprecationReason" => maybe(deprecated),
        _ => IntrospectionValue::None,
    }
}

fn of_schema<'s>(schema: &'s Schema, name: &str) -> IntrospectionValue<'s> {
    let named = |name: Option<&Box<str>>| {
        name.and_then(|name| schema.types.get(name))
            .map_or(IntrospectionValue::None, |one| IntrospectionValue::One(SchemaItem::Named(one)))
    };
    match name {
        "types" => IntrospectionValue::Many(schema.types.values().map(SchemaItem::Named).collect()),
        "queryType" => named(Some(&schema.query)),
        "mutationType" => named(schema.mutation.as_ref()),
        "subscriptionType" => named(schema.subscription.as_ref()),
        "directives" => {
            IntrospectionValue::Many(schema.directives.iter().map(SchemaItem::Directive).collect())
        }
        _ => IntrospectionValue::None,
    }
}

fn of_type<'s>(schema: &'s Schema, of: &'s Definition, name: &str, with_old: bool) -> IntrospectionValue<'s> {
    let all = |names: &[Box<str>]| {
        IntrospectionValue::Many(
            names.iter().filter_map(|name| schema.types.get(name).map(SchemaItem::Named)).collect(),
        )
    };
    let is_shown = |deprecated: &Option<Box<str>>| with_old || deprecated.is_none();
    match (name, &of.kind) {
        ("kind", kind) => text(match kind {
            SchemaTypeKind::Scalar => "SCALAR",
            SchemaTypeKind::Object { .. } => "OBJECT",
            SchemaTypeKind::Interface { .. } => "INTERFACE",
            SchemaTypeKind::Union(_) => "UNION",
            SchemaTypeKind::Enum(_) => "ENUM",
            SchemaTypeKind::Input(_) => "INPUT_OBJECT",
        }),
        ("name" | "description", _) => of_any(&of.name, &of.description, &None, name),
        ("fields", SchemaTypeKind::Object { fields, .. } | SchemaTypeKind::Interface { fields, .. }) => {
            IntrospectionValue::Many(
                fields.iter().filter(|field| is_shown(&field.deprecated)).map(SchemaItem::Field).collect(),
            )
        }
        (
            "interfaces",
            SchemaTypeKind::Object { interfaces, .. } | SchemaTypeKind::Interface { interfaces, .. },
        ) => all(interfaces),
        ("possibleTypes", SchemaTypeKind::Interface { .. } | SchemaTypeKind::Union(_)) => {
            let possible = schema.possible(&of.name).into_iter();
            IntrospectionValue::Many(
                possible.filter_map(|name| schema.types.get(name).map(SchemaItem::Named)).collect(),
            )
        }
        ("enumValues", SchemaTypeKind::Enum(values)) => IntrospectionValue::Many(
            values.iter().filter(|value| is_shown(&value.deprecated)).map(SchemaItem::Value).collect(),
        ),
        ("inputFields", SchemaTypeKind::Input(fields)) => inputs(fields, with_old),
        _ => IntrospectionValue::None,
    }
}

fn inputs(inputs: &[Input], with_old: bool) -> IntrospectionValue<'_> {
    let shown = inputs.iter().filter(|input| with_old || input.deprecated.is_none());
    IntrospectionValue::Many(shown.map(SchemaItem::Input).collect())
}

fn type_of<'s>(schema: &'s Schema, ty: &'s Type) -> SchemaItem<'s> {
    match &ty.base {
        BaseType::Named(name) if ty.nullable => {
            schema.types.get(&**name).map_or(SchemaItem::Around(ty), SchemaItem::Named)
        }
        _ => SchemaItem::Around(ty),
    }
}

fn of_directive<'s>(directive: &'s Directive, name: &str, with_old: bool) -> IntrospectionValue<'s> {
    match name {
        "isRepeatable" => IntrospectionValue::Leaf(directive.is_repeatable.into()),
        "locations" => IntrospectionValue::Leaf(Json::from(directive.locations.clone())),
        "args" => inputs(&directive.arguments, with_old),
        _ => of_any(&directive.name, &directive.description, &None, name),
    }
}
