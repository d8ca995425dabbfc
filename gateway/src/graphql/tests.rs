//! Tests the planning of documents against schemas: channels, selections, errors.

use serde_json::json;
use shared::protocol::graphql::FieldSelection;

use super::graphql_config::Subscription;
use super::*;

const SDL: &str = r#"
schema { query: Question subscription: Feed }
type Question { shop: String }
type Feed {
  "An order of a shop."
  order(shop: ID!, kind: Kind = NEW, filter: Filter): Order!
  pet(name: String!): Pet
  tally: Int
}
type Order { id: ID! lines: [Line!]! by: Buyer note(words: Int): String }
type Line { name: String! price: Float amount: Int @deprecated(reason: "count") }
type Buyer { name: String! orders: [Order!] }
enum Kind { NEW PAID }
input Filter { over: Float = 0, tags: [String!] }
interface Pet { name: String! }
type Cat implements Pet { name: String! purrs: Boolean }
type Dog implements Pet { name: String! barks: Boolean }
"#;

fn subscription(channel: &str) -> Subscription {
    Subscription { channel: channel.to_owned(), ..Subscription::default() }
}

fn config(fields: &[(&str, Subscription)]) -> GraphqlConfig {
    let subscriptions = fields.iter().map(|(name, one)| ((*name).to_owned(), one.clone())).collect();
    GraphqlConfig { enabled: true, subscriptions, ..GraphqlConfig::default() }
}

fn of_sdl() -> Catalog {
    let fields = [
        ("order", subscription("orders:{shop}-{kind}")),
        ("pet", subscription("pets:{name}")),
        ("tally", Subscription { hook: true, ..Subscription::default() }),
    ];
    Catalog::new(&config(&fields), Some(SDL)).unwrap()
}

fn plain() -> Catalog {
    let page = Subscription {
        arguments: [("page".to_owned(), "Int! = 1".to_owned())].into(),
        description: "What is \"new\".".to_owned(),
        ..subscription("news:{topic}/{page}")
    };
    Catalog::new(&config(&[("message", page)]), None).unwrap()
}

fn plan_with(catalog: &Catalog, query: &str, more: serde_json::Value) -> Result<Plan, Errors> {
    let mut whole = json!({ "query": query });
    whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let text = whole.to_string();
    catalog.plan(&serde_json::from_str(&text).unwrap())
}

fn planned(catalog: &Catalog, query: &str, variables: serde_json::Value) -> PlannedSubscription {
    match plan_with(catalog, query, json!({ "variables": variables })) {
        Ok(Plan::Subscribe(planned)) => planned,
        other => panic!("{query}: {other:?}"),
    }
}

fn channel(catalog: &Catalog, query: &str, variables: serde_json::Value) -> String {
    planned(catalog, query, variables).channel.into()
}

fn mistake(catalog: &Catalog, query: &str) -> (&'static str, String) {
    match plan_with(catalog, query, json!({})) {
        Err(errors) => (errors[0].code, errors[0].message.clone()),
        Ok(plan) => panic!("{query}: {plan:?}"),
    }
}

fn introspected(catalog: &Catalog, query: &str) -> serde_json::Value {
    match plan_with(catalog, query, json!({})) {
        Ok(Plan::Answer(answer)) => {
            let text = format!("{{{}}}", std::str::from_utf8(&answer).unwrap());
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["data"].take()
        }
        other => panic!("{query}: {other:?}"),
    }
}

fn applied(selection: &FieldSelection, payload: serde_json::Value) -> String {
    String::from_utf8(selection.apply(payload.to_string().as_bytes()).to_vec()).unwrap()
}

#[test]
fn arguments_name_the_channel_whether_they_are_written_out_or_variables_or_defaults() {
    let plain = plain();
    for (query, variables) in [
        (r#"subscription { message(topic: "sport", page: 2) }"#, json!({})),
        (
            "subscription($t: String!, $p: Int!) { message(topic: $t, page: $p) }",
            json!({"t": "sport", "p": 2}),
        ),
        (r#"subscription($t: String! = "sport", $p: Int! = 2) { message(topic: $t, page: $p) }"#, json!({})),
        ("subscription($t: String!) { m: message(topic: $t, page: 2) }", json!({"t": "sport", "unused": 1})),
    ] {
        assert_eq!(channel(&plain, query, variables), "news:sport/2", "{query}");
    }
    assert_eq!(channel(&plain, r#"subscription { message(topic: "sport") }"#, json!({})), "news:sport/1");
    let sdl = of_sdl();
    assert_eq!(channel(&sdl, "subscription { order(shop: 7) { id } }", json!({})), "orders:7-NEW");
    let query = "subscription($k: Kind) { order(shop: \"a\", kind: $k) { id } }";
    assert_eq!(channel(&sdl, query, json!({"k": "PAID"})), "orders:a-PAID");
    assert_eq!(channel(&sdl, query, json!({})), "orders:a-NEW");
}

#[test]
fn arguments_are_held_to_their_types() {
    let (plain, sdl) = (plain(), of_sdl());
    for query in [
        "subscription { message }",
        "subscription { message(topic: 7) }",
        "subscription { message(topic: null) }",
        "subscription { message(topic: \"\") }",
        "subscription { message(topic: \"a\", page: \"b\") }",
        "subscription { message(topic: \"a\", page: 1.5) }",
        "subscription { message(topic: \"a\", other: 1) }",
        "subscription($t: String!) { message(topic: $t) }",
    ] {
        assert_eq!(mistake(&plain, query).0, BAD_USER_INPUT, "{query}");
    }
    for query in [
        "subscription { order(shop: \"a\", kind: OLD) { id } }",
        "subscription { order(shop: \"a\", kind: \"NEW\") { id } }",
        "subscription { order(shop: \"a\", filter: {under: 1}) { id } }",
        "subscription { order(shop: \"a\", filter: {tags: [1]}) { id } }",
    ] {
        assert_eq!(mistake(&sdl, query).0, BAD_USER_INPUT, "{query}");
    }
    let bad = |variables| match plan_with(
        &plain,
        "subscription($t: String!) { message(topic: $t) }",
        json!({ "variables": variables }),
    ) {
        Err(errors) => errors[0].code,
        Ok(plan) => panic!("{plan:?}"),
    };
    assert_eq!([bad(json!({"t": 7})), bad(json!({"t": null})), bad(json!([]))], [BAD_USER_INPUT; 3]);
    let with_tags = "subscription($f: Filter) { order(shop: \"a\", filter: $f) { id } }";
    assert_eq!(channel(&sdl, with_tags, json!({"f": {"tags": "one"}})), "orders:a-NEW");
}

#[test]
fn what_is_selected_is_what_comes_of_a_payload() {
    let query = r#"
        subscription Orders($price: Boolean!, $note: Boolean = false) {
          latest: order(shop: "a") { ...Head __typename lines { ... on Line { name price @include(if: $price) } } note @skip(if: $note) by { name } ...Head }
        }
        fragment Head on Order { number: id ... @include(if: false) { note } }
    "#;
    let selection = planned(&of_sdl(), query, json!({ "price": true })).selection;
    let payload =
        json!({ "id": 7, "lines": [{ "name": "x", "price": 1.5, "amount": 2 }], "by": null, "secret": 1 });
    assert_eq!(
        applied(&selection, payload.clone()),
        r#""data":{"latest":{"number":"7","__typename":"Order","lines":[{"name":"x","price":1.5}],"note":null,"by":null}}"#
    );
    let selection = planned(&of_sdl(), query, json!({ "price": false, "note": true })).selection;
    assert_eq!(
        applied(&selection, payload),
        r#""data":{"latest":{"number":"7","__typename":"Order","lines":[{"name":"x"}],"by":null}}"#
    );
}

#[test]
fn an_interface_is_what_the_payload_says_it_is() {
    let query = r#"subscription { pet(name: "rex") { name ... on Dog { barks } ... on Cat { purrs } } }"#;
    let selection = planned(&of_sdl(), query, json!({})).selection;
    let dog = json!({ "__typename": "Dog", "name": "Rex", "barks": true });
    assert_eq!(applied(&selection, dog), r#""data":{"pet":{"name":"Rex","barks":true}}"#);
    assert!(applied(&selection, json!({ "name": "Rex" })).contains("__typename"));
}

#[test]
fn who_selects_the_same_shares_it() {
    let sdl = of_sdl();
    let one = planned(&sdl, "subscription { order(shop: 1) { id by { name } } }", json!({}));
    let same = planned(
        &sdl,
        "subscription($s: ID!) { order(shop: $s) { ...F } } fragment F on Order { id by { name } }",
        json!({"s": 2}),
    );
    assert!(Arc::ptr_eq(&one.selection, &same.selection));
    let other = planned(&sdl, "subscription { order(shop: 1) { by { name } id } }", json!({}));
    assert!(!Arc::ptr_eq(&one.selection, &other.selection));
    drop((one, same));
    for number in 0..2 * SELECTIONS_MIN {
        planned(&sdl, &format!("subscription {{ order(shop: 1) {{ a{number}: id }} }}"), json!({}));
    }
    assert!(sdl.selections.lock().known.len() <= SELECTIONS_MIN + 1, "those that nobody has are let go of");
}

#[test]
fn a_document_that_makes_no_sense_says_why_and_where() {
    let sdl = of_sdl();
    for (query, code, says) in [
        ("subscription { order(shop: 1) { id }", PARSE_FAILED, "syntax error"),
        ("", PARSE_FAILED, "syntax error"),
        ("subscription { none }", VALIDATION_FAILED, "no subscription field none"),
        ("subscription { order(shop: 1) { none } }", VALIDATION_FAILED, "Order has no field none"),
        ("subscription { order(shop: 1) }", VALIDATION_FAILED, "select some of its fields"),
        ("subscription { order(shop: 1) { id { x } } }", VALIDATION_FAILED, "no fields can be selected"),
        ("subscription { tally order(shop: 1) { id } }", VALIDATION_FAILED, "exactly one field"),
        ("subscription { order(shop: 1) { ...F } }", VALIDATION_FAILED, "no fragment F"),
        ("subscription { order(shop: 1) { ... on Nothing { id } } }", VALIDATION_FAILED, "no type Nothing"),
        ("subscription { order(shop: 1) { id @twice } }", VALIDATION_FAILED, "no directive @twice"),
        ("subscription { order(shop: 1) { id @skip } }", VALIDATION_FAILED, "of @skip must be a Boolean"),
        ("subscription { order(shop: 1) { a: id a: note } }", VALIDATION_FAILED, "give one of them an alias"),
        ("subscription($f: Order) { tally }", VALIDATION_FAILED, "not an input type"),
        ("subscription { order(shop: 1) { note(words: 3) } }", NOT_SUPPORTED, "leave them out"),
        ("mutation { order }", NOT_SUPPORTED, "mutations are not supported"),
        ("{ shop }", NOT_SUPPORTED, "cannot be queried"),
        ("query A { __typename } query B { __typename }", BAD_USER_INPUT, "operationName"),
    ] {
        let (found, message) = mistake(&sdl, query);
        assert!(found == code && message.contains(says), "{query}: {found} {message}");
    }
    let Err(errors) = plan_with(&sdl, "subscription {\n  none }", json!({})) else { panic!("a mistake") };
    assert_eq!(errors[0].location, Some((2, 3)));
}

#[test]
fn documents_are_bounded() {
    let mut config = config(&[("order", subscription("orders:{shop}"))]);
    (config.query_bytes_max, config.depth_max, config.fields_max) = (2_000, 5, 40);
    let sdl = Catalog::new(&config, Some(SDL)).unwrap();
    let order = |selected: &str| format!("subscription {{ order(shop: 1) {{ {selected} }} }}");
    let deep =
        |levels: usize| order(&format!("{} id {}", "by { orders {".repeat(levels), "} }".repeat(levels)));
    assert!(plan_with(&sdl, &deep(1), json!({})).is_ok());
    for too_much in [deep(2), order(&"id ".repeat(41)), order(&" ".repeat(2_000))] {
        assert_eq!(mistake(&sdl, &too_much).0, "LIMIT_EXCEEDED", "{too_much}");
    }
    let in_circles = format!("{} fragment F on Order {{ by {{ orders {{ ...F }} }} }}", order("...F"));
    assert_eq!(mistake(&sdl, &in_circles).0, "LIMIT_EXCEEDED");
    let brackets = order(&format!("note(words: {}{})", "[".repeat(900), "]".repeat(900)));
    assert_eq!(mistake(&sdl, &brackets).0, PARSE_FAILED);
    let itself = format!("{} fragment F on Order {{ ...F id }}", order("...F"));
    assert!(plan_with(&sdl, &itself, json!({})).is_ok(), "a fragment in itself is the same fields");
}

#[test]
fn fragments_do_not_lead_from_one_to_the_next_without_end() {
    let mut config = config(&[("order", subscription("orders:{shop}"))]);
    (config.query_bytes_max, config.fields_max) = (1 << 20, 100_000);
    let sdl = Catalog::new(&config, Some(SDL)).unwrap();
    let chain = |count: usize| {
        let links = (0..count).map(|at| format!("fragment F{at} on Order {{ ...F{} }} ", at + 1));
        let links: String = links.collect();
        format!("subscription {{ order(shop: 1) {{ ...F0 }} }} {links} fragment F{count} on Order {{ id }}")
    };
    assert!(plan_with(&sdl, &chain(100), json!({})).is_ok());
    assert_eq!(mistake(&sdl, &chain(15_000)).0, "LIMIT_EXCEEDED");
}

#[test]
fn the_application_is_told_what_is_asked_for() {
    let text = json!({
        "query": "subscription T { tally }", "operationName": "T", "variables": {"a": 1}
    });
    let Ok(Plan::Subscribe(planned)) = of_sdl().plan(&serde_json::from_str(&text.to_string()).unwrap())
    else {
        panic!("it subscribes")
    };
    assert_eq!(&*planned.channel, "");
    let told: serde_json::Value = serde_json::from_slice(&planned.ask.unwrap().bytes).unwrap();
    assert_eq!(
        told,
        json!({
            "field": "tally", "arguments": {}, "query": "subscription T { tally }", "operationName": "T",
            "variables": {"a": 1}
        })
    );
}

#[test]
fn the_schema_is_told_to_whoever_asks() {
    let plain = plain();
    let found = introspected(
        &plain,
        r#"{ __schema { subscriptionType { name fields { name description type { kind name } args {
            name defaultValue type { kind ofType { kind name } } } } } directives { name args { name } } }
            __type(name: "JSON") { kind name } nothing: __type(name: "None") { kind } __typename }"#,
    );
    assert_eq!(
        found["__schema"]["subscriptionType"],
        json!({ "name": "Subscription", "fields": [{
            "name": "message", "description": "What is \"new\".", "type": { "kind": "SCALAR", "name": "JSON" },
            "args": [
                { "name": "page", "defaultValue": "1", "type": { "kind": "NON_NULL", "ofType": { "kind": "SCALAR", "name": "Int" } } },
                { "name": "topic", "defaultValue": null, "type": { "kind": "NON_NULL", "ofType": { "kind": "SCALAR", "name": "String" } } },
            ],
        }] })
    );
    assert_eq!(found["__schema"]["directives"][0], json!({ "name": "include", "args": [{ "name": "if" }] }));
    assert_eq!(found["__type"], json!({ "kind": "SCALAR", "name": "JSON" }));
    assert_eq!((&found["nothing"], &found["__typename"]), (&json!(null), &json!("Query")));
    let list = introspected(
        &of_sdl(),
        r#"{ __type(name: "Order") { fields { name type { kind ofType { kind ofType { kind ofType { name } } } } } } }"#,
    );
    assert_eq!(
        list["__type"]["fields"][1],
        json!({ "name": "lines", "type": { "kind": "NON_NULL", "ofType": { "kind": "LIST", "ofType": {
            "kind": "NON_NULL", "ofType": { "name": "Line" } } } } })
    );
    let old = |query: &str| introspected(&of_sdl(), query)["__type"]["fields"].as_array().unwrap().len();
    assert_eq!(old(r#"{ __type(name: "Line") { fields { name } } }"#), 2);
    assert_eq!(old(r#"{ __type(name: "Line") { fields(includeDeprecated: true) { name } } }"#), 3);
    let pets =
        introspected(&of_sdl(), r#"{ __type(name: "Pet") { possibleTypes { name interfaces { name } } } }"#);
    assert_eq!(
        pets["__type"]["possibleTypes"][0],
        json!({ "name": "Cat", "interfaces": [{ "name": "Pet" }] })
    );
}

#[test]
fn the_schema_can_be_kept_from_clients() {
    let config = GraphqlConfig { introspection: false, ..config(&[("message", subscription("news"))]) };
    let catalog = Catalog::new(&config, None).unwrap();
    assert_eq!(mistake(&catalog, "{ __schema { types { name } } }").0, NOT_SUPPORTED);
    assert_eq!(introspected(&catalog, "{ __typename }"), json!({ "__typename": "Query" }));
}

#[test]
fn a_schema_that_cannot_be_used_says_why() {
    let problem = |sdl: &str, fields: &[(&str, Subscription)]| {
        let found = Catalog::new(&config(fields), Some(sdl)).unwrap_err();
        format!("{}: {}", found[0].key, found[0].problem)
    };
    let order = [("order", subscription("orders:{shop}"))];
    for (sdl, says) in [
        ("type Subscription { order(shop: ID!): Order }", "names the type Order"),
        ("type Subscription { order(shop: ID!): Int ", "schema_file: cannot be read, line 1"),
        ("type Subscription { order(shop: ID!): Int } type Subscription { a: Int }", "twice"),
        ("type Subscription { other: Int }", "subscriptions.order: is not a field"),
        ("type Subscription { order: Int }", "an argument shop that the field does not have"),
        ("type Subscription { order(shop: ID): Int }", "required value"),
        ("type Subscription { order(shop: [ID!]!): Int }", "must be a single"),
        ("type Subscription { order(shop: Subscription!): Int }", "which is for results"),
        (
            "type A implements B { x: Int } interface B { y: Int } type Subscription { order(shop: ID!): A }",
            "no field y",
        ),
    ] {
        let found = problem(sdl, &order);
        assert!(found.contains(says), "{sdl}: {found}");
    }
    let payload = Subscription { payload: "Int".to_owned(), ..subscription("orders:{shop}") };
    assert!(
        problem("type Subscription { order(shop: ID!): Int }", &[("order", payload)])
            .contains("payload: must not be set")
    );
    let extended = "type Subscription { a: Int } extend type Subscription { order(shop: ID!): Int }";
    assert!(Catalog::new(&config(&order), Some(extended)).is_ok());
}

#[test]
fn brackets_in_texts_and_comments_hide_no_depth() {
    let deep = |open: &str, close: &str| {
        let count = 400;
        format!("subscription {{ order(shop: {}1{}) {{ id }} }}", open.repeat(count), close.repeat(count))
    };
    for too_deep in [
        deep("[#]\n", "]"),
        deep("[#]\r", "]"),
        deep("[\"]\" ", "]"),
        deep("[\"\\\"]\" ", "]"),
        deep("[\"\"\"]\"\"\" ", "]"),
        deep("[\"\"\"\\\"\"\"]\"\"\" ", "]"),
        deep("{a:#}\n", "}"),
        // Parsed as two strings, because a string with three marks would have no end.
        deep("[\"\"\"x\" #]\n", "]"),
    ] {
        assert!(brackets_are_too_deep(&too_deep), "{}", &too_deep[..60]);
    }
    let texts = "( \"((\" \"\"\"[[[ \\\"\"\" \"{\"\"\" \"\" # {{{\n )".repeat(100);
    assert!(!brackets_are_too_deep(&texts));
}
