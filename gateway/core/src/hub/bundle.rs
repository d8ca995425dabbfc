//! Bundles: several publications of one channel as few writes, for a worker with a backlog.
//!
//! The bytes are made once for all subscribers of a variant. Where the protocol has a delimiter between messages,
//! several travel as one message, which also deflates to a third of what they would take separately.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use shared::disconnect::Disconnect;
use shared::position::StreamPosition;
use shared::publication::Publication;
use smallvec::SmallVec;

use super::prepared::{Prepared, Writable};
use super::subscriber::Sink;
use super::variants::Variant;
use crate::namespace_id::NamespaceId;

/// Maximum number of publications in one message. Other gateways have tried client libraries with this many.
pub const BUNDLED_MESSAGES_MAX: usize = 16;
/// Maximum bytes of one write that holds more than one publication.
pub const BUNDLED_BYTES_MAX: usize = 64 << 10;
/// The same for newest values. The first writes are short, since values after them can still be superseded if the
/// connection takes no more; then writes become longer, because the connection has taken the short ones.
const NEWEST_SHORT_WRITES: usize = 8;
const NEWEST_SHORT_BYTES_MAX: usize = 512;
const NEWEST_LONG_BYTES_MAX: usize = 16 << 10;

/// The writes for subscribers of one variant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bundle {
    /// Whole frames in order, one write each.
    pub writes: SmallVec<[Bytes; 1]>,
    /// With several newest values: for each write, the number of values that are dealt with once it is done.
    pub reach: SmallVec<[u32; 4]>,
    /// The reason why the rest is not written, if there is a rest.
    pub end: Option<BundleEnd>,
    /// Number of publications in the writes.
    pub publications: u32,
}

/// Why a bundle holds fewer publications than there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum BundleEnd {
    /// The protocol can express the next publication only by closing.
    Close(Disconnect),
    /// The next publication cannot be encoded. Subscribers that were to get every publication have to be told; the
    /// others may get the bundle of those after it.
    Broken(Box<Bundle>),
}

/// Bundles of the same publications for each variant, made when first asked for.
#[derive(Clone, Debug)]
pub struct Bundles {
    publications: SmallVec<[Arc<Prepared>; 1]>,
    /// The last publication that the subscribers were given before these.
    given: Option<StreamPosition>,
    made: SmallVec<[(Variant, Bundle); 2]>,
    /// The index in `made` of the bundle asked for last.
    last: usize,
    writes: WriteSizes,
    /// Whether the publications have waited in a window, as their subscribers wished.
    has_waited: bool,
}

/// The sizes of writes that hold more than one publication.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WriteSizes {
    Long,
    /// The first writes are short.
    Growing,
}

impl WriteSizes {
    /// Returns the maximum bytes of a write that comes after `behind` others.
    fn bytes_max(self, behind: usize) -> usize {
        match self {
            Self::Long => BUNDLED_BYTES_MAX,
            Self::Growing if behind < NEWEST_SHORT_WRITES => NEWEST_SHORT_BYTES_MAX,
            Self::Growing => NEWEST_LONG_BYTES_MAX,
        }
    }
}

impl Bundles {
    /// Creates bundles for subscribers that, as far as is known, were given no publication before: the first one is
    /// sent whole.
    pub fn new(publications: &[Arc<Prepared>]) -> Self {
        Self::after(None, publications.into())
    }

    /// Creates bundles for subscribers that were last given the publication at `given`: the one that follows it can be
    /// sent as a patch.
    pub(super) fn after(given: Option<StreamPosition>, publications: SmallVec<[Arc<Prepared>; 1]>) -> Self {
        let (made, writes) = (SmallVec::new(), WriteSizes::Long);
        Self { publications, given, made, last: 0, writes, has_waited: false }
    }

    /// Creates bundles of newest values, in few writes that are not long.
    pub(super) fn newest(publications: SmallVec<[Arc<Prepared>; 1]>) -> Self {
        Self { writes: WriteSizes::Growing, ..Self::after(None, publications) }
    }

    /// Creates bundles of newest values from a window that closes. Their lateness says nothing about the node.
    pub(super) fn after_window(publications: SmallVec<[Arc<Prepared>; 1]>) -> Self {
        Self { has_waited: true, ..Self::newest(publications) }
    }

    /// Tells the sink that the last subscriber of a list was served, if that is to be measured.
    pub(super) fn report_delivered(&self, sink: &mut impl Sink) {
        if !self.has_waited {
            sink.delivered(&self.publications);
        }
    }

    pub fn publications(&self) -> &[Arc<Prepared>] {
        &self.publications
    }

    /// Returns the namespace of the channel.
    #[inline]
    pub fn namespace(&self) -> NamespaceId {
        self.publications.first().map_or(NamespaceId::DEFAULT, |prepared| prepared.namespace())
    }

    /// Returns the bundle for a variant. Neighbours in a list mostly take the same variant, so the last bundle is tried
    /// first.
    #[inline]
    pub fn get(&mut self, variant: Variant) -> &Bundle {
        if self.made.get(self.last).is_none_or(|(of, _)| *of != variant) {
            self.find(variant);
        }
        &self.made[self.last].1
    }

    /// Returns whether any of the publications is not for all subscribers.
    #[inline]
    pub fn excludes_anyone(&self) -> bool {
        self.publications.iter().any(|prepared| prepared.except().is_some() || prepared.only().is_some())
    }

    /// Returns the bundle for one subscriber, without the publications that are not for it.
    pub fn without(&self, variant: Variant, is_excluded: impl Fn(&Prepared) -> bool) -> Bundle {
        let left: SmallVec<[Arc<Prepared>; 1]> =
            self.publications.iter().filter(|prepared| !is_excluded(prepared)).cloned().collect();
        Bundle::of(&left, variant, self.given, self.writes)
    }

    /// Returns the last publication, if any of the events is one.
    pub(super) fn last_publication(&self) -> Option<&Publication> {
        self.publications.iter().rev().find_map(|prepared| prepared.publication())
    }

    /// Returns whether one of the publications could not be encoded for some variant.
    pub(super) fn is_broken(&self) -> bool {
        self.made.iter().any(|(_, bundle)| matches!(bundle.end, Some(BundleEnd::Broken(_))))
    }

    fn find(&mut self, variant: Variant) {
        let found = self.made.iter().position(|(of, _)| *of == variant);
        self.last = found.unwrap_or_else(|| {
            let bundle = Bundle::of(&self.publications, variant, self.given, self.writes);
            self.made.push((variant, bundle));
            self.made.len() - 1
        });
    }
}

/// Returns the position of the publication that subscribers were last given, after `prepared` has followed `given`.
fn given_after(prepared: &Prepared, given: Option<StreamPosition>) -> Option<StreamPosition> {
    match prepared.publication() {
        Some(publication) => publication.position,
        None => given,
    }
}

impl Bundle {
    /// Creates the bundle of a variant. A publication is sent as a patch where it follows the one before it here, or,
    /// for the first one, `given`.
    fn of(
        publications: &[Arc<Prepared>],
        variant: Variant,
        mut given: Option<StreamPosition>,
        how: WriteSizes,
    ) -> Self {
        let mut bundle = Self::default();
        if let [only] = publications {
            bundle.add(only.form_after(given, variant), only, &[], how);
            return bundle;
        }
        let mut rest = publications;
        while let [first, after @ ..] = rest
            && bundle.end.is_none()
        {
            let bytes_max = how.bytes_max(bundle.writes.len());
            if let Some((frame, joined)) = join(rest, variant, given, bytes_max) {
                bundle.writes.push(frame);
                bundle.publications += joined as u32;
                given = rest[..joined].iter().fold(given, |given, prepared| given_after(prepared, given));
                rest = &rest[joined..];
            } else {
                bundle.add(first.form_after(given, variant), first, after, how);
                given = given_after(first, given);
                rest = after;
            }
            if how == WriteSizes::Growing {
                // A publication without a write of its own is dealt with in the write before it.
                bundle.reach.truncate(bundle.writes.len().saturating_sub(1));
                bundle.reach.resize(bundle.writes.len(), (publications.len() - rest.len()) as u32);
            }
        }
        bundle.gather(how);
        bundle
    }

    /// Adds one publication. `after` only matters if the bundle ends with it.
    fn add(&mut self, variant: Variant, prepared: &Prepared, after: &[Arc<Prepared>], how: WriteSizes) {
        match prepared.writable(variant) {
            Writable::Nothing => {}
            Writable::Close(disconnect) => self.end = Some(BundleEnd::Close(disconnect.clone())),
            Writable::Broken => {
                self.end = Some(BundleEnd::Broken(Box::new(Self::of(after, variant.unpatched(), None, how))));
            }
            Writable::Frame(frame) => {
                self.writes.push(frame.clone());
                self.publications += 1;
            }
        }
    }

    /// Merges consecutive small writes.
    fn gather(&mut self, how: WriteSizes) {
        let mut gathered: SmallVec<[Bytes; 1]> = SmallVec::new();
        let mut frames = std::mem::take(&mut self.writes).into_iter().peekable();
        let (reach, mut taken) = (std::mem::take(&mut self.reach), 0);
        while let Some(first) = frames.next() {
            let mut together = BytesMut::new();
            let bytes_max = how.bytes_max(gathered.len());
            taken += 1;
            while let Some(next) =
                frames.next_if(|next| first.len().max(together.len()) + next.len() <= bytes_max)
            {
                taken += 1;
                if together.is_empty() {
                    together.extend_from_slice(&first);
                }
                together.extend_from_slice(&next);
            }
            gathered.push(if together.is_empty() { first } else { together.freeze() });
            self.reach.extend(reach.get(taken - 1).copied());
        }
        self.writes = gathered;
    }
}

/// Returns one frame with as many of the first messages as may travel as one, all of the same kind and deflated where
/// that helps, and their number. `None` if that is only one, or if the protocol sends each message by itself.
fn join(
    publications: &[Arc<Prepared>],
    variant: Variant,
    mut given: Option<StreamPosition>,
    bytes_max: usize,
) -> Option<(Bytes, usize)> {
    let encoding = publications.first()?.variants().get(variant.encoding())?;
    let delimiter = encoding.protocol.delimiter()?;
    let mut kind = None;
    let mut messages: SmallVec<[&[u8]; BUNDLED_MESSAGES_MAX]> = SmallVec::new();
    let mut bytes = 0;
    for prepared in publications.iter().take(BUNDLED_MESSAGES_MAX) {
        let Some((of, message)) = prepared.message(prepared.form_after(given, variant)) else { break };
        bytes += message.len();
        if bytes > bytes_max || *kind.get_or_insert(of) != of {
            break;
        }
        given = given_after(prepared, given);
        messages.push(message);
    }
    let kind = kind?;
    if messages.len() < 2 {
        return None;
    }
    let headroom = encoding.framing.headroom();
    let mut buffer = BytesMut::with_capacity(headroom + bytes + messages.len() * delimiter.len());
    buffer.resize(headroom, 0);
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            buffer.extend_from_slice(delimiter);
        }
        buffer.extend_from_slice(message);
    }
    let message = buffer.get(headroom..).unwrap_or_default();
    if variant.takes_deflated(message.len())
        && let Some(deflated) = encoding.framing.deflate(kind, message)
    {
        return Some((deflated, messages.len()));
    }
    let start = encoding.framing.seal(kind, &mut buffer);
    Some((buffer.freeze().slice(start..), messages.len()))
}
