//! A client's view of one of its subscriptions: it reads what comes, applies deltas and keeps a list of members.

use gateway_core::delta;
use shared::channel::Channel;
use shared::protocol::centrifuge::json::client::{ReceivedPublication, ReceivedSubscribeResult};

use crate::checkers::{Checkers, Kind, MemberList, Reader};
use crate::network::Net;

/// More bytes than any payload here has.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Off,
    Requested,
    On,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) kind: Kind,
    pub(crate) state: State,
    pub(crate) wanted: bool,
    pub(crate) reader: Reader,
    /// Whether payloads come in strings.
    patched: bool,
    /// The last payload, which is the base of the next delta.
    base: Option<String>,
    /// For a subscription that asks for joins and leaves.
    pub(crate) members: Option<MemberList>,
}

impl Subscription {
    pub(crate) fn new(channel: Channel, kind: Kind, is_told_who_comes: bool) -> Self {
        Self {
            kind,
            state: State::Off,
            wanted: true,
            reader: Reader::new(channel, kind),
            patched: false,
            base: None,
            members: is_told_who_comes.then(MemberList::default),
        }
    }

    /// Reads a publication, and applies it if it is a delta.
    pub(crate) fn get(&mut self, publication: &ReceivedPublication<'_>, net: &mut Net, checkers: &Checkers) {
        let text = self.whole(publication, net);
        let data = text.as_deref().unwrap_or(publication.data);
        self.reader.get(&ReceivedPublication { data, ..publication.clone() }, checkers);
        net.stats.count("publications checked");
        if self.kind == Kind::Filtered {
            net.stats.count("publications through a filter");
        }
    }

    fn whole(&mut self, publication: &ReceivedPublication<'_>, net: &mut Net) -> Option<String> {
        if !self.patched {
            assert!(!publication.delta, "a patch for who did not ask");
            return None;
        }
        let text: String = serde_json::from_str(publication.data).expect("a text");
        let whole = match publication.delta {
            false => text,
            true => {
                net.stats.count("patches applied");
                let base = self.base.take().expect("a patch is of something that came");
                let made = delta::apply(base.as_bytes(), text.as_bytes(), PAYLOAD_BYTES_MAX);
                String::from_utf8(made.expect("a patch is of what came before it")).expect("text")
            }
        };
        self.base = Some(whole.clone());
        Some(whole)
    }

    /// Begins the subscription with the server's answer. Returns whether the answer says that something may have been
    /// missed.
    pub(crate) fn begin(
        &mut self,
        from: Option<&(String, u64)>,
        mut result: ReceivedSubscribeResult<'_>,
        net: &mut Net,
        checkers: &Checkers,
    ) -> bool {
        self.state = State::On;
        (self.patched, self.base) = (result.delta, None);
        assert!(!result.delta || self.kind == Kind::Patched);
        if let Some(members) = &mut self.members {
            members.begin();
        }
        let publications = std::mem::take(&mut result.publications);
        let missed = self.reader.begin(from, &result);
        assert!(result.recovered || publications.is_empty(), "publications without a recovery");
        for publication in &publications {
            self.get(publication, net, checkers);
        }
        missed
    }
}
