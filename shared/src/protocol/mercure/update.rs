//! Updates, read from a publisher's form.

use super::request::{OWN_TOPICS, TOPICS_MAX, decode};
use super::{ID, PRIVATE, RETRY, TOPICS};
use crate::publication::{EVENT_TAG, Payload, Publication};

/// Longest id and type, in bytes.
const NAME_BYTES_MAX: usize = 255;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Update {
    topics: Vec<String>,
    data: String,
    private: bool,
    id: Option<String>,
    kind: Option<String>,
    retry: Option<u64>,
}

/// Why a form is not a valid update.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidUpdate {
    #[error("the form is not UTF-8")]
    NotUtf8,
    #[error("there is no \"topic\", or one is empty")]
    NoTopic,
    #[error("there are more than {TOPICS_MAX} topics")]
    TooManyTopics,
    #[error("* stands for all topics and cannot be published to")]
    All,
    #[error("topics that begin with {OWN_TOPICS} are the hub's own")]
    Own,
    #[error("a topic has a line break or a control character in it")]
    Topic,
    #[error("\"id\" begins with #, is longer than {NAME_BYTES_MAX} bytes, or has a control character in it")]
    Id,
    #[error("\"type\" is longer than {NAME_BYTES_MAX} bytes or has a control character in it")]
    Type,
    #[error("\"retry\" is not a number of milliseconds")]
    Retry,
}

impl Update {
    /// Reads a form (`application/x-www-form-urlencoded`).
    pub fn read(form: &[u8]) -> Result<Self, InvalidUpdate> {
        let form = std::str::from_utf8(form).map_err(|_| InvalidUpdate::NotUtf8)?;
        let mut update = Self::default();
        for pair in form.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = || decode(value, "").map_err(|_| InvalidUpdate::NotUtf8);
            match key {
                "topic" => update.add_topic(value()?)?,
                "data" => update.data = value()?,
                "private" => update.private = true,
                "id" => update.id = Some(value()?).filter(|id| !id.is_empty()),
                "type" => update.kind = Some(value()?).filter(|kind| !kind.is_empty()),
                "retry" => {
                    let retry = value()?;
                    if !retry.is_empty() {
                        update.retry = Some(retry.parse().map_err(|_| InvalidUpdate::Retry)?);
                    }
                }
                _ => {}
            }
        }
        if update.topics.is_empty() {
            return Err(InvalidUpdate::NoTopic);
        }
        let is_sound = |text: &str| text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
        if update.id.as_deref().is_some_and(|id| id.starts_with('#') || !is_sound(id)) {
            return Err(InvalidUpdate::Id);
        }
        if update.kind.as_deref().is_some_and(|kind| !is_sound(kind)) {
            return Err(InvalidUpdate::Type);
        }
        Ok(update)
    }

    fn add_topic(&mut self, topic: String) -> Result<(), InvalidUpdate> {
        match &*topic {
            "" => Err(InvalidUpdate::NoTopic),
            "*" => Err(InvalidUpdate::All),
            _ if topic.starts_with(OWN_TOPICS) => Err(InvalidUpdate::Own),
            _ if topic.chars().any(char::is_control) => Err(InvalidUpdate::Topic),
            _ if self.topics.len() == TOPICS_MAX => Err(InvalidUpdate::TooManyTopics),
            _ => {
                if !self.topics.contains(&topic) {
                    self.topics.push(topic);
                }
                Ok(())
            }
        }
    }

    /// Makes an update of one of the hub's own topics. It is private: only clients that may read the topic receive it.
    pub fn own(topic: String, data: String) -> Self {
        Self { topics: vec![topic], data, private: true, ..Self::default() }
    }

    /// Returns the topics, the canonical one first.
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// Returns the id that the publisher gave.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns the publication for each of the update's channels. It gets this id if the publisher gave none.
    pub fn publication(&self, id: &str) -> Publication {
        let mut publication = Publication::new(Payload::json_or_text(self.data.clone()));
        let mut tag = |name: &str, value: &str| publication.tags.insert(name.into(), value.into());
        tag(ID, self.id.as_deref().unwrap_or(id));
        tag(TOPICS, &self.topics.join("\n"));
        if let Some(kind) = &self.kind {
            tag(EVENT_TAG, kind);
        }
        if let Some(retry) = self.retry {
            tag(RETRY, &retry.to_string());
        }
        if self.private {
            tag(PRIVATE, "on");
        }
        publication
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        let update =
            Update::read(b"topic=https%3A%2F%2Fa.example%2F1&topic=b&topic=b&data=a+b%26c&private").unwrap();
        assert_eq!(update.topics(), ["https://a.example/1", "b"]);
        assert_eq!((update.data.as_str(), update.private, update.id()), ("a b&c", true, None));
    }

    #[test]
    fn what_could_break_a_stream_or_mean_something_else_is_refused() {
        let long = format!("topic=a&id={}", "x".repeat(NAME_BYTES_MAX + 1));
        let many = (0..=TOPICS_MAX).map(|number| format!("topic={number}")).collect::<Vec<_>>().join("&");
        for (form, invalid) in [
            ("", InvalidUpdate::NoTopic),
            ("topic=", InvalidUpdate::NoTopic),
            ("data=x", InvalidUpdate::NoTopic),
            ("topic=*", InvalidUpdate::All),
            ("topic=/.well-known/mercure/subscriptions/a/b", InvalidUpdate::Own),
            ("topic=a%0Ab", InvalidUpdate::Topic),
            ("topic=a&id=%23x", InvalidUpdate::Id),
            ("topic=a&id=x%0Adata%3A+y", InvalidUpdate::Id),
            (&long, InvalidUpdate::Id),
            ("topic=a&type=x%0D", InvalidUpdate::Type),
            ("topic=a&retry=soon", InvalidUpdate::Retry),
            ("topic=a&retry=-1", InvalidUpdate::Retry),
            ("topic=%ff", InvalidUpdate::NotUtf8),
            (&many, InvalidUpdate::TooManyTopics),
        ] {
            assert_eq!(Update::read(form.as_bytes()), Err(invalid), "{form}");
        }
        assert_eq!(Update::read(b"topic=\xff"), Err(InvalidUpdate::NotUtf8));
    }
}
