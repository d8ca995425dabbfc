//! GraphQL uses the same session: a client may have several readers of a channel, and the application may name the channel.

use std::sync::Arc;

use gateway_core::effect::{Denial, Grant, Identity, OutcomeResult, Resolved};
use shared::error::ErrorCode;
use shared::protocol::graphql::{
    Dialect, FieldSelection, GraphQl, GraphQlError, Plan, PlannedSubscription, Planner, RequestedOperation,
    ValueRule, ValueType,
};
use shared::publication::Payload;

use crate::support::{Client, context, joined, page};

/// A document is the name of a channel, or behind an `@` a question for the application.
#[derive(Debug)]
struct ByName;

impl Planner for ByName {
    fn plan(&self, operation: &RequestedOperation<'_>) -> Result<Plan, Vec<GraphQlError>> {
        let value = ValueRule { non_null: false, of: ValueType::Any };
        let selection = Arc::new(FieldSelection { key: "m".into(), value });
        let (channel, ask) = match operation.query.strip_prefix('@') {
            Some(question) => ("", Some(Payload::text(question.to_owned()))),
            None => (&*operation.query, None),
        };
        Ok(Plan::Subscribe(PlannedSubscription { channel: channel.into(), ask, selection }))
    }
}

/// A client, with the protocol that holds its operations.
struct Connected {
    client: Client,
    graphql: Arc<GraphQl>,
}

impl Connected {
    fn new() -> Self {
        let graphql = Arc::new(GraphQl::new(Dialect::TransportWs, Arc::new(ByName), 16));
        let mut client = Client::speaking(graphql.clone(), context());
        client.says(r#"{"type":"connection_init"}"#);
        client.did();
        client.answer(OutcomeResult::Authenticated(Ok(Identity::default())));
        assert_eq!(client.did(), [r#"< {"type":"connection_ack"}"#]);
        Self { client, graphql }
    }

    fn subscribe(&mut self, id: &str, query: &str, since: Option<u64>) -> Vec<String> {
        let recover = since.map_or(String::new(), |offset| {
            format!(r#","extensions":{{"tidegate":{{"recover":{{"epoch":"life","offset":{offset}}}}}}}"#)
        });
        self.client
            .says(&format!(r#"{{"type":"subscribe","id":"{id}","payload":{{"query":"{query}"{recover}}}}}"#));
        self.did()
    }

    fn answer(&mut self, result: OutcomeResult) -> Vec<String> {
        self.client.answer(result);
        self.did()
    }

    fn did(&mut self) -> Vec<String> {
        let mut did = self.client.did();
        while let Some(actions) = self.graphql.take_actions() {
            self.client.session.handle_commands(self.client.now, actions.commands);
            did.extend(self.client.did());
        }
        did
    }
}

/// The message for a publication whose payload is its offset, to an operation with positions.
fn next_event(id: &str, offset: u64) -> String {
    format!(
        r#"< {{"id":"{id}","type":"next","payload":{{"data":{{"m":{offset}}},"extensions":{{"tidegate":{{"position":{{"epoch":"life","offset":{offset}}}}}}}}}}}"#
    )
}

#[test]
fn a_second_reader_costs_no_second_subscription() {
    let mut one = Connected::new();
    assert_eq!(one.subscribe("a", "log:x", None), ["join log:x limit 0 positioned present"]);
    assert_eq!(one.answer(joined(Some(page(&[], 4)))), ["live log:x @4"]);
    assert_eq!(one.subscribe("b", "log:x", None), [""; 0]);
    one.client.says(r#"{"type":"complete","id":"a"}"#);
    assert_eq!(one.did(), [""; 0]);
    one.client.says(r#"{"type":"complete","id":"b"}"#);
    assert_eq!(one.did(), ["leave log:x"]);
}

#[test]
fn a_second_reader_that_comes_back_has_the_subscription_joined_anew_from_there() {
    let mut one = Connected::new();
    one.subscribe("a", "log:x", None);
    one.answer(joined(Some(page(&[], 4))));
    let joins = one.subscribe("b", "log:x", Some(2));
    assert_eq!(joins, ["join log:x since 2 limit 300 positioned present"]);
    let did = one.answer(joined(Some(page(&[3, 4, 5], 5))));
    let first = r#"< {"id":"a","type":"next","payload":{"data":{"m":5}}}"#.to_owned();
    assert_eq!(
        did,
        [next_event("b", 3), next_event("b", 4), first, next_event("b", 5), "live log:x @5".to_owned()]
    );
    assert_eq!(one.client.session.subscriptions().count(), 1);
}

#[test]
fn if_that_fails_all_of_its_readers_are_told() {
    let mut one = Connected::new();
    one.subscribe("a", "log:x", None);
    one.answer(joined(Some(page(&[], 4))));
    one.subscribe("b", "log:x", Some(2));
    let did = one.answer(OutcomeResult::Joined(Err(ErrorCode::Internal)));
    assert!(did.contains(&"leave log:x".to_owned()), "{did:?}");
    let over: Vec<&str> = did.iter().filter_map(|one| one.strip_prefix("< {\"id\":\"")).collect();
    assert!(
        over.len() == 2
            && over[0].starts_with("b\",\"type\":\"error\"")
            && over[1].starts_with("a\",\"type\":\"error\""),
        "{did:?}"
    );
    assert_eq!(one.client.session.subscriptions().count(), 0);
}

#[test]
fn the_application_may_name_a_channel_that_is_not_open_to_others() {
    let mut one = Connected::new();
    assert_eq!(one.subscribe("a", "@who", None), ["resolve  who"]);
    let resolved = |channel: &str| {
        OutcomeResult::Resolved(Ok(Resolved { channel: channel.into(), grant: Grant::default() }))
    };
    assert_eq!(one.answer(resolved("shut:x")), ["join shut:x limit 0 present"]);
    one.answer(joined(Some(page(&[], 4))));
    one.subscribe("b", "@who", None);
    assert_eq!(one.answer(resolved("shut:x")), [""; 0], "one more reader");
    one.subscribe("c", "@who", None);
    let no = OutcomeResult::Resolved(Err(Denial::of(ErrorCode::PermissionDenied)));
    let did = one.answer(no);
    assert!(did.len() == 1 && did[0].contains("FORBIDDEN"), "{did:?}");
    one.subscribe("d", "@who", None);
    assert!(one.answer(resolved("state:x"))[0].contains("error"), "a channel of keys is no stream");
    assert_eq!(one.client.session.subscriptions().count(), 1);
}

#[test]
fn one_that_has_gone_before_the_application_answers_leaves_nothing() {
    let mut one = Connected::new();
    one.subscribe("a", "@who", None);
    one.client.says(r#"{"type":"complete","id":"a"}"#);
    let resolved = Resolved { channel: "log:x".into(), grant: Grant::default() };
    one.answer(OutcomeResult::Resolved(Ok(resolved)));
    let did = one.answer(joined(Some(page(&[], 4))));
    assert_eq!(did, ["live log:x @4", "leave log:x"]);
}
