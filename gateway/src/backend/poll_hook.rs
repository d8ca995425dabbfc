//! Asks a backend for the keys of a polled channel.

use gateway_core::poll::{PolledItem, PolledKey};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::position::{EPOCH_BYTES_MAX, Epoch};
use shared::publication::Payload;

use super::failure::HookFailure;
use super::hook::{ClientOrigin, Hook};
use super::hook_response::{InvalidResult, of_its_kind};

/// The backend's answer for the requested keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PollResponse {
    pub items: Vec<PolledItem>,
    /// The epoch of the versions: versions of another epoch cannot be compared with them.
    pub epoch: Epoch,
}

#[derive(Debug, Serialize)]
struct PollRequestBody<'a> {
    channel: &'a str,
    items: Vec<QuestionItem<'a>>,
}

#[derive(Debug, Serialize)]
struct QuestionItem<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "is_none")]
    version: u64,
}

fn is_none(version: &u64) -> bool {
    *version == 0
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PollResult {
    items: Option<Vec<WireItem>>,
    epoch: Option<Box<str>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireItem {
    key: Box<str>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    version: Option<u64>,
    removed: Option<bool>,
}

impl PollResult {
    pub(super) fn into_polled(self) -> Result<PollResponse, InvalidResult> {
        let epoch = self.epoch.unwrap_or_default();
        let epoch = Epoch::parse(&epoch)
            .ok_or_else(|| format!("its epoch is longer than {EPOCH_BYTES_MAX} bytes"))?;
        let items = self.items.unwrap_or_default().into_iter().map(|item| {
            let WireItem { key, data, b64data, version, removed } = item;
            // A key without content gets JSON's `null`.
            let data = of_its_kind(data, b64data)?.unwrap_or_else(|| Payload::json("null"));
            let (version, removed) = (version.unwrap_or_default(), removed.unwrap_or_default());
            Ok::<_, InvalidResult>(PolledItem { key, data, version, removed })
        });
        Ok(PollResponse { items: items.collect::<Result<_, _>>()?, epoch })
    }
}

/// Asks for these keys. `None`: there is no answer, which is counted and logged.
pub(super) async fn ask(hook: &Hook, channel: &str, keys: &[PolledKey]) -> Option<PollResponse> {
    let items = keys.iter().map(|polled| QuestionItem { key: &polled.key, version: polled.version });
    let question = PollRequestBody { channel, items: items.collect() };
    let mean = |result: Option<PollResult>| result.unwrap_or_default().into_polled();
    match hook.question(&ClientOrigin::default(), &question, mean).await {
        Ok(polled) => polled.ok(),
        Err(failure) => {
            give_up(hook, &failure);
            None
        }
    }
}

fn give_up(hook: &Hook, failure: &HookFailure) {
    // The failure is counted and logged like any other; the error for the client does not matter here.
    let _ = hook.denied(failure);
}
