//! A client on its way into a channel that keeps state by key: what is remembered between the pages that it reads.

use shared::channel::Channel;
use shared::command::{Phase, Since, StateRequest};
use shared::moment::Moment;
use shared::position::StreamPosition;
use shared::publication::{Payload, Publication};

use super::session_state::Granted;
use super::terms::RecoveryRequest;
use crate::effect::{Overrides, Ticket};

/// All of them of one connection. With its subscriptions they are at most as many as it may have channels.
#[derive(Debug, Default)]
pub(super) struct Loadings(pub(super) Vec<Loading>);

#[derive(Debug)]
pub(super) struct Loading {
    pub(super) channel: Channel,
    /// What the client asked for first, and was given leave to: asked again with no page.
    pub(super) entry: LoadingChannel,
    /// Where the channel stood when the first page was read. What came later comes by the stream, or is held back.
    pub(super) began_at: Option<StreamPosition>,
    /// It has changed since: what pages leave out the client must be given whole, before any patch of it.
    pub(super) has_changed: bool,
    /// In a channel without one: the hub holds publications back from before the first page was read.
    pub(super) held_back: bool,
    /// The client must be live by then.
    pub(super) until: Moment,
    pub(super) step: LoadingStep,
    /// The server has ended it while something was awaited.
    pub(super) ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct LoadingChannel {
    pub(super) recovery: RecoveryRequest,
    pub(super) overrides: Overrides,
    pub(super) granted: Option<Box<Granted>>,
    /// For the client, when it is live.
    pub(super) data: Option<Payload>,
}

#[derive(Debug)]
pub(super) enum LoadingStep {
    /// The client's next request is awaited.
    Idle,
    /// It did not come in time.
    Late,
    Busy(PageInFlight),
}

/// A request of the client that is being served.
#[derive(Debug)]
pub(super) struct PageInFlight {
    pub(super) ticket: Ticket,
    pub(super) id: u32,
    pub(super) wanted: PageRequest,
    pub(super) awaited: LoadingAwaited,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LoadingAwaited {
    Token,
    /// That publications are held back.
    Join,
    State,
    Stream,
}

/// What a client asks for with one request.
#[derive(Clone, Debug, Default)]
pub(super) struct PageRequest {
    pub(super) page: StateRequest,
    /// Where it says that it stands.
    pub(super) since: Since,
    /// It was here before, and has the state as it was then.
    pub(super) recovers: bool,
}

/// What a client that is about to be live has read, beside what comes by the stream.
#[derive(Debug)]
pub(super) struct LoadedState {
    pub(super) wanted: PageRequest,
    /// The last page of the state, as long as it has not been sent.
    pub(super) state: Vec<Publication>,
    pub(super) state_bytes: usize,
    /// As the loading has it.
    pub(super) has_changed: bool,
    /// In a channel without a stream: where that state was read.
    pub(super) stands_at: Option<StreamPosition>,
    pub(super) until: Moment,
}

impl Loading {
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.step, LoadingStep::Busy(_))
    }

    fn awaits(&self, ticket: Ticket) -> bool {
        matches!(&self.step, LoadingStep::Busy(busy) if busy.ticket == ticket)
    }
}

impl Loadings {
    pub(super) fn find(&self, channel: &str) -> Option<usize> {
        self.0.iter().position(|one| one.channel.as_str() == channel)
    }

    pub(super) fn find_awaiting(&self, ticket: Ticket) -> Option<usize> {
        self.0.iter().position(|one| one.awaits(ticket))
    }

    /// When the first of those whose client is awaited is late.
    pub(super) fn next_end(&self) -> Option<Moment> {
        let waiting = self.0.iter().filter(|one| matches!(one.step, LoadingStep::Idle));
        waiting.map(|one| one.until).min()
    }
}

impl PageRequest {
    pub(super) fn begins(&self) -> bool {
        self.page.phase == Phase::State && self.page.cursor.is_empty()
    }
}
