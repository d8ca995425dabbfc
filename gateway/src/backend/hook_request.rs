//! The requests to a backend, in the shapes of Centrifugo's proxies.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::id::{ClientId, UserId};

/// The client that a request is about.
#[derive(Clone, Debug)]
pub struct HookSubject<'a> {
    pub client: ClientId,
    /// The client's transport, such as `websocket`.
    pub transport: &'a str,
    /// The client's protocol: `json` or `protobuf`.
    pub protocol: &'a str,
    /// Empty while the client connects.
    pub user: &'a UserId,
    /// Metadata for the application's servers, from the connect hook or the token.
    pub meta: Option<&'a Bytes>,
}

/// The content of a connect command.
#[derive(Clone, Debug, Default)]
pub struct ConnectQuestion<'a> {
    pub data: Option<&'a [u8]>,
    pub name: &'a str,
    pub version: &'a str,
    /// Channels that the client asks the server to subscribe it to.
    pub channels: Vec<&'a str>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct HookRequest<'a> {
    pub(super) client: String,
    pub(super) transport: &'a str,
    pub(super) protocol: &'a str,
    pub(super) encoding: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) channel: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) key: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) method: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meta: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) b64data: Option<String>,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) version: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) channels: Vec<&'a str>,
    #[serde(rename = "type", skip_serializing_if = "str::is_empty")]
    pub(super) kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) sid: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) args: Option<&'a RawValue>,
    /// The places of binary values in the arguments, which hold them in base64, as JSON pointers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) binary: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) rooms: Vec<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) recovered: bool,
}

/// The settings of all requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct RequestStyle {
    pub(super) include_meta: bool,
    pub(super) binary_encoding: bool,
}

impl<'a> HookRequest<'a> {
    pub(super) fn new(asker: &HookSubject<'a>, data: Option<&'a [u8]>, style: RequestStyle) -> Self {
        let meta = asker.meta.filter(|_| style.include_meta);
        let json = data.filter(|_| !style.binary_encoding).and_then(json);
        // Data that is no JSON can only be sent in base64.
        let b64data = data.filter(|_| json.is_none()).map(|data| STANDARD.encode(data));
        let encoding = if style.binary_encoding || b64data.is_some() { "binary" } else { "json" };
        Self {
            client: asker.client.to_string(),
            transport: asker.transport,
            protocol: asker.protocol,
            encoding,
            user: Some(asker.user.as_str()),
            meta: meta.and_then(|meta| json_of(meta)),
            data: json,
            b64data,
            ..Self::default()
        }
    }
}

fn json_of(bytes: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(bytes).ok()
}

fn json(data: &[u8]) -> Option<&RawValue> {
    if data.is_empty() { None } else { json_of(data) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: RequestStyle = RequestStyle { include_meta: true, binary_encoding: false };

    fn written(data: Option<&[u8]>, style: RequestStyle) -> String {
        let (user, meta) = (UserId::new("ann"), Bytes::from_static(b"{\"plan\":1}"));
        let asker = HookSubject {
            client: ClientId::from_random(0),
            transport: "websocket",
            protocol: "json",
            user: &user,
            meta: Some(&meta),
        };
        let request = HookRequest { channel: "news", ..HookRequest::new(&asker, data, style) };
        serde_json::to_string(&request).unwrap()
    }

    const HEAD: &str =
        r#"{"client":"00000000-0000-4000-8000-000000000000","transport":"websocket","protocol":"json""#;

    #[test]
    fn a_question_is_written_as_backends_of_centrifugo_read_it() {
        assert_eq!(
            written(Some(b"{\"a\": 1}"), STYLE),
            format!(
                r#"{HEAD},"encoding":"json","user":"ann","channel":"news","meta":{{"plan":1}},"data":{{"a": 1}}}}"#
            )
        );
        assert_eq!(
            written(None, RequestStyle { include_meta: false, ..STYLE }),
            format!(r#"{HEAD},"encoding":"json","user":"ann","channel":"news"}}"#)
        );
    }

    #[test]
    fn what_is_no_json_goes_in_base64_and_all_does_if_it_is_so_configured() {
        for (data, style) in
            [(&b"\x00\xff"[..], STYLE), (b"\x00\xff", RequestStyle { binary_encoding: true, ..STYLE })]
        {
            let written = written(Some(data), style);
            assert!(
                written.contains(r#""encoding":"binary""#) && written.contains(r#""b64data":"AP8=""#),
                "{written}"
            );
        }
        let all = written(Some(b"{}"), RequestStyle { binary_encoding: true, ..STYLE });
        assert!(all.contains(r#""b64data":"e30=""#) && !all.contains("\"data\""), "{all}");
    }
}
