//! Generates requests from the API's own description, and compares the responses with it.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::strategy::Union;
use proptest::test_runner::{Config as Tries, TestRunner};

use super::*;
use crate::api::openapi;

/// The JSON Schema keywords in the description. The functions below understand no others.
const WORDS: [&str; 13] = [
    "$ref",
    "additionalProperties",
    "description",
    "enum",
    "examples",
    "format",
    "items",
    "maximum",
    "minimum",
    "oneOf",
    "properties",
    "required",
    "type",
];

struct Description(Value);

impl Description {
    fn new() -> Self {
        Self(openapi::document())
    }

    fn request(&self, path: &str) -> &Value {
        &self.0["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    }

    fn answer(&self, path: &str) -> &Value {
        &self.0["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    }

    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.trim_start_matches('#')).expect("it is there"),
            None => schema,
        }
    }

    /// Returns where a value differs from its schema. Properties that are not described count as a difference.
    fn misfit(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let schema = self.resolved(schema);
        let wrong = |why: &str| Some(format!("{at}: {why}: {value}"));
        if let Some(choices) = schema["oneOf"].as_array() {
            let misfits: Vec<_> = choices.iter().map(|choice| self.misfit(choice, value, at)).collect();
            return match misfits.iter().filter(|misfit| misfit.is_none()).count() {
                0 => Some(misfits.into_iter().flatten().collect::<Vec<_>>().join(" | ")),
                1 => None,
                _ => wrong("more than one choice fits"),
            };
        }
        if schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value)) {
            return wrong("none of those listed");
        }
        let types = types(schema);
        let is_of_type = match value {
            Value::Null => types.contains(&"null"),
            Value::Bool(_) => types.contains(&"boolean"),
            Value::Number(number) => types.contains(&"integer") && !number.is_f64(),
            Value::String(_) => types.contains(&"string"),
            Value::Array(_) => types.contains(&"array"),
            Value::Object(_) => types.contains(&"object"),
        };
        if types.is_empty() {
            return None;
        }
        if !is_of_type {
            return wrong("of another type");
        }
        if let Some(items) = value.as_array() {
            return items.iter().find_map(|item| self.misfit(&schema["items"], item, at));
        }
        let fields = value.as_object()?;
        let missing = schema["required"].as_array().into_iter().flatten();
        if let Some(missing) = missing.filter_map(Value::as_str).find(|name| !fields.contains_key(*name)) {
            return wrong(&format!("lacks {missing}"));
        }
        fields.iter().find_map(|(name, value)| {
            let at = format!("{at}.{name}");
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(schema), _) | (None, Some(schema)) => self.misfit(schema, value, &at),
                (None, None) => Some(format!("{at}: is not described")),
            }
        })
    }

    /// Generates values that match a schema.
    fn values(&self, schema: &Value) -> BoxedStrategy<Value> {
        let schema = self.resolved(schema);
        if let Some(choices) = schema["oneOf"].as_array() {
            return Union::new(choices.iter().map(|choice| self.values(choice))).boxed();
        }
        let examples: Vec<Value> = schema["examples"].as_array().cloned().unwrap_or_default();
        let mut kinds: Vec<BoxedStrategy<Value>> = Vec::new();
        for kind in types(schema) {
            kinds.push(match kind {
                "null" => Just(Value::Null).boxed(),
                "boolean" => any::<bool>().prop_map(Value::from).boxed(),
                "string" => "\\PC{0,12}".prop_map(Value::from).boxed(),
                "integer" => match (schema["minimum"].as_i64(), schema["maximum"].as_u64()) {
                    (Some(0), Some(max)) => (0..=max).prop_map(Value::from).boxed(),
                    _ => any::<i64>().prop_map(Value::from).boxed(),
                },
                "array" => proptest::collection::vec(self.values(&schema["items"]), 0..4)
                    .prop_map(Value::from)
                    .boxed(),
                _ => self.objects(schema),
            });
        }
        if kinds.is_empty() {
            kinds.push(
                prop_oneof![Just(json!({"a": [1, "b", null]})), Just(json!(-1.5)), Just(json!("text"))]
                    .boxed(),
            );
        }
        if !examples.is_empty() {
            let example = proptest::sample::select(examples).boxed();
            kinds.extend([example.clone(), example.clone(), example]);
        }
        Union::new(kinds).boxed()
    }

    fn objects(&self, schema: &Value) -> BoxedStrategy<Value> {
        if let Some(others) = schema.get("additionalProperties") {
            let entries = proptest::collection::btree_map("[a-z]{1,3}", self.values(others), 0..3);
            return entries.prop_map(|entries| json!(entries)).boxed();
        }
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut made = Just(json!({})).boxed();
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            let value = self.values(schema);
            let value = match required.contains(&&**name) {
                true => value.prop_map(Some).boxed(),
                false => proptest::option::weighted(0.3, value).boxed(),
            };
            let name = name.clone();
            let with = move |(mut object, value): (Value, Option<Value>)| {
                if let Some(value) = value {
                    object[&name] = value;
                }
                object
            };
            made = (made, value).prop_map(with).boxed();
        }
        made
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// Sends requests generated from the description of one path.
fn try_out(path: &str, tries: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (description, gateway) = (Description::new(), runtime.block_on(fixture()));
    let method = path.strip_prefix("/api/").unwrap();
    let mut runner = TestRunner::new(Tries { failure_persistence: None, ..Tries::with_cases(tries) });
    let (done, refused) = (Cell::new(0), Cell::new(0));
    runner
        .run(&description.values(description.request(path)), |request| {
            assert_eq!(description.misfit(description.request(path), &request, "made"), None);
            let (status, answer) = runtime.block_on(gateway.raw(method, request.to_string()));
            prop_assert_eq!(status, StatusCode::OK, "{}: {}", request, answer);
            prop_assert_eq!(
                description.misfit(description.answer(path), &answer, method),
                None,
                "{}",
                request
            );
            prop_assert_ne!(&answer["error"]["code"], &json!(100), "{}", request);
            let count = if answer["error"].is_null() { &done } else { &refused };
            count.set(count.get() + 1);
            Ok(())
        })
        .unwrap();
    assert!(done.get() > 0 || method == "rpc", "{method}: all {} are refused", refused.get());
}

#[test]
fn whatever_is_asked_of_a_method_as_described_is_answered_as_described() {
    for method in Method::ALL {
        try_out(&format!("/api/{}", method.name()), 200);
    }
}

#[test]
fn a_batch_of_anything_is_answered_as_described() {
    try_out("/api/batch", 300);
}

#[test]
fn what_does_not_fit_a_description_is_noticed() {
    let description = Description::new();
    let answer = description.answer("/api/publish");
    for (value, fits) in [
        (json!({"result": {}}), true),
        (json!({"result": {"offset": 1, "epoch": "x"}}), true),
        (json!({"error": {"code": 107, "message": "bad request"}}), true),
        (json!({"result": {"offset": "1"}}), false),
        (json!({"result": {"more": 1}}), false),
        (json!({"error": {"code": 999, "message": ""}}), false),
        (json!({"error": {"code": 107}}), false),
        (json!([]), false),
    ] {
        assert_eq!(description.misfit(answer, &value, "answer").is_none(), fits, "{value}");
    }
}

#[tokio::test]
async fn the_description_is_served_to_everyone_and_names_every_method() {
    let gateway = fixture().await;
    let get = |method: &str| {
        Request::builder().method(method).uri("/api/openapi.json").body(Full::new(Bytes::new()))
    };
    let (status, document) = gateway.send(get("GET").unwrap()).await;
    assert_eq!((status, &document), (StatusCode::OK, &openapi::document()));
    assert_eq!(document["openapi"], "3.1.0");
    let mut paths: Vec<String> = Method::ALL.iter().map(|method| format!("/api/{}", method.name())).collect();
    paths.extend(["/api/batch".to_owned(), "/api/reload".to_owned()]);
    paths.sort();
    assert!(document["paths"].as_object().unwrap().keys().eq(&paths));
    let post = gateway.api.serve(get("POST").unwrap()).await;
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);

    let mut schemas: Vec<&Value> = document["components"]["schemas"].as_object().unwrap().values().collect();
    for path in document["paths"].as_object().unwrap().values() {
        let post = &path["post"];
        schemas.push(&post["requestBody"]["content"]["application/json"]["schema"]);
        schemas.push(&post["responses"]["200"]["content"]["application/json"]["schema"]);
    }
    schemas.into_iter().for_each(only_words);
}

fn only_words(schema: &Value) {
    for (word, value) in schema.as_object().expect("a schema is an object") {
        assert!(WORDS.contains(&&**word), "{word} is not understood here");
        match (&**word, value) {
            ("properties", Value::Object(fields)) => fields.values().for_each(only_words),
            ("items" | "additionalProperties", schema) => only_words(schema),
            ("oneOf", Value::Array(choices)) => choices.iter().for_each(only_words),
            _ => {}
        }
    }
}
