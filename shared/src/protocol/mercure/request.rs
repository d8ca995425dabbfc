//! Requests for a subscription, read from the address.

use percent_encoding::percent_decode_str;

use super::EARLIEST;
use crate::command::{Connect, ResumeAfter, Subscribe};
use crate::topic_selector::Selector;

/// Most topics in one request.
pub(super) const TOPICS_MAX: usize = 100;

/// The prefix of the hub's own topics.
pub const OWN_TOPICS: &str = "/.well-known/mercure/";

/// Name of the client in metrics and logs.
const NAME: &str = "mercure";

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MercureRequest {
    topics: Vec<String>,
    last_id: Option<String>,
    token: Option<String>,
}

/// Why an address is not a valid request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MercureRequestError {
    #[error("there is no parameter \"topic\"")]
    NoTopic,
    #[error("there are more than {TOPICS_MAX} topics")]
    TooMany,
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
}

impl MercureRequest {
    /// Reads the query of an address and the header `Last-Event-ID`, which takes precedence over the id in the query.
    pub fn read(query: &str, last_event_id: Option<&[u8]>) -> Result<Self, MercureRequestError> {
        let mut request = Self::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "topic" | "topic%5B%5D" | "topic[]" => {
                    if request.topics.len() == TOPICS_MAX {
                        return Err(MercureRequestError::TooMany);
                    }
                    request.topics.push(decode(value, "topic")?);
                }
                "lastEventID" => request.last_id = Some(decode(value, "lastEventID")?),
                "authorization" => request.token = Some(decode(value, "authorization")?),
                _ => {}
            }
        }
        if let Some(header) = last_event_id.filter(|header| !header.is_empty()) {
            let header =
                std::str::from_utf8(header).map_err(|_| MercureRequestError::NotUtf8("Last-Event-ID"))?;
            request.last_id = Some(header.to_owned());
        }
        request.last_id = request.last_id.filter(|id| !id.is_empty());
        if request.topics.iter().all(String::is_empty) {
            Err(MercureRequestError::NoTopic)
        } else {
            Ok(request)
        }
    }

    /// Returns the topics as written, at least one.
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// The token in the address, if there is one.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Returns the connect command for the request. `channel_of` returns the channel of a topic's updates, or for
    /// `None` that of all topics. A single topic by name is followed in its own channel; all other selections filter
    /// the channel of all topics.
    pub fn connect(self, token: &str, channel_of: impl Fn(Option<&str>) -> String) -> Connect {
        let topics: Vec<Selector> = self.topics.iter().map(|topic| Selector::new(topic)).collect();
        let only = match &topics[..] {
            [only] => only.name().filter(|name| !name.starts_with(OWN_TOPICS)),
            _ => None,
        };
        let channel: Box<str> = channel_of(only).into();
        let is_only = only.is_some();
        let after = self.last_id.map(|id| match &*id {
            EARLIEST => ResumeAfter::Everything,
            _ => ResumeAfter::Id(id.into()),
        });
        let subscribe = Subscribe {
            channel: channel.clone(),
            positioned: true,
            recoverable: true,
            after,
            topics: if is_only { Box::default() } else { topics.into() },
            ..Subscribe::default()
        };
        Connect {
            token: token.into(),
            subs: [(channel, subscribe)].into(),
            exact: true,
            name: NAME.into(),
            ..Connect::default()
        }
    }
}

/// Decodes a form value, in which a plus stands for a space.
pub(super) fn decode(value: &str, of: &'static str) -> Result<String, MercureRequestError> {
    let value = value.replace('+', " ");
    let decoded = percent_decode_str(&value).decode_utf8().map_err(|_| MercureRequestError::NotUtf8(of))?;
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(query: &str, header: Option<&str>) -> Connect {
        let request = MercureRequest::read(query, header.map(str::as_bytes)).unwrap();
        request.connect("t", |topic| format!("m:{}", topic.unwrap_or("*")))
    }

    #[test]
    fn one_topic_is_followed_by_itself_and_everything_else_among_all() {
        let of_one = connect("topic=https%3A%2F%2Fa.example%2F1", None);
        assert!(of_one.exact && of_one.subs["m:https://a.example/1"].topics.is_empty());
        for query in [
            "topic=a&topic=b",
            "topic=*",
            "topic=https://a.example/{id}",
            "topic[]=a&topic%5B%5D=b",
            "topic=/.well-known/mercure/subscriptions/a/b",
        ] {
            let connect = connect(query, None);
            assert!(!connect.subs["m:*"].topics.is_empty(), "{query}");
        }
    }

    #[test]
    fn the_header_goes_before_the_address() {
        let after = |query: &str, header| connect(query, header).subs["m:a"].after.clone();
        assert_eq!(after("topic=a", None), None);
        assert_eq!(after("topic=a&lastEventID=x%20y", None), Some(ResumeAfter::Id("x y".into())));
        assert_eq!(after("topic=a&lastEventID=x", Some("z")), Some(ResumeAfter::Id("z".into())));
        assert_eq!(after("topic=a&lastEventID=x", Some("")), Some(ResumeAfter::Id("x".into())));
        assert_eq!(after("topic=a&lastEventID=earliest", None), Some(ResumeAfter::Everything));
    }

    #[test]
    fn an_address_that_makes_no_sense_says_why() {
        let read = |query: &str| MercureRequest::read(query, None).map(|_| ());
        assert_eq!(read(""), Err(MercureRequestError::NoTopic));
        assert_eq!(read("topic="), Err(MercureRequestError::NoTopic));
        assert_eq!(read("topic=%ff"), Err(MercureRequestError::NotUtf8("topic")));
        assert_eq!(read(&vec!["topic=a"; TOPICS_MAX + 1].join("&")), Err(MercureRequestError::TooMany));
        assert_eq!(read("topic=a&authorization=x.y"), Ok(()));
    }
}
