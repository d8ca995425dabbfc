//! Who receives the publications of a channel that has private ones: a condition on their tags, as Mercure defines it.

use shared::protocol::mercure::{PRIVATE, TOPICS};
use shared::publication::Tags;
use shared::topic_selector::Selector;

/// Which publications of one channel a subscriber receives.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SubscriberAudience {
    /// The topic of publications that name none. Empty if there is no such topic.
    pub own: Box<str>,
    /// The topics that the subscriber follows. `None`: all topics of the channel.
    pub follows: Option<Box<[Selector]>>,
    /// The topics for which the subscriber is authorized.
    pub authorized: Box<[Selector]>,
    /// Whether the subscriber also receives publications that are not private.
    pub open: bool,
}

impl SubscriberAudience {
    /// Whether the subscriber receives everything that is published to the channel.
    pub fn is_everything(&self) -> bool {
        self.follows.is_none() && self.open && self.authorized.iter().any(Selector::is_all)
    }

    pub fn includes(&self, tags: &Tags) -> bool {
        let named = tags.get(TOPICS).map_or(&*self.own, |topics| &**topics);
        let any = |selectors: &[Selector]| {
            named.split('\n').any(|topic| selectors.iter().any(|selector| selector.matches(topic)))
        };
        let is_open = self.open && !tags.contains_key(PRIVATE);
        self.follows.as_deref().is_none_or(any) && (is_open || any(&self.authorized))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selectors(texts: &[&str]) -> Box<[Selector]> {
        texts.iter().map(|text| Selector::new(text)).collect()
    }

    fn tags(topics: &str, private: bool) -> Tags {
        let topics = (!topics.is_empty()).then(|| (TOPICS.into(), topics.into()));
        topics.into_iter().chain(private.then(|| (PRIVATE.into(), "on".into()))).collect()
    }

    #[test]
    fn what_is_private_is_for_those_who_show_a_right_to_one_of_its_topics() {
        let ann = SubscriberAudience {
            own: "/books/1".into(),
            authorized: selectors(&["/users/ann/{?topic}"]),
            open: true,
            ..SubscriberAudience::default()
        };
        assert!(ann.includes(&tags("/books/1", false)));
        assert!(!ann.includes(&tags("/books/1", true)));
        assert!(ann.includes(&tags("/books/1\n/users/ann/?topic=1", true)));
        assert!(!ann.includes(&tags("/books/1\n/users/bob/?topic=1", true)));
        assert!(!ann.includes(&tags("", true)));
        assert!(!ann.is_everything());
        let all = SubscriberAudience { authorized: selectors(&["*"]), ..ann };
        assert!(all.includes(&tags("/books/1", true)) && all.is_everything());
    }

    #[test]
    fn topics_are_picked_out_of_all() {
        let some = SubscriberAudience {
            follows: Some(selectors(&["a", "/b/{id}"])),
            open: true,
            ..SubscriberAudience::default()
        };
        assert!(some.includes(&tags("x\n/b/1", false)) && some.includes(&tags("a", false)));
        assert!(!some.includes(&tags("x", false)) && !some.includes(&tags("", false)));
    }

    #[test]
    fn where_not_all_may_follow_nothing_is_for_those_without_a_right() {
        let closed = SubscriberAudience {
            own: "a".into(),
            authorized: selectors(&["a"]),
            ..SubscriberAudience::default()
        };
        assert!(closed.includes(&tags("", false)) && closed.includes(&tags("a", true)));
        assert!(!closed.includes(&tags("b", false)));
    }
}
