//! Changing the encoding of a connection in all of its channels, because it has changed its transport.

use super::Hub;
use super::places::PlaceList;
use super::subscriber::Subscriber;
use super::variants::Variant;

impl Hub {
    /// Sets the encoding that a connection takes. In channels where it has agreed to patches it still gets them.
    pub fn change_wire(&mut self, key: u32, variant: Variant) {
        for place in self.places.row(key) {
            let Some(members) = self.channels.get_mut(place.channel as usize) else { continue };
            let (index, aside) = (place.at.index(), members.aside.as_mut());
            let subscriber = match (place.at.list(), aside) {
                (PlaceList::Live, _) => members.live.get_mut(index),
                (PlaceList::Joining, Some(aside)) => {
                    aside.joining.get_mut(index).map(|joining| &mut joining.subscriber)
                }
                (PlaceList::Waiting, Some(aside)) => {
                    aside.waiting.get_mut(index).map(|waiting| &mut waiting.subscriber)
                }
                // These subscribers are sent nothing more.
                (PlaceList::Insufficient, _) | (_, None) => None,
            };
            if let Some(subscriber) = subscriber {
                *subscriber = subscriber.taking(variant);
            }
        }
    }
}

impl Subscriber {
    fn taking(mut self, variant: Variant) -> Self {
        self.variant = if self.variant.takes_patches() { variant.with_patches() } else { variant };
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::channel::Channel;
    use shared::publication::{Payload, Publication};

    use super::*;
    use crate::hub::{Bundles, EncodingId, Prepared, Sink, Variants};
    use crate::namespace_id::NamespaceId;

    /// Records the subscribers that publications are delivered to, with their encodings.
    #[derive(Default)]
    struct Handed(Vec<(u32, Variant)>);

    impl Sink for Handed {
        fn deliver(&mut self, subscribers: &[Subscriber], _bundles: &mut Bundles) {
            self.0.extend(subscribers.iter().map(|subscriber| (subscriber.key, subscriber.variant)));
        }

        fn insufficient(&mut self, _key: u32, _channel: &Channel) {}
    }

    #[test]
    fn what_comes_after_a_change_takes_the_new_encoding_and_others_keep_theirs() {
        let (mut hub, mut handed) = (Hub::default(), Handed::default());
        let old = Variant::plain(EncodingId::default());
        let new = Variant::deflated(EncodingId::default(), 15);
        let channel = |name: &str| Channel::parse(name, 255).unwrap();
        for (key, patches) in [(1, false), (2, false), (3, true)] {
            let variant = if patches { old.with_patches() } else { old };
            for name in ["live", "joining"] {
                hub.join(&channel(name), Subscriber::new(key, variant), None);
            }
            hub.go_live("live", key, None, &mut handed);
        }
        hub.change_wire(1, new);
        hub.change_wire(3, new);
        hub.change_wire(4, new);
        let expected = [(1, new), (2, old), (3, new.with_patches())];
        for name in ["live", "joining"] {
            let publication = Publication::new(Payload::text("x"));
            let prepared = Prepared::new(
                channel(name),
                NamespaceId::DEFAULT,
                publication,
                0,
                &Arc::new(Variants::default()),
            );
            hub.deliver(name, &[prepared], &mut handed);
            (1..=3).for_each(|key| hub.go_live(name, key, None, &mut handed));
            handed.0.sort_by_key(|(key, _)| *key);
            assert_eq!(std::mem::take(&mut handed.0), expected, "{name}");
        }
    }
}
