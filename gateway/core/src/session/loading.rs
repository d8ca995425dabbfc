//! Subscriptions to map channels whose clients are reading the state: what the session keeps between two pages.

use shared::channel::Channel;
use shared::command::{Phase, Since, StateRequest};
use shared::moment::Moment;
use shared::position::StreamPosition;
use shared::publication::{Payload, Publication};

use super::session_state::Granted;
use super::terms::RecoveryRequest;
use crate::effect::{Overrides, Ticket};

/// The loading subscriptions of one connection. Together with its live subscriptions they are bounded by the channels
/// it may have.
#[derive(Debug, Default)]
pub(super) struct Loadings(pub(super) Vec<Loading>);

#[derive(Debug)]
pub(super) struct Loading {
    pub(super) channel: Channel,
    /// The terms of the client's first request, which was authorized: they are not asked about again for further pages.
    pub(super) entry: LoadingChannel,
    /// The channel's position when the first page was read. Later changes come by the stream, or are held back.
    pub(super) began_at: Option<StreamPosition>,
    /// Whether the channel has changed since then. Keys that the pages leave out must be sent whole before any patch of
    /// them.
    pub(super) has_changed: bool,
    /// In a channel without a stream: whether the hub holds publications back, from before the first page was read.
    pub(super) held_back: bool,
    /// The moment by which the client must be live.
    pub(super) until: Moment,
    pub(super) step: LoadingStep,
    /// Whether the server has ended the subscription while an effect was awaited.
    pub(super) ended: bool,
}

#[derive(Debug, Default)]
pub(super) struct LoadingChannel {
    pub(super) recovery: RecoveryRequest,
    pub(super) overrides: Overrides,
    pub(super) granted: Option<Box<Granted>>,
    /// Data for the client, sent when it is live.
    pub(super) data: Option<Payload>,
}

#[derive(Debug)]
pub(super) enum LoadingStep {
    /// Waiting for the client's next request.
    Idle,
    /// The next request did not come in time.
    Late,
    Busy(PageInFlight),
}

/// A request of the client that is in flight.
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
    /// That the hub holds publications back.
    Join,
    State,
    Stream,
}

/// One request of the client for a page.
#[derive(Clone, Debug, Default)]
pub(super) struct PageRequest {
    pub(super) page: StateRequest,
    /// The position that the client says it has.
    pub(super) since: Since,
    /// Whether the client recovers: it has been subscribed before and has the state as of `since`.
    pub(super) recovers: bool,
}

/// The state that a client has read before it goes live, beside what comes by the stream.
#[derive(Debug)]
pub(super) struct LoadedState {
    pub(super) wanted: PageRequest,
    /// The last page of the state, which has not been sent yet.
    pub(super) state: Vec<Publication>,
    pub(super) state_bytes: usize,
    /// As in [`Loading`].
    pub(super) has_changed: bool,
    /// In a channel without a stream: the position at which the state was read.
    pub(super) position: Option<StreamPosition>,
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

    /// Returns the earliest deadline of the loading subscriptions that wait for their client.
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
