//! The server API: what an application's back end asks of the gateway over HTTP.
//!
//! One request is one `POST /api/<method>` with a JSON body, in the shapes of the Centrifuge server API, so that its
//! client libraries work. [`serve`](Api::serve) is the way in: `keys` says who may, `request` reads, `run` does, and
//! `answer` writes.

mod answer;
mod config;
mod keys;
mod publish;
mod query;
mod refused;
mod request;
mod run;
mod serve;

pub use config::Config;
pub use serve::{Api, PREFIX};
