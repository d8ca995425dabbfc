//! The fan-out: publications of one channel to all its subscribers on this worker.
//!
//! For a subscriber with nothing waiting this is one `send` of bytes that all share. Nothing else of the
//! connection is touched; nothing is copied, encoded, allocated or locked for it.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gateway_core::hub::{Prepared, Sink, Subscriber, Variant, Writable};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use slab::Slab;
use smallvec::SmallVec;

use crate::connection::Connection;
use crate::transport::direct;
use crate::worker::{Flags, Tally};

/// What a sweep may touch of a worker.
#[derive(Debug)]
pub(super) struct Sweep<'w> {
    pub(super) connections: &'w mut Slab<Connection>,
    pub(super) flags: &'w mut [Flags],
    pub(super) unwritten: &'w mut Vec<u32>,
    pub(super) tally: &'w mut Tally,
    pub(super) outbox_bytes_max: usize,
    pub(super) aftermath: &'w mut Vec<Aftermath>,
}

/// What a sweep found that can only be dealt with after it.
#[derive(Debug)]
pub(super) enum Aftermath {
    /// Its outbox ran over.
    Overflown(u32),
    Failed(u32, io::Error),
    /// It missed something that cannot be had any more.
    Insufficient(u32, Channel),
    /// Its protocol can say what happened only by closing.
    Close(u32, Disconnect),
}

/// What all subscribers of one variant are sent.
#[derive(Debug)]
enum Batch {
    Frames(Bytes),
    Nothing,
    Close(Disconnect),
}

impl Sink for Sweep<'_> {
    fn deliver(&mut self, subscribers: &[Subscriber], publications: &[Arc<Prepared>]) {
        // A handful of variants at most, so a scan beats a map.
        let mut batches: SmallVec<[(Variant, Batch); 4]> = SmallVec::new();
        for subscriber in subscribers {
            let at = match batches.iter().position(|(variant, _)| *variant == subscriber.variant) {
                Some(at) => at,
                None => {
                    batches.push((subscriber.variant, batch(subscriber.variant, publications)));
                    batches.len() - 1
                }
            };
            match &batches[at].1 {
                Batch::Frames(frames) => self.send(subscriber, frames, publications.len() as u64),
                Batch::Nothing => {}
                Batch::Close(disconnect) => {
                    self.aftermath.push(Aftermath::Close(subscriber.key, disconnect.clone()))
                }
            }
        }
    }

    fn insufficient(&mut self, key: u32, channel: &Channel) {
        self.aftermath.push(Aftermath::Insufficient(key, channel.clone()));
    }
}

impl Sweep<'_> {
    #[inline]
    fn send(&mut self, subscriber: &Subscriber, frames: &Bytes, publications: u64) {
        if subscriber.handle < 0 || self.flags[subscriber.key as usize].waiting {
            self.queue(subscriber.key, frames.clone(), publications);
            return;
        }
        match direct::send(subscriber.handle, frames) {
            Ok(count) => {
                self.tally.deliveries += publications;
                self.tally.bytes_out += count as u64;
                if count < frames.len() {
                    self.queue_rest(subscriber.key, frames.slice(count..));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.queue(subscriber.key, frames.clone(), publications);
            }
            Err(error) => self.aftermath.push(Aftermath::Failed(subscriber.key, error)),
        }
    }

    #[cold]
    fn queue(&mut self, key: u32, frames: Bytes, publications: u64) {
        match self.connections[key as usize].outbox.push(frames, self.outbox_bytes_max) {
            Ok(()) => {
                self.tally.deliveries += publications;
                self.list(key);
            }
            Err(_) => self.aftermath.push(Aftermath::Overflown(key)),
        }
    }

    #[cold]
    fn queue_rest(&mut self, key: u32, rest: Bytes) {
        self.connections[key as usize].outbox.push_rest(rest);
        self.list(key);
    }

    /// Has the connection written to when the turn ends, which also starts its write deadline.
    fn list(&mut self, key: u32) {
        let flags = &mut self.flags[key as usize];
        flags.waiting = true;
        if !flags.listed {
            flags.listed = true;
            self.unwritten.push(key);
        }
    }
}

/// The frames of all these publications in one run of bytes, so that each subscriber costs one write.
fn batch(variant: Variant, publications: &[Arc<Prepared>]) -> Batch {
    let mut joined = BytesMut::new();
    let mut single = None;
    for publication in publications {
        match publication.writable(variant) {
            Writable::Frame(frame) if publications.len() == 1 => single = Some(frame.clone()),
            Writable::Frame(frame) => joined.extend_from_slice(frame),
            Writable::Nothing => {}
            Writable::Close(disconnect) => return Batch::Close(disconnect.clone()),
        }
    }
    match single {
        Some(frame) => Batch::Frames(frame),
        None if joined.is_empty() => Batch::Nothing,
        None => Batch::Frames(joined.freeze()),
    }
}
