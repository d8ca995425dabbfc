//! Answering what clients ask about the schema (GraphQL, section 4).

use async_graphql_parser::types::{BaseType, OperationDefinition, Type};
use bytes::Bytes;
use serde_json::Value as Json;
use shared::protocol::graphql::{GraphQlError, LIMIT_EXCEEDED};

use super::coerce::{self, Arguments};
use super::document::{Document, Group};
use super::schema::{Definition, Directive, EnumValue, Field, Input, Kind, Schema};
use super::select::TYPE_NAME;
use super::{Errors, NOT_SUPPORTED, VALIDATION_FAILED, one};

/// An answer about a schema holds no more values than this.
pub(super) const VALUES_MAX: usize = 200_000;
/// The question that libraries ask is so deep.
const DEPTH_MIN: usize = 20;

/// What there is to be asked about.
#[derive(Clone, Copy)]
enum Thing<'s> {
    Schema,
    Named(&'s Definition),
    /// A type around others: a list, or one without null.
    Around(&'s Type),
    /// The list in one that must not be null.
    List(&'s Type),
    Field(&'s Field),
    Input(&'s Input),
    Value(&'s EnumValue),
    Directive(&'s Directive),
}

enum Answer<'s> {
    None,
    Leaf(Json),
    One(Thing<'s>),
    Many(Vec<Thing<'s>>),
}

struct Answering<'d, 's> {
    schema: &'s Schema,
    document: &'d Document<'s>,
}

/// The members of a result.
pub(super) fn answer<'s>(
    schema: &'s Schema,
    document: &Document<'s>,
    operation: &'s OperationDefinition,
) -> Result<Bytes, Errors> {
    let answering = Answering { schema, document };
    let mut data = Arguments::new();
    for (key, group) in document.collect(&schema.query, &[&operation.selection_set.node])? {
        let name = &*group.first.node.name.node;
        let at = group.first.pos;
        let value = match name {
            TYPE_NAME => (*schema.query).into(),
            "__schema" | "__type" if !document.limits.introspection => {
                return Err(one(NOT_SUPPORTED, "the schema is not told here"));
            }
            "__schema" => answering.tell(Thing::Schema, &group, 1)?,
            "__type" => {
                let named = group.first.node.get_argument("name").map(|name| &name.node);
                let named = named.and_then(|name| coerce::substituted(name, document.variables));
                let Some(Json::String(named)) = named else {
                    return Err(one(VALIDATION_FAILED, "__type takes a name"));
                };
                match schema.types.get(&*named) {
                    Some(definition) => answering.tell(Thing::Named(definition), &group, 1)?,
                    None => Json::Null,
                }
            }
            _ => {
                let message =
                    format!("{name} is not answered here: this is for subscriptions, and for the schema");
                return Err(vec![GraphQlError::new(NOT_SUPPORTED, message).at(at.line, at.column)]);
            }
        };
        data.insert(key.to_owned(), value);
    }
    Ok(format!("\"data\":{}", Json::Object(data)).into())
}

impl<'s> Answering<'_, 's> {
    fn tell(&self, thing: Thing<'s>, group: &Group<'s>, depth: usize) -> Result<Json, Errors> {
        let max = self.document.limits.depth_max.max(DEPTH_MIN);
        if depth > max {
            return Err(one(LIMIT_EXCEEDED, format!("fields are selected more than {max} deep")));
        }
        let of = thing.type_name();
        let mut found = Arguments::new();
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
                Answer::Leaf(value) => value,
                Answer::None => Json::Null,
                Answer::One(thing) => self.tell(thing, &group, depth + 1)?,
                Answer::Many(things) => {
                    let each = things.into_iter().map(|thing| self.tell(thing, &group, depth + 1));
                    Json::Array(each.collect::<Result<_, _>>()?)
                }
            };
            found.insert(key.to_owned(), value);
        }
        Ok(Json::Object(found))
    }
}

impl<'s> Thing<'s> {
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

    /// What one of its fields is. `with_old`: what is deprecated counts too.
    fn answer(self, schema: &'s Schema, name: &str, with_old: bool) -> Answer<'s> {
        match self {
            Self::Schema => of_schema(schema, name),
            Self::Named(definition) => of_type(schema, definition, name, with_old),
            Self::Around(ty) => match name {
                "kind" => text(if ty.nullable { "LIST" } else { "NON_NULL" }),
                "ofType" => match (&ty.base, ty.nullable) {
                    (BaseType::List(item), true) => Answer::One(type_of(schema, item)),
                    // What is inside of it without the mark.
                    (BaseType::List(_), false) => Answer::One(Self::List(ty)),
                    (BaseType::Named(named), _) => {
                        schema.types.get(&**named).map_or(Answer::None, |one| Answer::One(Self::Named(one)))
                    }
                },
                _ => Answer::None,
            },
            Self::List(ty) => match (name, &ty.base) {
                ("kind", _) => text("LIST"),
                ("ofType", BaseType::List(item)) => Answer::One(type_of(schema, item)),
                _ => Answer::None,
            },
            Self::Field(field) => match name {
                "args" => inputs(&field.arguments, with_old),
                "type" => Answer::One(type_of(schema, &field.ty)),
                _ => of_any(&field.name, &field.description, &field.deprecated, name),
            },
            Self::Input(input) => match name {
                "type" => Answer::One(type_of(schema, &input.ty)),
                "defaultValue" => input
                    .default
                    .as_ref()
                    .map_or(Answer::None, |value| Answer::Leaf(value.to_string().into())),
                _ => of_any(&input.name, &input.description, &input.deprecated, name),
            },
            Self::Value(value) => of_any(&value.name, &value.description, &value.deprecated, name),
            Self::Directive(directive) => of_directive(directive, name, with_old),
        }
    }
}

fn text(text: &str) -> Answer<'static> {
    Answer::Leaf(text.into())
}

fn of_any<'s>(
    own: &str,
    description: &Option<Box<str>>,
    deprecated: &Option<Box<str>>,
    name: &str,
) -> Answer<'s> {
    let maybe = |text: &Option<Box<str>>| Answer::Leaf(text.as_deref().map_or(Json::Null, Json::from));
    match name {
        "name" => Answer::Leaf(own.into()),
        "description" => maybe(description),
        "isDeprecated" => Answer::Leaf(deprecated.is_some().into()),
        "deprecationReason" => maybe(deprecated),
        _ => Answer::None,
    }
}

fn of_schema<'s>(schema: &'s Schema, name: &str) -> Answer<'s> {
    let named = |name: Option<&Box<str>>| {
        name.and_then(|name| schema.types.get(name))
            .map_or(Answer::None, |one| Answer::One(Thing::Named(one)))
    };
    match name {
        "types" => Answer::Many(schema.types.values().map(Thing::Named).collect()),
        "queryType" => named(Some(&schema.query)),
        "mutationType" => named(schema.mutation.as_ref()),
        "subscriptionType" => named(schema.subscription.as_ref()),
        "directives" => Answer::Many(schema.directives.iter().map(Thing::Directive).collect()),
        _ => Answer::None,
    }
}

fn of_type<'s>(schema: &'s Schema, of: &'s Definition, name: &str, with_old: bool) -> Answer<'s> {
    let all = |names: &[Box<str>]| {
        Answer::Many(names.iter().filter_map(|name| schema.types.get(name).map(Thing::Named)).collect())
    };
    let kept = |deprecated: &Option<Box<str>>| with_old || deprecated.is_none();
    match (name, &of.kind) {
        ("kind", kind) => text(match kind {
            Kind::Scalar => "SCALAR",
            Kind::Object { .. } => "OBJECT",
            Kind::Interface { .. } => "INTERFACE",
            Kind::Union(_) => "UNION",
            Kind::Enum(_) => "ENUM",
            Kind::Input(_) => "INPUT_OBJECT",
        }),
        ("name" | "description", _) => of_any(&of.name, &of.description, &None, name),
        ("fields", Kind::Object { fields, .. } | Kind::Interface { fields, .. }) => {
            Answer::Many(fields.iter().filter(|field| kept(&field.deprecated)).map(Thing::Field).collect())
        }
        ("interfaces", Kind::Object { interfaces, .. } | Kind::Interface { interfaces, .. }) => {
            all(interfaces)
        }
        ("possibleTypes", Kind::Interface { .. } | Kind::Union(_)) => {
            let possible = schema.possible(&of.name).into_iter();
            Answer::Many(possible.filter_map(|name| schema.types.get(name).map(Thing::Named)).collect())
        }
        ("enumValues", Kind::Enum(values)) => {
            Answer::Many(values.iter().filter(|value| kept(&value.deprecated)).map(Thing::Value).collect())
        }
        ("inputFields", Kind::Input(fields)) => inputs(fields, with_old),
        _ => Answer::None,
    }
}

fn inputs(inputs: &[Input], with_old: bool) -> Answer<'_> {
    let kept = inputs.iter().filter(|input| with_old || input.deprecated.is_none());
    Answer::Many(kept.map(Thing::Input).collect())
}

fn type_of<'s>(schema: &'s Schema, ty: &'s Type) -> Thing<'s> {
    match &ty.base {
        BaseType::Named(name) if ty.nullable => {
            schema.types.get(&**name).map_or(Thing::Around(ty), Thing::Named)
        }
        _ => Thing::Around(ty),
    }
}

fn of_directive<'s>(directive: &'s Directive, name: &str, with_old: bool) -> Answer<'s> {
    match name {
        "isRepeatable" => Answer::Leaf(directive.is_repeatable.into()),
        "locations" => Answer::Leaf(Json::from(directive.locations.clone())),
        "args" => inputs(&directive.arguments, with_old),
        _ => of_any(&directive.name, &directive.description, &None, name),
    }
}
