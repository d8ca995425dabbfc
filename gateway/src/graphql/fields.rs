//! Maps the fields of the subscription type to channels, and builds or reads their schema.

use std::collections::BTreeMap;

use async_graphql_parser::types::{BaseType, Type};

use super::coerce;
use super::graphql_config::{GraphqlConfig, Subscription};
use super::schema::{Field, Schema};
use super::template::Template;

/// The scalar of payloads without a configured type.
const JSON: &str = "JSON";

/// A mistake in the configuration. `key` is relative to the section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldConfigError {
    pub key: String,
    pub problem: String,
}

/// The configured fields of the subscription type.
#[derive(Debug)]
pub(super) struct SubscriptionFields(BTreeMap<Box<str>, MappedField>);

#[derive(Debug)]
pub(super) struct MappedField {
    pub(super) template: Template,
    pub(super) hook: bool,
}

impl SubscriptionFields {
    /// Reads the fields. `sdl`: a schema that defines them, if there is one.
    pub(super) fn read(
        config: &GraphqlConfig,
        sdl: Option<&str>,
    ) -> Result<(Schema, Self), Vec<FieldConfigError>> {
        let mut found = Vec::new();
        let mut add = |key: String, problem: String| found.push(FieldConfigError { key, problem });
        let mut fields = BTreeMap::new();
        for (name, subscription) in &config.subscriptions {
            let section = format!("subscriptions.{name}");
            if !is_name(name) || name.starts_with("__") {
                add(
                    section,
                    "must be a GraphQL name: letters, digits and _, without __ at its beginning".to_owned(),
                );
                continue;
            }
            if sdl.is_some() {
                for (key, is_set) in [
                    ("arguments", !subscription.arguments.is_empty()),
                    ("payload", !subscription.payload.is_empty()),
                    ("description", !subscription.description.is_empty()),
                ] {
                    if is_set {
                        add(
                            format!("{section}.{key}"),
                            "must not be set if there is a schema, which defines it".to_owned(),
                        );
                    }
                }
            }
            match Template::parse(&subscription.channel) {
                Ok(template) if template.arguments().all(is_name) => {
                    fields.insert((**name).into(), MappedField { template, hook: subscription.hook });
                }
                Ok(_) => {
                    add(format!("{section}.channel"), "must name an argument between { and }".to_owned())
                }
                Err(problem) => add(format!("{section}.channel"), problem),
            }
        }
        if found.is_empty() && sdl.is_none() {
            found = config.subscriptions.iter().flat_map(|(name, one)| unusable(name, one)).collect();
        }
        if !found.is_empty() {
            return Err(found);
        }
        let schema = match sdl {
            Some(sdl) => Schema::parse(sdl)
                .map_err(|problem| vec![FieldConfigError { key: "schema_file".to_owned(), problem }])?,
            // The parts of the generated schema have been checked.
            None => Schema::parse(&generated(config))
                .map_err(|problem| vec![FieldConfigError { key: "subscriptions".to_owned(), problem }])?,
        };
        let fields = Self(fields);
        let found = fields.unusable_in(&schema);
        if found.is_empty() { Ok((schema, fields)) } else { Err(found) }
    }

    pub(super) fn find(&self, name: &str) -> Option<&MappedField> {
        self.0.get(name)
    }

    /// Checks that the schema has each field, with arguments that a channel can be named by.
    fn unusable_in(&self, schema: &Schema) -> Vec<FieldConfigError> {
        let mut found = Vec::new();
        for (name, mapped) in &self.0 {
            let root = schema.subscription.as_deref();
            let Some(field) = root.and_then(|root| schema.field(root, name)) else {
                let problem = "is not a field of the schema's subscription type".to_owned();
                found.push(FieldConfigError { key: format!("subscriptions.{name}"), problem });
                continue;
            };
            for argument in mapped.template.arguments() {
                if let Err(problem) = names_a_channel(schema, field, argument) {
                    found.push(FieldConfigError { key: format!("subscriptions.{name}.channel"), problem });
                }
            }
        }
        found
    }
}

fn names_a_channel(schema: &Schema, field: &Field, argument: &str) -> Result<(), String> {
    let Some(input) = field.arguments.iter().find(|input| *input.name == *argument) else {
        return Err(format!("names an argument {argument} that the field does not have"));
    };
    let is_leaf = matches!(&input.ty.base, BaseType::Named(name) if schema.is_leaf(name));
    let is_given = !input.ty.nullable || input.default.is_some();
    match is_leaf && is_given {
        true => Ok(()),
        false => Err(format!("names the argument {argument}, which must be a single, required value")),
    }
}

/// Returns the mistakes in a field's section, where there is no schema to define the field.
fn unusable(name: &str, subscription: &Subscription) -> Vec<FieldConfigError> {
    let mut found = Vec::new();
    let section = format!("subscriptions.{name}");
    if !subscription.payload.is_empty() && !is_name(&subscription.payload) {
        let problem = "must be the name of a scalar, such as JSON".to_owned();
        found.push(FieldConfigError { key: format!("{section}.payload"), problem });
    }
    for (argument, ty) in &subscription.arguments {
        let key = format!("{section}.arguments.{argument}");
        if !is_name(argument) || argument.starts_with("__") {
            found.push(FieldConfigError { key, problem: "must be a GraphQL name".to_owned() });
            continue;
        }
        let alone = format!("type Query {{ f({argument}: {ty}): Boolean }}");
        let schema = Schema::parse(&alone);
        let field = schema.as_ref().ok().and_then(|schema| schema.field("Query", "f"));
        let [input] = field.map_or(&[][..], |field| &field.arguments[..]) else {
            let problem = "must be a type such as String!, with a default if it has one: Int = 1".to_owned();
            found.push(FieldConfigError { key, problem });
            continue;
        };
        if let Some(default) = &input.default
            && let Ok(schema) = &schema
            && let Err(problem) = coerce::constant(schema, &input.ty, default)
        {
            found.push(FieldConfigError { key, problem: format!("has an invalid default: {problem}") });
            continue;
        }
        let is_used = subscription.channel.contains(&format!("{{{argument}}}"));
        let is_one =
            matches!(input.ty.base, BaseType::Named(_)) && (!input.ty.nullable || input.default.is_some());
        if is_used && !is_one {
            let problem =
                "is part of the channel's name: it must be a single, required value, such as String!"
                    .to_owned();
            found.push(FieldConfigError { key, problem });
        }
    }
    found
}

/// Generates a schema with nothing but these fields.
fn generated(config: &GraphqlConfig) -> String {
    let mut scalars: Vec<&str> = Vec::new();
    let mut fields = String::new();
    for (name, subscription) in &config.subscriptions {
        let payload = if subscription.payload.is_empty() { JSON } else { &subscription.payload };
        if !Schema::is_builtin(payload) && !scalars.contains(&payload) {
            scalars.push(payload);
        }
        let mut arguments = subscription.arguments.clone();
        for argument in Template::parse(&subscription.channel).unwrap_or_default().arguments() {
            arguments.entry(argument.to_owned()).or_insert_with(|| "String!".to_owned());
        }
        let arguments: Vec<String> = arguments.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
        let arguments =
            if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(", ")) };
        if !subscription.description.is_empty() {
            fields.push_str(&format!("  {}\n", serde_json::Value::from(&*subscription.description)));
        }
        fields.push_str(&format!("  {name}{arguments}: {payload}\n"));
    }
    let scalars: String = scalars.iter().map(|name| format!("scalar {name}\n")).collect();
    let fields = if fields.is_empty() { "  _nothing: Boolean\n".to_owned() } else { fields };
    format!("{scalars}type Query {{\n  _nothing: Boolean\n}}\ntype Subscription {{\n{fields}}}\n")
}

/// Whether the text is a name in GraphQL (section 2.1.9).
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Returns the name of the type inside lists and non-null markers.
pub(super) fn innermost(ty: &Type) -> &str {
    match &ty.base {
        BaseType::Named(name) => name,
        BaseType::List(item) => innermost(item),
    }
}
