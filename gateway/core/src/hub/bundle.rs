//! Several publications of one channel as few writes: what a worker with a backlog sends.
//!
//! The bytes are made once for all subscribers of a variant. Where the protocol has something to put between
//! messages they travel as one, which also deflates to a third of what each of them would by itself.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use shared::disconnect::Disconnect;
use shared::framing::MessageKind;
use smallvec::SmallVec;

use super::prepared::{Prepared, Writable};
use super::variants::Variant;

/// Publications that travel in one message. Client libraries are tried with this many by other gateways.
pub const BUNDLED_MESSAGES_MAX: usize = 16;
/// Bytes of one write, if it holds more than one publication.
pub const BUNDLED_BYTES_MAX: usize = 64 << 10;

/// What to write to the subscribers of one variant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bundle {
    /// Whole frames, in order: one write each.
    pub writes: SmallVec<[Bytes; 1]>,
    /// What keeps the rest from being written.
    pub end: Option<End>,
    /// How many publications are in the writes.
    pub publications: u32,
}

/// Why a bundle holds fewer publications than there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// The protocol can say what comes next only by closing.
    Close(Disconnect),
    /// What comes next cannot be encoded. Whoever was to have every publication is to be told; the others may have what
    /// comes after it.
    Broken(Box<Bundle>),
}

/// The bundles of the same publications for each variant, made when first asked for.
#[derive(Debug)]
pub struct Bundles {
    publications: SmallVec<[Arc<Prepared>; 1]>,
    made: SmallVec<[(Variant, Bundle); 2]>,
    /// The one asked for last.
    last: usize,
}

impl Bundles {
    pub fn new(publications: &[Arc<Prepared>]) -> Self {
        Self { publications: publications.into(), made: SmallVec::new(), last: 0 }
    }

    pub fn publications(&self) -> &[Arc<Prepared>] {
        &self.publications
    }

    /// Neighbours in a list mostly take the same variant, so the last answer is looked at first.
    #[inline]
    pub fn get(&mut self, variant: Variant) -> &Bundle {
        if self.made.get(self.last).is_none_or(|(of, _)| *of != variant) {
            self.find(variant);
        }
        &self.made[self.last].1
    }

    fn find(&mut self, variant: Variant) {
        let found = self.made.iter().position(|(of, _)| *of == variant);
        self.last = found.unwrap_or_else(|| {
            self.made.push((variant, Bundle::of(&self.publications, variant)));
            self.made.len() - 1
        });
    }
}

impl Bundle {
    fn of(publications: &[Arc<Prepared>], variant: Variant) -> Self {
        let mut bundle = Self::default();
        if let [only] = publications {
            bundle.add(only, &[], variant);
            return bundle;
        }
        let mut rest = publications;
        while let Some(first) = rest.first().filter(|_| bundle.end.is_none()) {
            let joined = joinable(rest, variant);
            if joined > 1
                && let Some(frame) = first.join(&rest[..joined], variant)
            {
                bundle.writes.push(frame);
                bundle.publications += joined as u32;
                rest = &rest[joined..];
            } else {
                rest = &rest[1..];
                bundle.add(first, rest, variant);
            }
        }
        bundle.gather();
        bundle
    }

    /// What comes after this one only matters where the bundle ends with it.
    fn add(&mut self, prepared: &Prepared, after: &[Arc<Prepared>], variant: Variant) {
        match prepared.writable(variant) {
            Writable::Nothing => {}
            Writable::Close(disconnect) => self.end = Some(End::Close(disconnect.clone())),
            Writable::Broken => self.end = Some(End::Broken(Box::new(Self::of(after, variant)))),
            Writable::Frame(frame) => {
                self.writes.push(frame.clone());
                self.publications += 1;
            }
        }
    }

    /// Puts small writes that follow each other together.
    fn gather(&mut self) {
        let mut gathered: SmallVec<[Bytes; 1]> = SmallVec::new();
        let mut frames = std::mem::take(&mut self.writes).into_iter().peekable();
        while let Some(first) = frames.next() {
            let mut together = BytesMut::new();
            while let Some(next) =
                frames.next_if(|next| first.len().max(together.len()) + next.len() <= BUNDLED_BYTES_MAX)
            {
                if together.is_empty() {
                    together.extend_from_slice(&first);
                }
                together.extend_from_slice(&next);
            }
            gathered.push(if together.is_empty() { first } else { together.freeze() });
        }
        self.writes = gathered;
    }
}

/// How many of the first publications can travel as one message.
fn joinable(publications: &[Arc<Prepared>], variant: Variant) -> usize {
    let mut kind: Option<MessageKind> = None;
    let mut bytes = 0;
    let fits = |prepared: &&Arc<Prepared>| {
        let Some((of, message)) = prepared.message(variant) else { return false };
        bytes += message.len();
        bytes <= BUNDLED_BYTES_MAX && *kind.get_or_insert(of) == of
    };
    publications.iter().take(BUNDLED_MESSAGES_MAX).take_while(fits).count()
}
