//! Checks that presence can be stored, by trying its commands on keys of no client.

use std::time::Duration;

use redis::Cmd;
use shared::id::{ClientId, UserId};

use super::flush::{WRITE, fill_write, millis};
use super::local::PresenceWrite;
use super::read_presence::{ask, read_leases};
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::redis::redis_link::OpenLink;
use crate::broker::redis::{RedisBroker, is_for_want_of_a_right};

/// How long the keys of a probe are kept.
const TRACES_TTL: Duration = Duration::from_secs(30);

/// The name of a node that does not exist.
const NAME: &str = "trial";

/// Probes one part of the broker.
pub(super) async fn try_out(broker: &RedisBroker, part: usize) -> Result<(), BrokerError> {
    let done = write_and_read(broker, part).await;
    if done.as_ref().is_err_and(is_for_want_of_a_right) {
        broker.look_at_rights(part).await?;
    }
    done
}

async fn write_and_read(broker: &RedisBroker, part: usize) -> Result<(), BrokerError> {
    let Some((keys, channel)) = broker.trial(part) else { return Ok(()) };
    read_leases(broker, "", Duration::ZERO, "").await?;
    let write = PresenceWrite {
        channel: channel.clone(),
        whole: true,
        set: vec![(ClientId::from_bits(0), "".into())],
        removed: Vec::new(),
        users_set: vec![UserId::new(NAME)],
        users_removed: Vec::new(),
        waiters: Vec::new(),
    };
    let key = keys.present(&channel);
    let fill = |command: &mut Cmd, _: &OpenLink| fill_write(command, &write, &key, NAME, millis(TRACES_TTL));
    broker.link().eval(Operation::PresenceWrite, &WRITE, &key, fill).await?;
    let live = [NAME.as_bytes().to_vec()];
    for what in ["clients", "stats"] {
        ask(broker, &key, what, &live, Some(&[])).await?;
    }
    Ok(())
}
