//! The fan-out to subscribers that are sent newest values. A client whose connection takes them is sent the shared frames,
//! like other subscribers. For other clients the values wait where newer ones can replace them.

use std::io;
use std::sync::Arc;

use gateway_core::hub::{Bundles, Prepared, Subscriber, Writable};
use gateway_core::newest::{LaneFull, LanePut};

use crate::telemetry::labels::Drop;
use crate::transport::direct;
use crate::worker::ClientFlags;
use crate::worker::sweep::{AfterSweep, WorkerSweep};

impl WorkerSweep<'_> {
    pub(super) fn deliver_newest(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        let excludes_anyone = bundles.excludes_anyone();
        for subscriber in subscribers {
            let done = if excludes_anyone { 0 } else { self.send_newest(subscriber, bundles) };
            for prepared in bundles.publications().iter().skip(done) {
                let is_excluded = excludes_anyone && !self.audience(prepared).includes(self, subscriber);
                if !is_excluded && !self.have_wait(subscriber, prepared) {
                    break;
                }
            }
        }
    }

    /// Sends as much as the connection takes at once. Returns the number of values dealt with.
    fn send_newest(&mut self, subscriber: &Subscriber, bundles: &mut Bundles) -> usize {
        let key = subscriber.key as usize;
        let ClientFlags { direct: Some(_), waiting: false, lanes: false, .. } = &self.flags[key] else {
            return 0;
        };
        let count = bundles.publications().len();
        let bundle = bundles.get(subscriber.variant);
        if bundle.end.is_some() {
            return 0;
        }
        let mut done = 0;
        for (at, frames) in bundle.writes.iter().enumerate() {
            let Some(direct) = &self.flags[key].direct else { break };
            match direct::send(direct, frames) {
                Ok(sent) => {
                    self.tally.bytes_out += sent as u64;
                    done = bundle.reach.get(at).map_or(count, |&reach| reach as usize);
                    if sent < frames.len() {
                        self.shared_frames.note(frames);
                        self.queue_rest(subscriber.key, frames.slice(sent..));
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.list(subscriber.key);
                    break;
                }
                Err(error) => {
                    self.begin_closing(AfterSweep::Failed(subscriber.key, error), subscriber.key);
                    return count;
                }
            }
        }
        if bundle.writes.is_empty() {
            // The protocol has no message for any of them.
            done = count;
        }
        self.tally.deliveries += done as u64;
        done
    }

    /// Queues a value in the client's lanes, or another event in its outbox. Returns whether the client takes more.
    fn have_wait(&mut self, subscriber: &Subscriber, prepared: &Arc<Prepared>) -> bool {
        let key = subscriber.key;
        if self.flags[key as usize].closing {
            return false;
        }
        if prepared.publication().is_none() {
            return match prepared.writable(subscriber.variant) {
                Writable::Frame(frame) => self.queue(key, frame.clone()),
                Writable::Nothing => true,
                Writable::Close(disconnect) => {
                    self.begin_closing(AfterSweep::Close(key, disconnect.clone()), key);
                    false
                }
                Writable::Broken => {
                    self.metrics.dropped(Drop::Quarantined, 1);
                    true
                }
            };
        }
        let client = &mut self.clients[key as usize];
        match client.put_newest(prepared.clone(), self.outbox_bytes_max) {
            Ok(put) => {
                self.tally.superseded += u64::from(put == LanePut::Instead);
                self.flags[key as usize].lanes = true;
                if !self.flags[key as usize].waiting {
                    self.list(key);
                }
                true
            }
            Err(LaneFull) => {
                self.after_sweep.push(AfterSweep::Full(key, prepared.channel().clone()));
                false
            }
        }
    }
}
