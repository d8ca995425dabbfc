//! What a client wants to be sent of a channel: all publications, or the newest of each key.
//!
//! Protocols whose libraries carry nothing else carry it in the data that a client sends with its subscription, under a name
//! that is nobody else's: `{"tidegate": {"delivery": "latest", "times_per_s": 5}}`. Addresses have it as parameters.

use serde::Deserialize;

use crate::publication::{Payload, PayloadKind};

/// The word under which data holds it.
const NAME: &[u8] = b"\"tidegate\"";

/// How a subscriber wants to be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeliveryWanted {
    /// The newest of each key, or all.
    pub latest: bool,
    /// Of the newest, at most so many times a second. 0: as often as the server likes. `None`: as its channel has it.
    pub times_per_s: Option<u32>,
    /// The same in bytes.
    pub bytes_per_s: Option<u32>,
}

/// What was said of it makes no sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("delivery is all or latest, with times_per_s and bytes_per_s for latest alone")]
pub struct InvalidDelivery;

/// A part of what an application may say of its own.
#[derive(Deserialize)]
struct DeliveryData {
    tidegate: Option<DeliveryOptions>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeliveryOptions {
    delivery: DeliveryKind,
    times_per_s: Option<u32>,
    bytes_per_s: Option<u32>,
}

/// The question to change it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeliveryChange {
    channel: Box<str>,
    delivery: DeliveryKind,
    times_per_s: Option<u32>,
    bytes_per_s: Option<u32>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum DeliveryKind {
    All,
    Latest,
}

impl DeliveryWanted {
    /// What data says of it. What is no JSON object, or has no such part, says nothing.
    pub fn in_data(data: &Payload) -> Result<Option<Self>, InvalidDelivery> {
        let is_there = data.kind != PayloadKind::Binary || data.bytes.first() == Some(&b'{');
        if !is_there || memchr::memmem::find(&data.bytes, NAME).is_none() {
            return Ok(None);
        }
        let is_object = |value: &serde_json::Value| value.get("tidegate").is_some_and(|own| !own.is_null());
        match serde_json::from_slice::<DeliveryData>(&data.bytes) {
            Ok(data) => data.tidegate.map(Self::try_from).transpose(),
            // An application may use the word elsewhere.
            Err(_) if serde_json::from_slice(&data.bytes).as_ref().is_ok_and(is_object) => {
                Err(InvalidDelivery)
            }
            Err(_) => Ok(None),
        }
    }

    /// The channel of a subscription that is live, and how it is to be served from now on.
    pub fn of_change(data: &[u8]) -> Result<(Box<str>, Self), InvalidDelivery> {
        let DeliveryChange { channel, delivery, times_per_s, bytes_per_s } =
            serde_json::from_slice(data).map_err(|_| InvalidDelivery)?;
        Ok((channel, DeliveryOptions { delivery, times_per_s, bytes_per_s }.try_into()?))
    }

    /// What the parameters of an address say, each as it stands there if it does. `None` if none of them does.
    pub fn of_parameters(
        delivery: Option<&str>,
        times_per_s: Option<&str>,
        bytes_per_s: Option<&str>,
    ) -> Result<Option<Self>, InvalidDelivery> {
        let number =
            |text: Option<&str>| text.map(|text| text.parse().map_err(|_| InvalidDelivery)).transpose();
        let (times_per_s, bytes_per_s) = (number(times_per_s)?, number(bytes_per_s)?);
        let delivery = match delivery {
            Some("all") => DeliveryKind::All,
            Some("latest") => DeliveryKind::Latest,
            None if times_per_s.is_none() && bytes_per_s.is_none() => return Ok(None),
            _ => return Err(InvalidDelivery),
        };
        DeliveryOptions { delivery, times_per_s, bytes_per_s }.try_into().map(Some)
    }
}

impl TryFrom<DeliveryOptions> for DeliveryWanted {
    type Error = InvalidDelivery;

    fn try_from(wanted: DeliveryOptions) -> Result<Self, InvalidDelivery> {
        let DeliveryOptions { delivery, times_per_s, bytes_per_s } = wanted;
        let latest = delivery == DeliveryKind::Latest;
        if !latest && (times_per_s.is_some() || bytes_per_s.is_some()) {
            return Err(InvalidDelivery);
        }
        Ok(Self { latest, times_per_s, bytes_per_s })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(latest: bool, times_per_s: Option<u32>, bytes_per_s: Option<u32>) -> DeliveryWanted {
        DeliveryWanted { latest, times_per_s, bytes_per_s }
    }

    #[test]
    fn data_says_it_under_a_name_of_its_own_and_is_otherwise_the_applications() {
        let read = |json: &'static str| DeliveryWanted::in_data(&Payload::json(json));
        assert_eq!(read(r#"{"tidegate":{"delivery":"latest"}}"#), Ok(Some(wanted(true, None, None))));
        let all = read(r#"{"room":1,"tidegate":{"delivery":"all"}}"#);
        assert_eq!(all, Ok(Some(wanted(false, None, None))));
        let paced = read(r#"{"tidegate":{"delivery":"latest","times_per_s":5,"bytes_per_s":8000}}"#);
        assert_eq!(paced, Ok(Some(wanted(true, Some(5), Some(8000)))));
        for nothing in
            ["", "1", "{}", r#""tidegate""#, r#"["tidegate"]"#, r#"{"a":"tidegate"}"#, r#"{"tidegate":null}"#]
        {
            assert_eq!(read(nothing), Ok(None), "{nothing}");
        }
        for wrong in [
            r#"{"tidegate":{}}"#,
            r#"{"tidegate":1}"#,
            r#"{"tidegate":{"delivery":"some"}}"#,
            r#"{"tidegate":{"delivery":"latest","times":5}}"#,
            r#"{"tidegate":{"delivery":"latest","times_per_s":-1}}"#,
            r#"{"tidegate":{"delivery":"all","times_per_s":5}}"#,
        ] {
            assert_eq!(read(wrong), Err(InvalidDelivery), "{wrong}");
        }
        let bytes = Payload::binary(&br#"{"tidegate":{"delivery":"latest"}}"#[..]);
        assert_eq!(DeliveryWanted::in_data(&bytes), Ok(Some(wanted(true, None, None))), "as protobuf has it");
    }

    #[test]
    fn a_change_names_its_channel() {
        let change = DeliveryWanted::of_change(br#"{"channel":"a:b","delivery":"latest","times_per_s":2}"#);
        assert_eq!(change, Ok(("a:b".into(), wanted(true, Some(2), None))));
        assert_eq!(DeliveryWanted::of_change(br#"{"delivery":"all"}"#), Err(InvalidDelivery));
    }

    #[test]
    fn addresses_have_it_as_parameters() {
        let read = DeliveryWanted::of_parameters;
        assert_eq!(read(None, None, None), Ok(None));
        assert_eq!(read(Some("all"), None, None), Ok(Some(wanted(false, None, None))));
        assert_eq!(read(Some("latest"), Some("5"), None), Ok(Some(wanted(true, Some(5), None))));
        for (delivery, times) in
            [(Some("newest"), None), (None, Some("5")), (Some("latest"), Some("x")), (Some("all"), Some("5"))]
        {
            assert_eq!(read(delivery, times, None), Err(InvalidDelivery), "{delivery:?} {times:?}");
        }
    }
}
