//! Requests for an event stream, read from the address.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::percent_decode_str;

use super::positions;
use super::{RESERVED, Types};
use crate::command::{Connect, Since, Subscribe};
use crate::delivery::{self, DeliveryWanted};

/// An epoch that no stream has.
const NO_EPOCH: &str = "?";

/// Name of the client in metrics and logs.
const NAME: &str = "sse";

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventSourceRequest {
    /// The channels, sorted and without duplicates. If there are none, the client follows those that its token names.
    channels: BTreeSet<Box<str>>,
    token: Box<str>,
    /// Whether the type of an event is its name.
    names: bool,
    /// Where the client stopped reading, if it says so.
    since: Option<LastId>,
    /// The delivery in each channel: all publications or the newest values.
    delivery: Option<DeliveryWanted>,
}

/// The id of the last event that a client received.
#[derive(Clone, PartialEq, Eq, Debug)]
enum LastId {
    Positions(BTreeMap<Box<str>, Since>),
    /// An id that no stream of the gateway has given out.
    Unknown,
}

/// Why an address is not a valid request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EventSourceRequestError {
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    #[error("a channel has no name")]
    NoName,
    #[error(
        "{0} is an event of EventSource itself: subscribe to a channel of that name in a stream of its own"
    )]
    Reserved(&'static str),
    #[error("names must be true or false")]
    Names,
    #[error(
        "names=true is only for one channel: with several, the type of an event is the name of its channel"
    )]
    NamesOfSeveral,
    #[error(transparent)]
    Delivery(#[from] delivery::InvalidDelivery),
}

impl EventSourceRequest {
    /// Reads the query of an address and the header `Last-Event-ID`, which takes precedence over the id in the query.
    pub fn read(query: &str, last_event_id: Option<&[u8]>) -> Result<Self, EventSourceRequestError> {
        let mut request = Self::default();
        let mut last_id = None;
        let (mut delivery, mut times, mut bytes) = (None, None, None);
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "channel" => {
                    let channel = decode(value, "channel")?;
                    if channel.is_empty() {
                        return Err(EventSourceRequestError::NoName);
                    }
                    request.channels.insert(channel.into());
                }
                "names" => {
                    request.names = match value {
                        "true" => true,
                        "false" => false,
                        _ => return Err(EventSourceRequestError::Names),
                    }
                }
                "token" => request.token = decode(value, "token")?.into(),
                // `lastEventId` is the name that EventSource uses, and `last_event_id` one that polyfills may use.
                "lastEventId" | "last_event_id" => last_id = Some(decode(value, "lastEventId")?),
                "delivery" => delivery = Some(value),
                "times_per_s" => times = Some(value),
                "bytes_per_s" => bytes = Some(value),
                _ => {}
            }
        }
        request.delivery = DeliveryWanted::of_parameters(delivery, times, bytes)?;
        if let Some(header) = last_event_id {
            let header =
                std::str::from_utf8(header).map_err(|_| EventSourceRequestError::NotUtf8("Last-Event-ID"))?;
            last_id = Some(header.to_owned());
        }
        if request.channels.len() > 1
            && let Some(reserved) = RESERVED.into_iter().find(|reserved| request.channels.contains(*reserved))
        {
            return Err(EventSourceRequestError::Reserved(reserved));
        }
        if request.names && request.channels.len() != 1 {
            return Err(EventSourceRequestError::NamesOfSeveral);
        }
        // Readers that have received no id send none, or an empty one.
        request.since = last_id.filter(|id| !id.is_empty()).map(|id| match positions::read(&id) {
            Some(positions) => LastId::Positions(positions),
            None => LastId::Unknown,
        });
        Ok(request)
    }

    /// Returns the content of the types of the stream's events.
    pub fn types(&self) -> Types {
        match self.channels.len() {
            1 if self.names => Types::Name,
            1 => Types::Nothing,
            _ => Types::Channel,
        }
    }

    /// Returns the request with the token of a header, which takes precedence over the one in the address.
    #[must_use]
    pub fn with_token(self, token: Option<&str>) -> Self {
        match token {
            Some(token) => Self { token: token.into(), ..self },
            None => self,
        }
    }

    /// Returns the connect command for the request.
    pub fn connect(self) -> Connect {
        let Self { channels, token, since, delivery, names: _ } = self;
        let exact = !channels.is_empty();
        let stopped = |channel: &str| match &since {
            None => None,
            Some(LastId::Positions(positions)) => positions.get(channel).cloned(),
            Some(LastId::Unknown) => Some(Since { offset: 0, epoch: NO_EPOCH.into() }),
        };
        let named: Vec<Box<str>> = match (&since, exact) {
            (_, true) => channels.into_iter().collect(),
            (Some(LastId::Positions(positions)), false) => positions.keys().cloned().collect(),
            _ => Vec::new(),
        };
        let subs = named.into_iter().map(|channel| {
            let since = stopped(&channel);
            let subscribe = Subscribe {
                channel: channel.clone(),
                recover: since.is_some(),
                recoverable: true,
                positioned: true,
                offset: since.as_ref().map_or(0, |since| since.offset),
                epoch: since.map(|since| since.epoch).unwrap_or_default(),
                delivery,
                ..Subscribe::default()
            };
            (channel, subscribe)
        });
        Connect { token, subs: subs.collect(), exact, name: NAME.into(), ..Connect::default() }
    }
}

/// Decodes a form value, in which a plus stands for a space.
fn decode(value: &str, of: &'static str) -> Result<String, EventSourceRequestError> {
    let value = value.replace('+', " ");
    let decoded =
        percent_decode_str(&value).decode_utf8().map_err(|_| EventSourceRequestError::NotUtf8(of))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(query: &str, header: Option<&str>) -> Connect {
        EventSourceRequest::read(query, header.map(str::as_bytes)).unwrap().connect()
    }

    #[test]
    fn channels_are_named_one_by_one_and_each_counts_once() {
        let connect = connect("channel=b&channel=a%3Ax+y&channel=b&token=t.o&_=123", None);
        assert_eq!(connect.subs.keys().map(|name| &**name).collect::<Vec<_>>(), ["a:x y", "b"]);
        assert!(connect.exact && connect.subs.values().all(|sub| !sub.recover && sub.recoverable));
        assert_eq!(&*connect.token, "t.o");
    }

    #[test]
    fn each_channel_goes_on_from_where_the_last_id_says() {
        let id = "a=life:7&c=life:9";
        for (query, header) in [
            ("channel=a&channel=b", Some(id)),
            ("channel=a&channel=b&lastEventId=a%3Dlife%3A7%26c%3Dlife%3A9", None),
            ("channel=a&channel=b&last_event_id=a%3Dlife%3A1", Some(id)),
        ] {
            let connect = connect(query, header);
            let stopped = |name: &str| (connect.subs[name].recover, connect.subs[name].offset);
            assert_eq!((stopped("a"), stopped("b")), ((true, 7), (false, 0)), "{query}");
            assert_eq!(&*connect.subs["a"].epoch, "life");
            assert_eq!(connect.subs.len(), 2);
        }
    }

    #[test]
    fn an_id_of_another_stream_asks_for_what_cannot_be_had() {
        let connect = connect("channel=a", Some("42"));
        assert!(connect.subs["a"].recover);
        assert_eq!(&*connect.subs["a"].epoch, NO_EPOCH);
        assert!(!self::connect("channel=a", Some("")).subs["a"].recover);
    }

    #[test]
    fn without_channels_those_of_the_token_are_followed_from_where_the_id_says() {
        let connect = connect("token=t", Some("a=life:7"));
        assert!(!connect.exact && connect.subs["a"].recover);
        assert!(self::connect("", None).subs.is_empty());
    }

    #[test]
    fn newest_values_are_asked_for_of_all_its_channels() {
        let connect = connect("channel=a&channel=b&delivery=latest&times_per_s=5", None);
        let wanted = DeliveryWanted { latest: true, times_per_s: Some(5), bytes_per_s: None };
        assert!(connect.subs.values().all(|sub| sub.delivery == Some(wanted)));
        assert_eq!(connect.subs.len(), 2);
    }

    #[test]
    fn an_address_that_makes_no_sense_says_why() {
        let read = |query| EventSourceRequest::read(query, None).map(|request| request.types());
        assert_eq!(read("channel="), Err(EventSourceRequestError::NoName));
        assert_eq!(read("channel=%ff"), Err(EventSourceRequestError::NotUtf8("channel")));
        assert_eq!(read("channel=a&channel=open"), Err(EventSourceRequestError::Reserved("open")));
        assert_eq!(read("channel=error"), Ok(Types::Nothing), "its events have no type");
        assert_eq!(read("channel=a&channel=b&names=false"), Ok(Types::Channel));
        assert_eq!(read("channel=a&names=true"), Ok(Types::Name));
        assert_eq!(read("channel=a&names=1"), Err(EventSourceRequestError::Names));
        assert_eq!(
            read("channel=a&delivery=some"),
            Err(EventSourceRequestError::Delivery(delivery::InvalidDelivery))
        );
        for query in ["channel=a&channel=b&names=true", "names=true"] {
            assert_eq!(read(query), Err(EventSourceRequestError::NamesOfSeveral), "{query}");
        }
        assert_eq!(
            EventSourceRequest::read("channel=a", Some(b"\xff")),
            Err(EventSourceRequestError::NotUtf8("Last-Event-ID"))
        );
    }
}
