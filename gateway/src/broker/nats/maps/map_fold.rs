//! The state that a channel's log results in: its keys, the changes that are kept, and the idempotency keys that were used.

use bytes::{Bytes, BytesMut};
use gateway_core::history::HistoryFilter;
use gateway_core::map::{KeyEntry, MapState};
use gateway_core::stream::Stream;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::Publication;
use shared::record::{decode_record, encode_record};

use super::map_message::{ChangesMessage, MapHead, MapMessageError, MapRow};
use super::once_keys::{OnceKeys, UsedKey};
use crate::broker::Version;

/// All retained changes of a stream.
const WHOLE: HistoryFilter =
    HistoryFilter { since: None, limit: u32::MAX, reverse: false, enough_bytes: None };

/// The state of a channel. Times are in milliseconds since 1970, by the server's clock.
#[derive(Debug)]
pub(super) struct MapFold {
    pub(super) state: MapState,
    pub(super) stream: Stream,
    /// The version of the last publication without a key that had one.
    pub(super) version: Option<Version>,
    pub(super) once: OnceKeys,
    /// When the last message was written.
    pub(super) time: u64,
    /// Whether messages before the last one are missing from the log.
    has_hole: bool,
    /// The most bytes of the stream: past it the oldest changes are dropped.
    stream_bytes_max: usize,
}

impl MapFold {
    pub(super) fn new(position: StreamPosition, stream_bytes_max: usize) -> Self {
        Self {
            state: MapState::default(),
            stream: Stream::going_on_from(position),
            version: None,
            once: OnceKeys::default(),
            time: 0,
            has_hole: false,
            stream_bytes_max,
        }
    }

    pub(super) fn position(&self) -> StreamPosition {
        self.stream.position()
    }

    pub(super) fn bytes(&self) -> usize {
        self.state.bytes() + self.stream.bytes() + self.once.bytes()
    }

    pub(super) fn head(&self) -> MapHead {
        MapHead { top: self.position(), next_expiry: self.state.next_expiry().map_or(0, |at| at.0.max(1)) }
    }

    /// Returns all that it holds in words, without idempotency keys that have expired when the last message was written.
    pub(super) fn lines(&self) -> Vec<String> {
        let retained = self.stream.page(WHOLE).publications;
        let ends = (!retained.is_empty()).then(|| self.stream.expires());
        let mut lines = vec![format!("{:?} {ends:?} {:?}", self.position(), self.version)];
        lines.extend(retained.iter().map(|one| format!("{} {:?}", one.offset(), record(one))));
        lines.extend(self.state.entries().map(|(key, entry)| {
            let KeyEntry { publication, score, expires, version } = entry;
            let offset = publication.offset();
            format!("{key} {offset} {score} {expires:?} {version:?} {:?}", record(publication))
        }));
        let used = self.once.iter().filter(|(_, used)| used.until > self.time);
        lines.extend(used.map(|used| format!("{used:?}")));
        lines
    }

    /// Appends a change to the stream, as the channel's retention says.
    pub(super) fn append(
        &mut self,
        mut publication: Publication,
        retention: gateway_core::history::Retention,
        now: u64,
    ) {
        if let Some(keyed) = &mut publication.keyed {
            keyed.before = None;
        }
        if retention.keeps_history() {
            self.stream.append(Moment(now), &mut publication, retention, self.stream_bytes_max);
        } else {
            self.stream.pass(&mut publication);
        }
    }

    /// Goes on behind missing messages, if there are any before this one. What is retained of the stream is dropped.
    /// Returns whether there are.
    pub(super) fn skip_missing(&mut self, next: &ChangesMessage) -> bool {
        let at = StreamPosition { offset: next.before(), ..next.head.top };
        let is_missing = at.epoch == self.position().epoch && at.offset > self.position().offset;
        if is_missing {
            self.stream = Stream::going_on_from(at);
            self.has_hole = true;
        }
        is_missing
    }

    /// Takes in the next message of the log. After an error the fold must not be used.
    pub(super) fn take_in(&mut self, message: &ChangesMessage, written: u64) -> Result<(), MapMessageError> {
        let at = self.position();
        if message.head.top.epoch != at.epoch || message.before() != at.offset {
            return Err(MapMessageError::Gap);
        }
        self.time = self.time.max(written);
        // The times in it are by the writer's clock: they are moved to the server's.
        let shift = |moment: u64| written.saturating_add(moment).saturating_sub(message.at).max(1);
        let publications = message.publications().map(|one| one.map(owned)).collect::<Result<Vec<_>, _>>()?;
        for publication in &publications {
            self.append(publication.clone(), message.retention, written);
        }
        self.version.clone_from(&message.version);
        for row in &message.rows {
            match row {
                MapRow::Gone(key) => self.state.replace(key, None),
                MapRow::Held { entry, expires, version } => {
                    let entry = usize::try_from(*entry).ok().and_then(|entry| publications.get(entry));
                    let publication = entry.cloned().ok_or(MapMessageError::Number)?;
                    self.hold(publication, expires.map(shift), version.clone())?;
                }
                MapRow::Lives(key, expires) => {
                    let expires = expires.map(|at| Moment(shift(at)));
                    match self.state.get(key).cloned() {
                        Some(entry) => self.state.replace(key, Some(KeyEntry { expires, ..entry })),
                        // The message that set it is missing.
                        None if self.has_hole => {}
                        None => return Err(MapMessageError::Gap),
                    }
                }
                MapRow::Once { digest, position, until } => {
                    let used = UsedKey { position: *position, until: shift(*until) };
                    self.once.remember(*digest, used, written);
                }
                _ => return Err(MapMessageError::Unknown),
            }
        }
        Ok(())
    }

    fn hold(
        &mut self,
        mut publication: Publication,
        expires: Option<u64>,
        version: Option<Version>,
    ) -> Result<(), MapMessageError> {
        let keyed = publication.keyed.as_mut().ok_or(MapMessageError::Number)?;
        keyed.before = None;
        let (key, score) = (keyed.key.clone(), keyed.score);
        let (expires, version) = (expires.map(Moment), version.map(Box::new));
        self.state.replace(&key, Some(KeyEntry { publication, score, expires, version }));
        Ok(())
    }

    /// Returns the same state in another epoch, at the same offsets.
    pub(super) fn in_epoch(&self, epoch: Epoch) -> Result<Self, MapMessageError> {
        let mut renewed = Self::new(StreamPosition::default(), self.stream_bytes_max);
        renewed.time = self.time;
        for rows in self.write_down_in(epoch, usize::MAX) {
            renewed.put_back(rows)?;
        }
        Ok(renewed)
    }

    /// Returns the same state without retained changes. Offsets go on.
    pub(super) fn without_history(&self) -> Result<Self, MapMessageError> {
        let mut left = self.in_epoch(self.position().epoch)?;
        left.stream.clear();
        Ok(left)
    }

    /// Returns all of it as rows, in chunks of about this many bytes.
    pub(super) fn write_down(&self, chunk_bytes: usize) -> Vec<Bytes> {
        self.write_down_in(self.position().epoch, chunk_bytes)
    }

    fn write_down_in(&self, epoch: Epoch, chunk_bytes: usize) -> Vec<Bytes> {
        let mut writer = ChunkWriter { chunks: Vec::new(), chunk: BytesMut::new(), chunk_bytes };
        let retained = self.stream.page(WHOLE).publications;
        let offset = self.position().offset - retained.len() as u64;
        writer.add(&MapRow::Begins {
            position: StreamPosition { offset, epoch },
            version: self.version.clone(),
            until: self.stream.expires().0,
        });
        for publication in &retained {
            writer.add(&MapRow::Past(record(publication)));
        }
        for (_, entry) in self.state.entries() {
            writer.add(&MapRow::Key {
                offset: entry.publication.offset(),
                expires: entry.expires.map(|at| at.0),
                version: entry.version.as_deref().cloned(),
                record: record(&entry.publication),
            });
        }
        for (digest, UsedKey { position, until }) in self.once.iter() {
            writer.add(&MapRow::Once { digest, position, until });
        }
        writer.chunks.push(writer.chunk.freeze());
        writer.chunks
    }

    /// Takes in rows that were written down. After an error the fold must not be used.
    pub(super) fn put_back(&mut self, mut rows: Bytes) -> Result<(), MapMessageError> {
        while let Some(row) = MapRow::next(&mut rows)? {
            match row {
                MapRow::Begins { position, version, until } => {
                    self.stream = Stream::going_on_from(position);
                    self.stream.keep_until(Moment(until));
                    self.version = version;
                }
                MapRow::Past(_) if self.position().offset == u64::MAX => return Err(MapMessageError::Number),
                MapRow::Past(record) => {
                    let mut publication = owned(decode_record(record)?);
                    let (until, everything) = (self.stream.expires(), everything());
                    // All retained changes expire together, at the time that was written down.
                    self.stream.append(Moment::ZERO, &mut publication, everything, self.stream_bytes_max);
                    self.stream.keep_until(until);
                }
                MapRow::Key { offset, expires, version, record } => {
                    let position = Some(StreamPosition { offset, ..self.position() });
                    let publication = Publication { position, ..owned(decode_record(record)?) };
                    self.hold(publication, expires, version)?;
                }
                MapRow::Once { digest, position, until } => {
                    self.once.remember(digest, UsedKey { position, until }, self.time);
                }
                MapRow::Done(written, message) => self.take_in(&ChangesMessage::decode(message)?, written)?,
                MapRow::Gone(_) | MapRow::Held { .. } | MapRow::Lives(..) => {
                    return Err(MapMessageError::Unknown);
                }
            }
        }
        Ok(())
    }
}

/// Returns a retention that keeps all: rows hold only changes that were still retained.
fn everything() -> gateway_core::history::Retention {
    gateway_core::history::Retention::new(u32::MAX, std::time::Duration::MAX)
}

/// Copies the bytes of a publication, which are a small part of a large message.
pub(super) fn owned(mut publication: Publication) -> Publication {
    let own = |bytes: &mut Bytes| *bytes = Bytes::copy_from_slice(bytes);
    own(&mut publication.data.bytes);
    if let Some(info) = &mut publication.info {
        info.conn_info.iter_mut().chain(&mut info.chan_info).for_each(own);
    }
    publication
}

pub(super) fn record(publication: &Publication) -> Bytes {
    let mut record = BytesMut::with_capacity(publication.data.bytes.len() + 32);
    encode_record(publication, &mut record);
    record.freeze()
}

struct ChunkWriter {
    chunks: Vec<Bytes>,
    chunk: BytesMut,
    chunk_bytes: usize,
}

impl ChunkWriter {
    fn add(&mut self, row: &MapRow) {
        let before = self.chunk.len();
        row.encode(&mut self.chunk);
        if before > 0 && self.chunk.len() > self.chunk_bytes {
            let last = self.chunk.split_off(before);
            self.chunks.push(std::mem::replace(&mut self.chunk, last).freeze());
        }
    }
}
