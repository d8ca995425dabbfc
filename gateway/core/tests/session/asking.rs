//! Requests of clients to the application: rpc and send.

use gateway_core::effect::{Denial, Identity, OutcomeResult};
use gateway_core::session::{Application, Context};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::publication::Payload;
use shared::refusal::Refusal;

use crate::support::{Client, context, error, refused};

fn client() -> Client {
    let application = Application { rpc: true, messages: true, events: true };
    Client::connected(Context { application, ..context() }, Identity::default())
}

#[test]
fn a_question_is_passed_on_and_its_answer_comes_back() {
    let mut client = client();
    client.says(r#"{"id":2,"rpc":{"method":"sum","data":[1,2]}}"#);
    client.says(r#"{"id":3,"unsubscribe":{"channel":"a"}}"#);
    assert_eq!(client.did(), ["rpc sum [1,2]"]);
    client.answer(OutcomeResult::Rpc(Ok(Payload::json("3"))));
    assert_eq!(client.did(), ["< {\"id\":2,\"rpc\":{\"data\":3}}\n{\"id\":3,\"unsubscribe\":{}}"]);
}

#[test]
fn an_application_has_errors_and_goodbyes_of_its_own() {
    let mut client = client();
    client.says(r#"{"id":2,"rpc":{"method":"m"}}"#);
    client.did();
    let own = Refusal::custom(1500, "sold out", true).unwrap();
    client.answer(OutcomeResult::Rpc(Err(Denial::Error(own))));
    let line = r#"< {"id":2,"error":{"code":1500,"message":"sold out","temporary":true}}"#;
    assert_eq!(client.did(), [line]);
    client.says(r#"{"id":3,"rpc":{"method":"m"}}"#);
    client.did();
    let own = Disconnect::custom(4501, "banned").unwrap();
    client.answer(OutcomeResult::Rpc(Err(Denial::Disconnect(own))));
    assert_eq!(client.did(), ["close 4501"]);
}

#[test]
fn messages_come_in_their_order_and_may_be_answered_by_messages() {
    let mut client = client();
    client.says("{\"send\":{\"data\":1}}\n{\"send\":{\"data\":2}}");
    assert_eq!(client.did(), ["message 1"]);
    client.answer(OutcomeResult::Messaged(Ok(Some(Payload::json("\"one\"")))));
    assert_eq!(client.did(), ["message 2", r#"< {"push":{"message":{"data":"one"}}}"#]);
    client.answer(OutcomeResult::Messaged(Ok(None)));
    client.says(r#"{"send":{"data":3}}"#);
    assert_eq!(client.did(), ["message 3"]);
    client.answer(OutcomeResult::Messaged(Err(refused(ErrorCode::Internal))));
    assert_eq!(client.did(), [""; 0], "there is no reply to put an error into");
    client.says(r#"{"send":{"data":4}}"#);
    client.did();
    client.answer(OutcomeResult::Messaged(Err(Denial::Disconnect(Disconnect::FORCE_DISCONNECT))));
    assert_eq!(client.did(), ["close 3503"]);
}

#[test]
fn without_an_application_nothing_is_said_to_it() {
    let mut client = Client::anonymous();
    client.says(r#"{"id":2,"rpc":{"method":"m"}}"#);
    assert_eq!(client.did(), [error(2, ErrorCode::NotAvailable)]);
    client.says(r#"{"send":{"data":1}}"#);
    assert_eq!(client.did(), ["close 3508"]);
}
