//! The delivery that a client wants for a channel: all publications, or the newest of each key.
//!
//! Protocols whose libraries have no field for it carry it in the data that a client sends with its subscription, under
//! a reserved name: `{"tidegate": {"delivery": "latest", "times_per_s": 5}}`. In addresses it is carried as parameters.

use serde::Deserialize;

use crate::publication::{Payload, PayloadKind};

/// The reserved name in the data, in quotes.
const NAME: &[u8] = b"\"tidegate\"";

/// The delivery that a subscriber wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeliveryWanted {
    /// Whether to send the newest value of each key in place of all publications.
    pub latest: bool,
    /// With `latest`, the most sends per second. 0: as often as the server allows. `None`: the channel's setting.
    pub times_per_s: Option<u32>,
    /// With `latest`, the most bytes per second. 0: as many as the server allows. `None`: the channel's setting.
    pub bytes_per_s: Option<u32>,
}

/// A delivery that is malformed or contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("delivery must be all or latest; times_per_s and bytes_per_s are only for latest")]
pub struct InvalidDelivery;

/// The reserved part of a client's data. The rest belongs to the application.
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

/// A request to change the delivery of a subscription.
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
    /// Reads the delivery from a client's data. `None` if the data is not a JSON object or has no such part.
    pub fn in_data(data: &Payload) -> Result<Option<Self>, InvalidDelivery> {
        let is_there = data.kind != PayloadKind::Binary || data.bytes.first() == Some(&b'{');
        if !is_there || memchr::memmem::find(&data.bytes, NAME).is_none() {
            return Ok(None);
        }
        let is_object = |value: &serde_json::Value| value.get("tidegate").is_some_and(|own| !own.is_null());
        match serde_json::from_slice::<DeliveryData>(&data.bytes) {
            Ok(data) => data.tidegate.map(Self::try_from).transpose(),
            // An application may use the name elsewhere in its data.
            Err(_) if serde_json::from_slice(&data.bytes).as_ref().is_ok_and(is_object) => {
                Err(InvalidDelivery)
            }
            Err(_) => Ok(None),
        }
    }

    /// Reads a request to change a live subscription: its channel and the new delivery.
    pub fn of_change(data: &[u8]) -> Result<(Box<str>, Self), InvalidDelivery> {
        let DeliveryChange { channel, delivery, times_per_s, bytes_per_s } =
            serde_json::from_slice(data).map_err(|_| InvalidDelivery)?;
        Ok((channel, DeliveryOptions { delivery, times_per_s, bytes_per_s }.try_into()?))
    }

    /// Reads the delivery from the parameters of an address, each `None` if it is absent. Returns `None` if all are absent.
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
