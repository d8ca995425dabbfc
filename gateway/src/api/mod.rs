//! The server API: requests of an application's back end to the gateway over HTTP.
//!
//! One request is one `POST /api/<method>` with a JSON body, in the shapes of the Centrifuge server API, so that its client
//! libraries work. [`serve`](Api::serve) is the entry point: `api_keys` authenticates, `api_request` reads, `run_command`
//! executes, and `api_response` writes.

mod act;
mod api_config;
mod api_error;
mod api_keys;
mod api_request;
mod api_response;
mod ask_about_update;
mod ask_sockets;
mod by_client;
mod explain;
mod inspect;
mod list_command;
mod map;
mod mercure_subscriptions;
mod openapi;
mod poll_command;
mod publish_command;
mod published_message;
mod query_command;
mod response_budget;
mod rpc;
mod run_command;
mod serve;
mod shed_command;
mod socket_commands;
pub mod update;

pub use api_config::{ApiConfig, ErrorMode};
pub use by_client::ByClient;
pub(crate) use published_message::{Content, PublishedMessage, channel};
pub(crate) use serve::ReloadFn;
pub use serve::{Api, PREFIX};

/// Reads the body of a request to a method, if the method exists: for [`crate::readers`].
pub(crate) fn command_in_words(method: &str, body: &[u8]) -> Option<Result<String, String>> {
    let read = api_request::Method::parse(method)?.read(body);
    Some(read.map(|command| format!("{command:?}")).map_err(|error| error.to_string()))
}

/// Reads each command in the body of a batch: for [`crate::readers`].
pub(crate) fn batch_in_words(body: &[u8]) -> Result<Vec<(Option<&'static str>, String)>, String> {
    let batch: api_request::BatchRequest<'_> =
        serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let describe = |command: &api_request::Command<'_>| {
        (command.method().map(api_request::Method::name), format!("{command:?}"))
    };
    Ok(batch.commands.iter().map(describe).collect())
}
