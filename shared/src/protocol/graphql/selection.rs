//! Selections of payloads: fields by name, renamed as the client asks, with each value checked against its type
//! (GraphQL, section 6.4).

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::json;

/// The field that names the type of an object, in payloads and in selections.
const TYPE_NAME: &str = "__typename";
/// The most errors in a result.
const ERRORS_MAX: usize = 16;
/// A result is at most this many times as long as its payload, as aliases may repeat a value for each field.
const REPEATS_MAX: usize = 16;
/// A result may always have this many bytes, as aliases may be long for a short payload.
const RESULT_BYTES_MIN: usize = 64 << 10;

/// The field of a subscription, and the selection on it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FieldSelection {
    /// The field's name in the result.
    pub key: Box<str>,
    pub value: ValueRule,
}

/// How a value of the payload becomes a value of the result.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ValueRule {
    pub non_null: bool,
    pub of: ValueType,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ValueType {
    /// An application's own scalar: any JSON value.
    Any,
    Scalar(Scalar),
    /// One of these names.
    Enum(Box<[Box<str>]>),
    List(Box<ValueRule>),
    Object(Objects),
}

/// GraphQL's built-in scalars.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scalar {
    Int,
    Float,
    String,
    Boolean,
    Id,
}

/// Objects of one type, or of one of several types that the payload names.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Objects {
    pub is_abstract: bool,
    pub types: Box<[Typed]>,
}

/// The selection on objects of one type.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Typed {
    pub name: Box<str>,
    pub fields: Box<[Field]>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Field {
    /// The field's name in the result.
    pub key: Box<str>,
    pub of: FieldOf,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum FieldOf {
    TypeName,
    /// The payload's member of this name.
    Member(Box<str>, ValueRule),
}

/// A required value is missing, so that its parent becomes null too.
struct Null;

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct MemberName<'a>(#[serde(borrow)] Cow<'a, str>);

type Members<'a> = BTreeMap<MemberName<'a>, &'a RawValue>;

enum Step<'s> {
    Key(&'s str),
    Index(usize),
}

/// A result that is being written.
struct Writer<'s> {
    out: BytesMut,
    /// The length beyond which no further value is written.
    bytes_max: usize,
    path: Vec<Step<'s>>,
    /// Written as the members of a JSON list.
    errors: BytesMut,
    errors_count: usize,
}

impl FieldSelection {
    /// Applies the selection to a payload, which is one JSON value. Returns the members of the result: `"data":...`
    /// and, if there are any, `"errors":...`.
    pub fn apply(&self, payload: &[u8]) -> Bytes {
        let mut writer = Writer {
            out: BytesMut::with_capacity(payload.len() + 32),
            bytes_max: payload.len().saturating_mul(REPEATS_MAX).max(RESULT_BYTES_MIN),
            path: vec![Step::Key(&self.key)],
            errors: BytesMut::new(),
            errors_count: 0,
        };
        writer.out.put_slice(b"\"data\":");
        let start = writer.out.len();
        writer.out.put_u8(b'{');
        json::string(&self.key, &mut writer.out);
        writer.out.put_u8(b':');
        let payload = std::str::from_utf8(payload).unwrap_or("null");
        match self.value.write(payload, &mut writer) {
            Ok(()) => writer.out.put_u8(b'}'),
            Err(Null) => {
                writer.out.truncate(start);
                writer.out.put_slice(b"null");
            }
        }
        if !writer.errors.is_empty() {
            writer.out.put_slice(b",\"errors\":[");
            writer.out.put_slice(&writer.errors);
            writer.out.put_u8(b']');
        }
        writer.out.freeze()
    }
}

impl ValueRule {
    fn write<'s>(&'s self, value: &str, writer: &mut Writer<'s>) -> Result<(), Null> {
        let (start, depth) = (writer.out.len(), writer.path.len());
        let value = value.trim();
        let written = match (value, &self.of) {
            ("null", _) if self.non_null => writer.fail("a required value is missing"),
            ("null", _) => Err(Null),
            _ if start.saturating_add(value.len()) > writer.bytes_max => {
                writer.fail("the result is too long with this value")
            }
            (_, ValueType::Any) => {
                json::raw(value.as_bytes(), &mut writer.out);
                Ok(())
            }
            (_, ValueType::Scalar(scalar)) => match scalar.write(value, &mut writer.out) {
                Some(()) => Ok(()),
                None => writer.fail(scalar.mismatch()),
            },
            (_, ValueType::Enum(values)) => match serde_json::from_str::<MemberName<'_>>(value) {
                Ok(MemberName(name)) if values.iter().any(|known| **known == *name) => {
                    json::string(&name, &mut writer.out);
                    Ok(())
                }
                _ => writer.fail("the value is not one of the enum's values"),
            },
            (_, ValueType::List(item)) => item.write_list(value, writer),
            (_, ValueType::Object(objects)) => objects.write(value, writer),
        };
        writer.path.truncate(depth);
        match written {
            Err(Null) if !self.non_null => {
                writer.out.truncate(start);
                writer.out.put_slice(b"null");
                Ok(())
            }
            written => written,
        }
    }

    fn write_list<'s>(&'s self, value: &str, writer: &mut Writer<'s>) -> Result<(), Null> {
        let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(value) else {
            return writer.fail("the value is not a list");
        };
        writer.out.put_u8(b'[');
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                writer.out.put_u8(b',');
            }
            writer.path.push(Step::Index(index));
            self.write(item.get(), writer)?;
            writer.path.pop();
        }
        writer.out.put_u8(b']');
        Ok(())
    }
}

impl Objects {
    fn write<'s>(&'s self, value: &str, writer: &mut Writer<'s>) -> Result<(), Null> {
        let Ok(members) = serde_json::from_str::<Members<'_>>(value) else {
            return writer.fail("the value is not an object");
        };
        let typed = match self.is_abstract {
            false => self.types.first(),
            true => {
                let name = members.get(&MemberName(TYPE_NAME.into()));
                let name = name.and_then(|name| serde_json::from_str::<MemberName<'_>>(name.get()).ok());
                name.and_then(|MemberName(name)| self.types.iter().find(|typed| *typed.name == *name))
            }
        };
        let Some(typed) = typed else {
            return writer.fail("the value has no __typename that names one of its types");
        };
        writer.out.put_u8(b'{');
        for (index, field) in typed.fields.iter().enumerate() {
            if index > 0 {
                writer.out.put_u8(b',');
            }
            json::string(&field.key, &mut writer.out);
            writer.out.put_u8(b':');
            match &field.of {
                FieldOf::TypeName => json::string(&typed.name, &mut writer.out),
                FieldOf::Member(name, complete) => {
                    let value = members.get(&MemberName(Cow::Borrowed(name)));
                    writer.path.push(Step::Key(&field.key));
                    complete.write(value.map_or("null", |value| value.get()), writer)?;
                    writer.path.pop();
                }
            }
        }
        writer.out.put_u8(b'}');
        Ok(())
    }
}

impl Scalar {
    /// Writes the value. `None` if it is not of this type and cannot be coerced to it (section 3.5).
    fn write(self, value: &str, out: &mut BytesMut) -> Option<()> {
        let first = value.as_bytes().first()?;
        let is_number = first.is_ascii_digit() || *first == b'-';
        match self {
            Self::Int if is_number => {
                let whole = value.parse::<i32>().ok().or_else(|| {
                    let float = value.parse::<f64>().ok()?;
                    (float.fract() == 0.0 && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&float))
                        .then_some(float as i32)
                })?;
                out.put_slice(itoa::Buffer::new().format(whole).as_bytes());
            }
            Self::Float if is_number => out.put_slice(value.as_bytes()),
            Self::Boolean if matches!(value, "true" | "false") => out.put_slice(value.as_bytes()),
            Self::String | Self::Id if *first == b'"' => out.put_slice(value.as_bytes()),
            Self::String if is_number || matches!(value, "true" | "false") => json::string(value, out),
            Self::Id if value.parse::<i64>().is_ok() || value.parse::<u64>().is_ok() => {
                json::string(value, out)
            }
            _ => return None,
        }
        Some(())
    }

    fn mismatch(self) -> &'static str {
        match self {
            Self::Int => "the value is not of type Int",
            Self::Float => "the value is not of type Float",
            Self::String => "the value is not of type String",
            Self::Boolean => "the value is not of type Boolean",
            Self::Id => "the value is not of type ID",
        }
    }
}

impl Writer<'_> {
    /// Records why a value is missing.
    fn fail(&mut self, why: &'static str) -> Result<(), Null> {
        self.errors_count += 1;
        if self.errors_count > ERRORS_MAX {
            return Err(Null);
        }
        if !self.errors.is_empty() {
            self.errors.put_u8(b',');
        }
        self.errors.put_slice(b"{\"message\":");
        json::string(why, &mut self.errors);
        self.errors.put_slice(b",\"path\":[");
        for (index, step) in self.path.iter().enumerate() {
            if index > 0 {
                self.errors.put_u8(b',');
            }
            match step {
                Step::Key(key) => json::string(key, &mut self.errors),
                Step::Index(index) => self.errors.put_slice(itoa::Buffer::new().format(*index).as_bytes()),
            }
        }
        self.errors.put_slice(b"]}");
        Err(Null)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Selects any payload unchanged.
    pub(crate) fn any(key: &str) -> FieldSelection {
        FieldSelection { key: key.into(), value: ValueRule { non_null: false, of: ValueType::Any } }
    }

    fn nullable(of: ValueType) -> ValueRule {
        ValueRule { non_null: false, of }
    }

    fn non_null(of: ValueType) -> ValueRule {
        ValueRule { non_null: true, of }
    }

    fn member(key: &str, name: &str, complete: ValueRule) -> Field {
        Field { key: key.into(), of: FieldOf::Member(name.into(), complete) }
    }

    fn object(name: &str, fields: Vec<Field>) -> ValueType {
        let typed = Typed { name: name.into(), fields: fields.into() };
        ValueType::Object(Objects { is_abstract: false, types: [typed].into() })
    }

    fn applied(value: ValueRule, payload: &str) -> String {
        let selection = FieldSelection { key: "m".into(), value };
        String::from_utf8(selection.apply(payload.as_bytes()).to_vec()).unwrap()
    }

    #[test]
    fn a_payload_is_given_as_it_is_where_nothing_is_known_of_it() {
        let any = || nullable(ValueType::Any);
        assert_eq!(applied(any(), r#"{"a": [1, 2.50]}"#), r#""data":{"m":{"a": [1, 2.50]}}"#);
        assert_eq!(applied(any(), "\"text\""), r#""data":{"m":"text"}"#);
        assert_eq!(applied(any(), "null"), r#""data":{"m":null}"#);
        assert_eq!(applied(any(), "[1,\n2]"), r#""data":{"m":[1, 2]}"#, "no line breaks in an event");
    }

    #[test]
    fn fields_are_selected_in_the_order_and_under_the_names_of_the_client() {
        let string = || nullable(ValueType::Scalar(Scalar::String));
        let author = object("User", vec![member("name", "name", string())]);
        let fields = vec![
            member("by", "author", nullable(author)),
            Field { key: "kind".into(), of: FieldOf::TypeName },
            member("text", "text", string()),
            member("gone", "gone", string()),
        ];
        let payload = r#"{"text":"h\u00e9 \"x\"","id":7,"author":{"id":1,"name":"Ann"},"text2":null}"#;
        assert_eq!(
            applied(nullable(object("Message", fields)), payload),
            r#""data":{"m":{"by":{"name":"Ann"},"kind":"Message","text":"h\u00e9 \"x\"","gone":null}}"#
        );
    }

    #[test]
    fn lists_hold_what_their_items_are() {
        let item = object("Item", vec![member("n", "n", non_null(ValueType::Scalar(Scalar::Int)))]);
        let list = || nullable(ValueType::List(Box::new(nullable(item.clone()))));
        assert_eq!(
            applied(list(), r#"[{"n":1},null,{"n":2,"x":[]}]"#),
            r#""data":{"m":[{"n":1},null,{"n":2}]}"#
        );
        assert_eq!(
            applied(list(), r#"[{"n":1},{"n":"two"}]"#),
            r#""data":{"m":[{"n":1},null]},"errors":[{"message":"the value is not of type Int","path":["m",1,"n"]}]"#
        );
        assert_eq!(
            applied(list(), r#"{"n":1}"#),
            r#""data":{"m":null},"errors":[{"message":"the value is not a list","path":["m"]}]"#
        );
    }

    #[test]
    fn what_is_missing_and_must_be_there_takes_what_is_around_it_along() {
        let inner = object("B", vec![member("c", "c", non_null(ValueType::Any))]);
        let outer = |b| object("A", vec![member("a", "a", nullable(ValueType::Any)), member("b", "b", b)]);
        let error = r#","errors":[{"message":"a required value is missing","path":["m","b","c"]}]"#;
        let payload = r#"{"a":1,"b":{}}"#;
        assert_eq!(
            applied(nullable(outer(nullable(inner.clone()))), payload),
            format!(r#""data":{{"m":{{"a":1,"b":null}}}}{error}"#)
        );
        assert_eq!(
            applied(nullable(outer(non_null(inner.clone()))), payload),
            format!(r#""data":{{"m":null}}{error}"#)
        );
        assert_eq!(applied(non_null(outer(non_null(inner))), payload), format!(r#""data":null{error}"#));
    }

    #[test]
    fn aliases_do_not_repeat_a_long_value_without_end() {
        let string = || nullable(ValueType::Scalar(Scalar::String));
        let fields = (0..500).map(|number| member(&format!("a{number}"), "text", string())).collect();
        let payload = format!(r#"{{"text":"{}"}}"#, "x".repeat(RESULT_BYTES_MIN));
        let result = applied(nullable(object("Message", fields)), &payload);
        assert!(result.len() < (REPEATS_MAX + 1) * payload.len(), "{} bytes", result.len());
        let why = r#"{"message":"the result is too long with this value","path":["m","a16"]}"#;
        assert!(result.contains(r#""a15":"x"#) && result.contains(r#""a16":null"#) && result.contains(why));
    }

    #[test]
    fn scalars_are_held_to_their_types() {
        let one = |scalar, value: &str| {
            let whole = applied(nullable(ValueType::Scalar(scalar)), value);
            whole.strip_prefix("\"data\":{\"m\":").unwrap().split_once('}').unwrap().0.to_owned()
        };
        for (scalar, value, expected) in [
            (Scalar::Int, "7", "7"),
            (Scalar::Int, "7.0", "7"),
            (Scalar::Int, "7.5", "null"),
            (Scalar::Int, "3000000000", "null"),
            (Scalar::Int, "\"7\"", "null"),
            (Scalar::Float, "1e3", "1e3"),
            (Scalar::Float, "true", "null"),
            (Scalar::Boolean, "true", "true"),
            (Scalar::Boolean, "1", "null"),
            (Scalar::String, "\"x\"", "\"x\""),
            (Scalar::String, "1.5", "\"1.5\""),
            (Scalar::String, "[]", "null"),
            (Scalar::Id, "12", "\"12\""),
            (Scalar::Id, "1.5", "null"),
        ] {
            assert_eq!(one(scalar, value), expected, "{scalar:?} {value}");
        }
        let colour = nullable(ValueType::Enum(["RED".into(), "BLUE".into()].into()));
        assert_eq!(applied(colour.clone(), "\"RED\""), r#""data":{"m":"RED"}"#);
        assert!(applied(colour, "\"GREEN\"").contains("not one of the enum's values"));
    }

    #[test]
    fn an_object_of_several_types_says_which_it_is() {
        let typed = |name: &str, field: &str| Typed {
            name: name.into(),
            fields: [
                member(field, field, nullable(ValueType::Any)),
                Field { key: "t".into(), of: FieldOf::TypeName },
            ]
            .into(),
        };
        let types = || {
            ValueType::Object(Objects {
                is_abstract: true,
                types: [typed("Cat", "purrs"), typed("Dog", "barks")].into(),
            })
        };
        let payload = r#"{"__typename":"Dog","barks":true,"purrs":false}"#;
        assert_eq!(applied(nullable(types()), payload), r#""data":{"m":{"barks":true,"t":"Dog"}}"#);
        for other in [r#"{"barks":true}"#, r#"{"__typename":"Cow"}"#, r#"{"__typename":7}"#] {
            assert!(applied(nullable(types()), other).contains("__typename"), "{other}");
        }
    }

    #[test]
    fn a_payload_with_a_thousand_mistakes_does_not_make_a_thousand_errors() {
        let list = nullable(ValueType::List(Box::new(nullable(ValueType::Scalar(Scalar::Int)))));
        let whole = applied(list, &format!("[{}\"x\"]", "\"x\",".repeat(999)));
        assert_eq!(whole.matches("message").count(), ERRORS_MAX);
    }
}
