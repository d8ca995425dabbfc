//! A schema: its types by name, as far as operations are checked against them and clients query them.

use std::collections::BTreeMap;

use async_graphql_parser::Positioned;
use async_graphql_parser::parse_schema;
use async_graphql_parser::types::{
    ConstDirective, DirectiveDefinition, DirectiveLocation, FieldDefinition, InputValueDefinition, Type,
    TypeDefinition, TypeKind, TypeSystemDefinition,
};
use async_graphql_value::ConstValue;

use super::fields::innermost;
use super::{brackets_are_too_deep, reason_of};

/// The scalars that every schema has.
pub(super) const BUILTINS: [&str; 5] = ["Int", "Float", "String", "Boolean", "ID"];

/// The types of introspection (GraphQL, section 4.2).
const ABOUT_SCHEMAS: &str = r#"
type __Schema { description: String types: [__Type!]! queryType: __Type! mutationType: __Type
  subscriptionType: __Type directives: [__Directive!]! }
type __Type { kind: __TypeKind! name: String description: String specifiedByURL: String
  fields(includeDeprecated: Boolean = false): [__Field!] interfaces: [__Type!] possibleTypes: [__Type!]
  enumValues(includeDeprecated: Boolean = false): [__EnumValue!]
  inputFields(includeDeprecated: Boolean = false): [__InputValue!] ofType: __Type isOneOf: Boolean }
enum __TypeKind { SCALAR OBJECT INTERFACE UNION ENUM INPUT_OBJECT LIST NON_NULL }
type __Field { name: String! description: String args(includeDeprecated: Boolean = false): [__InputValue!]!
  type: __Type! isDeprecated: Boolean! deprecationReason: String }
type __InputValue { name: String! description: String type: __Type! defaultValue: String isDeprecated: Boolean!
  deprecationReason: String }
type __EnumValue { name: String! description: String isDeprecated: Boolean! deprecationReason: String }
type __Directive { name: String! description: String isRepeatable: Boolean! locations: [__DirectiveLocation!]!
  args(includeDeprecated: Boolean = false): [__InputValue!]! }
enum __DirectiveLocation { QUERY MUTATION SUBSCRIPTION FIELD FRAGMENT_DEFINITION FRAGMENT_SPREAD INLINE_FRAGMENT
  VARIABLE_DEFINITION SCHEMA SCALAR OBJECT FIELD_DEFINITION ARGUMENT_DEFINITION INTERFACE UNION ENUM ENUM_VALUE
  INPUT_OBJECT INPUT_FIELD_DEFINITION }
"Leaves this in if it is true." directive @include(if: Boolean!) on FIELD | FRAGMENT_SPREAD | INLINE_FRAGMENT
"Leaves this out if it is true." directive @skip(if: Boolean!) on FIELD | FRAGMENT_SPREAD | INLINE_FRAGMENT
"Says that this is not to be used any more, and why." directive @deprecated(reason: String = "No longer supported") on
  FIELD_DEFINITION | ARGUMENT_DEFINITION | INPUT_FIELD_DEFINITION | ENUM_VALUE
"Says where a scalar is described." directive @specifiedBy(url: String!) on SCALAR
"#;

#[derive(Debug)]
pub(super) struct Schema {
    pub(super) types: BTreeMap<Box<str>, Definition>,
    pub(super) query: Box<str>,
    pub(super) mutation: Option<Box<str>>,
    pub(super) subscription: Option<Box<str>>,
    pub(super) directives: Vec<Directive>,
}

#[derive(Debug)]
pub(super) struct Directive {
    pub(super) name: Box<str>,
    pub(super) description: Option<Box<str>>,
    pub(super) arguments: Vec<Input>,
    pub(super) is_repeatable: bool,
    /// Named as in the schema language.
    pub(super) locations: Vec<&'static str>,
}

#[derive(Debug)]
pub(super) struct Definition {
    pub(super) name: Box<str>,
    pub(super) description: Option<Box<str>>,
    pub(super) kind: SchemaTypeKind,
}

#[derive(Debug)]
pub(super) enum SchemaTypeKind {
    Scalar,
    Object { fields: Vec<Field>, interfaces: Vec<Box<str>> },
    Interface { fields: Vec<Field>, interfaces: Vec<Box<str>> },
    Union(Vec<Box<str>>),
    Enum(Vec<EnumValue>),
    Input(Vec<Input>),
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: Box<str>,
    pub(super) description: Option<Box<str>>,
    pub(super) arguments: Vec<Input>,
    pub(super) ty: Type,
    pub(super) deprecated: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Input {
    pub(super) name: Box<str>,
    pub(super) description: Option<Box<str>>,
    pub(super) ty: Type,
    pub(super) default: Option<ConstValue>,
    pub(super) deprecated: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) struct EnumValue {
    pub(super) name: Box<str>,
    pub(super) description: Option<Box<str>>,
    pub(super) deprecated: Option<Box<str>>,
}

impl Schema {
    pub(super) fn is_builtin(name: &str) -> bool {
        BUILTINS.contains(&name)
    }

    /// Parses a schema, or returns what is wrong with it.
    pub(super) fn parse(sdl: &str) -> Result<Self, String> {
        let mut schema = Self {
            types: BTreeMap::new(),
            query: "Query".into(),
            mutation: None,
            subscription: None,
            directives: Vec::new(),
        };
        for name in BUILTINS {
            let kind = SchemaTypeKind::Scalar;
            schema.types.insert(name.into(), Definition { name: name.into(), description: None, kind });
        }
        let mut roots = None;
        schema.add(ABOUT_SCHEMAS, &mut roots)?;
        schema.add(sdl, &mut roots)?;
        let named = |name: &str| schema.types.contains_key(name).then(|| name.into());
        (schema.query, schema.mutation, schema.subscription) = match roots {
            Some((query, mutation, subscription)) => {
                (query.unwrap_or_else(|| "Query".into()), mutation, subscription)
            }
            None => ("Query".into(), named("Mutation"), named("Subscription")),
        };
        if !schema.types.contains_key(&schema.query) {
            // A schema must have a query type, and there are no queries here.
            let field = "type Query { _nothing: Boolean }";
            schema.query = "Query".into();
            schema.add(field, &mut None)?;
        }
        schema.check()?;
        Ok(schema)
    }

    fn add(&mut self, sdl: &str, roots: &mut Option<Roots>) -> Result<(), String> {
        if brackets_are_too_deep(sdl) {
            return Err("is nested too deeply".to_owned());
        }
        let parsed = parse_schema(sdl).map_err(|error| {
            let at = error.positions().next();
            let place = at.map_or(String::new(), |at| format!(", line {}, column {}", at.line, at.column));
            format!("cannot be read{place}: {}", reason_of(&error.to_string()))
        })?;
        for definition in parsed.definitions {
            match definition {
                TypeSystemDefinition::Type(definition) => self.add_type(definition.node)?,
                TypeSystemDefinition::Directive(found) => {
                    let found = directive(found.node);
                    // Some tools list the built-in directives too.
                    if !self.directives.iter().any(|known| known.name == found.name) {
                        self.directives.push(found);
                    }
                }
                TypeSystemDefinition::Schema(definition) => {
                    let name = |name: Option<Positioned<_>>| {
                        name.map(|name: Positioned<async_graphql_value::Name>| (*name.node).into())
                    };
                    let found = definition.node;
                    let (query, mutation, subscription) =
                        (name(found.query), name(found.mutation), name(found.subscription));
                    let roots = roots.get_or_insert((None, None, None));
                    roots.0 = query.or(roots.0.take());
                    roots.1 = mutation.or(roots.1.take());
                    roots.2 = subscription.or(roots.2.take());
                }
            }
        }
        Ok(())
    }

    fn add_type(&mut self, found: TypeDefinition) -> Result<(), String> {
        let name: Box<str> = (*found.name.node).into();
        let kind = kind(found.kind);
        match self.types.get_mut(&name) {
            None => {
                let description = found.description.map(|text| text.node.into());
                self.types.insert(name.clone(), Definition { name, description, kind });
                Ok(())
            }
            Some(known) if found.extend => known
                .kind
                .extend(kind)
                .ok_or_else(|| format!("extends the type {name} by what that cannot have")),
            // Some tools list the built-in types too.
            Some(_) if Self::is_builtin(&name) || name.starts_with("__") => Ok(()),
            Some(_) => Err(format!("defines the type {name} twice")),
        }
    }

    /// Checks that every type that is named exists, and is of the right kind.
    fn check(&self) -> Result<(), String> {
        let is_there = |name: &str, of: &str| match self.types.contains_key(name) {
            true => Ok(()),
            false => Err(format!("names the type {name} in {of}, which is not there")),
        };
        let is_output =
            |name: &str| !matches!(self.types.get(name).map(|one| &one.kind), Some(SchemaTypeKind::Input(_)));
        for (name, definition) in &self.types {
            for field in definition.kind.fields() {
                let of = format!("{name}.{}", field.name);
                is_there(innermost(&field.ty), &of)?;
                if !is_output(innermost(&field.ty)) {
                    return Err(format!("has an input type in {of}"));
                }
                for input in &field.arguments {
                    self.check_input(input, &of)?;
                }
            }
            match &definition.kind {
                SchemaTypeKind::Input(fields) => {
                    for input in fields {
                        self.check_input(input, name)?;
                    }
                }
                SchemaTypeKind::Union(members) => {
                    for member in members {
                        is_there(member, name)?;
                        if !matches!(self.types[member].kind, SchemaTypeKind::Object { .. }) {
                            return Err(format!(
                                "has {member} in the union {name}, which is not an object type"
                            ));
                        }
                    }
                }
                SchemaTypeKind::Object { interfaces, fields }
                | SchemaTypeKind::Interface { interfaces, fields } => {
                    for interface in interfaces {
                        is_there(interface, name)?;
                        let missing = self.types[interface].kind.fields().iter();
                        let mut missing =
                            missing.filter(|field| !fields.iter().any(|own| own.name == field.name));
                        if let Some(field) = missing.next() {
                            return Err(format!(
                                "has no field {} in {name}, which {interface} has",
                                field.name
                            ));
                        }
                    }
                }
                SchemaTypeKind::Scalar | SchemaTypeKind::Enum(_) => {}
            }
        }
        let roots = [Some(&self.query), self.mutation.as_ref(), self.subscription.as_ref()];
        for root in roots.into_iter().flatten() {
            is_there(root, "schema")?;
            if !matches!(self.types[root].kind, SchemaTypeKind::Object { .. }) {
                return Err(format!("has {root} as a root, which is not an object type"));
            }
        }
        Ok(())
    }

    fn check_input(&self, input: &Input, of: &str) -> Result<(), String> {
        let name = innermost(&input.ty);
        match self.types.get(name).map(|one| &one.kind) {
            Some(SchemaTypeKind::Scalar | SchemaTypeKind::Enum(_) | SchemaTypeKind::Input(_)) => Ok(()),
            Some(_) => Err(format!("has the type {name} in {of}, which is for results")),
            None => Err(format!("names the type {name} in {of}, which is not there")),
        }
    }

    pub(super) fn kind(&self, name: &str) -> Option<&SchemaTypeKind> {
        self.types.get(name).map(|definition| &definition.kind)
    }

    pub(super) fn field(&self, of: &str, name: &str) -> Option<&Field> {
        self.kind(of)?.fields().iter().find(|field| *field.name == *name)
    }

    /// Whether values of this type have no fields to select.
    pub(super) fn is_leaf(&self, name: &str) -> bool {
        matches!(self.kind(name), Some(SchemaTypeKind::Scalar | SchemaTypeKind::Enum(_)))
    }

    /// Returns the object types that a value of this type may have.
    pub(super) fn possible(&self, name: &str) -> Vec<&str> {
        match self.types.get(name) {
            Some(Definition { name, kind: SchemaTypeKind::Object { .. }, .. }) => vec![name],
            Some(Definition { kind: SchemaTypeKind::Union(members), .. }) => {
                members.iter().map(|name| &**name).collect()
            }
            Some(Definition { kind: SchemaTypeKind::Interface { .. }, .. }) => {
                let implements = |one: &&Definition| match &one.kind {
                    SchemaTypeKind::Object { interfaces, .. } => {
                        interfaces.iter().any(|interface| **interface == *name)
                    }
                    _ => false,
                };
                self.types.values().filter(implements).map(|one| &*one.name).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// The root types of queries, mutations and subscriptions.
type Roots = (Option<Box<str>>, Option<Box<str>>, Option<Box<str>>);

impl SchemaTypeKind {
    pub(super) fn fields(&self) -> &[Field] {
        match self {
            Self::Object { fields, .. } | Self::Interface { fields, .. } => fields,
            _ => &[],
        }
    }

    fn extend(&mut self, more: Self) -> Option<()> {
        match (self, more) {
            (
                Self::Object { fields, interfaces } | Self::Interface { fields, interfaces },
                Self::Object { fields: of_more, interfaces: further }
                | Self::Interface { fields: of_more, interfaces: further },
            ) => {
                fields.extend(of_more);
                interfaces.extend(further);
            }
            (Self::Union(members), Self::Union(more)) => members.extend(more),
            (Self::Enum(values), Self::Enum(more)) => values.extend(more),
            (Self::Input(fields), Self::Input(more)) => fields.extend(more),
            (Self::Scalar, Self::Scalar) => {}
            _ => return None,
        }
        Some(())
    }
}

fn kind(found: TypeKind) -> SchemaTypeKind {
    let names = |names: Vec<Positioned<async_graphql_value::Name>>| {
        names.into_iter().map(|name| (*name.node).into()).collect()
    };
    let fields =
        |fields: Vec<Positioned<FieldDefinition>>| fields.into_iter().map(|one| field(one.node)).collect();
    match found {
        TypeKind::Scalar => SchemaTypeKind::Scalar,
        TypeKind::Object(object) => {
            SchemaTypeKind::Object { fields: fields(object.fields), interfaces: names(object.implements) }
        }
        TypeKind::Interface(interface) => SchemaTypeKind::Interface {
            fields: fields(interface.fields),
            interfaces: names(interface.implements),
        },
        TypeKind::Union(union) => SchemaTypeKind::Union(names(union.members)),
        TypeKind::Enum(values) => {
            let value = |value: Positioned<async_graphql_parser::types::EnumValueDefinition>| EnumValue {
                name: (*value.node.value.node).into(),
                description: value.node.description.map(|text| text.node.into()),
                deprecated: deprecated(&value.node.directives),
            };
            SchemaTypeKind::Enum(values.values.into_iter().map(value).collect())
        }
        TypeKind::InputObject(object) => {
            SchemaTypeKind::Input(object.fields.into_iter().map(|one| input(one.node)).collect())
        }
    }
}

fn field(found: FieldDefinition) -> Field {
    Field {
        name: (*found.name.node).into(),
        description: found.description.map(|text| text.node.into()),
        arguments: found.arguments.into_iter().map(|one| input(one.node)).collect(),
        ty: found.ty.node,
        deprecated: deprecated(&found.directives),
    }
}

fn input(found: InputValueDefinition) -> Input {
    Input {
        name: (*found.name.node).into(),
        description: found.description.map(|text| text.node.into()),
        ty: found.ty.node,
        default: found.default_value.map(|value| value.node),
        deprecated: deprecated(&found.directives),
    }
}

fn directive(found: DirectiveDefinition) -> Directive {
    Directive {
        name: (*found.name.node).into(),
        description: found.description.map(|text| text.node.into()),
        arguments: found.arguments.into_iter().map(|one| input(one.node)).collect(),
        is_repeatable: found.is_repeatable,
        locations: found.locations.iter().map(|location| location_name(location.node)).collect(),
    }
}

fn location_name(location: DirectiveLocation) -> &'static str {
    match location {
        DirectiveLocation::Query => "QUERY",
        DirectiveLocation::Mutation => "MUTATION",
        DirectiveLocation::Subscription => "SUBSCRIPTION",
        DirectiveLocation::Field => "FIELD",
        DirectiveLocation::FragmentDefinition => "FRAGMENT_DEFINITION",
        DirectiveLocation::FragmentSpread => "FRAGMENT_SPREAD",
        DirectiveLocation::InlineFragment => "INLINE_FRAGMENT",
        DirectiveLocation::Schema => "SCHEMA",
        DirectiveLocation::Scalar => "SCALAR",
        DirectiveLocation::Object => "OBJECT",
        DirectiveLocation::FieldDefinition => "FIELD_DEFINITION",
        DirectiveLocation::ArgumentDefinition => "ARGUMENT_DEFINITION",
        DirectiveLocation::Interface => "INTERFACE",
        DirectiveLocation::Union => "UNION",
        DirectiveLocation::Enum => "ENUM",
        DirectiveLocation::EnumValue => "ENUM_VALUE",
        DirectiveLocation::InputObject => "INPUT_OBJECT",
        DirectiveLocation::InputFieldDefinition => "INPUT_FIELD_DEFINITION",
        DirectiveLocation::VariableDefinition => "VARIABLE_DEFINITION",
    }
}

/// Returns the reason of a deprecation, if the element is deprecated.
fn deprecated(directives: &[Positioned<ConstDirective>]) -> Option<Box<str>> {
    let directive = directives.iter().find(|directive| directive.node.name.node == "deprecated")?;
    Some(match directive.node.get_argument("reason").map(|reason| &reason.node) {
        Some(ConstValue::String(reason)) => (&**reason).into(),
        _ => "No longer supported".into(),
    })
}
