//! Sends publications without history, and answers them when the server has them.

use std::sync::Weak;

use gateway_core::map::ChangedKey;
use tokio::time::Instant;

use super::NatsBroker;
use super::lanes::UnkeptQueue;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;

/// The most messages that are answered together.
const PASSING_MAX: usize = 512;

/// Sends publications without history in the order of the calls, until the broker ends.
pub(super) async fn send_passing(broker: Weak<NatsBroker>, mut outlet: UnkeptQueue) {
    let mut batch = Vec::with_capacity(PASSING_MAX);
    while outlet.passing.recv_many(&mut batch, PASSING_MAX).await > 0 {
        let Some(broker) = broker.upgrade() else { return };
        let began = Instant::now();
        let mut answered = Vec::with_capacity(batch.len());
        let count = batch.len() as u64;
        for mut one in batch.drain(..) {
            let sent = if Instant::now() >= one.deadline {
                Err(BrokerError::Timeout(broker.timeout))
            } else {
                let (subject, message) = (std::mem::take(&mut one.subject), std::mem::take(&mut one.message));
                broker.link.send(subject, message).await
            };
            match sent {
                Ok(()) => answered.push(one),
                // The caller may have given up.
                Err(error) => drop(one.reply.send(Err(error))),
            }
        }
        outlet.sent.send_modify(|sent| *sent += count);
        let returning = broker.link.round_trip().await;
        tokio::spawn(async move {
            let returned = match returning {
                Ok(returning) => returning.wait().await,
                Err(error) => Err(error),
            };
            if returned.is_ok() {
                broker.metrics.observe_round_trip(Operation::Publish, began.elapsed());
                let publications = answered.iter().filter(|one| one.is_publication).count();
                broker.metrics.published.add(publications as u64);
            }
            for one in answered {
                let answer = match &returned {
                    Ok(()) => Ok(ChangedKey::default()),
                    // The publication was sent all the same.
                    Err(error) => Err(BrokerError::Unanswered(error.to_string().into())),
                };
                // The caller may have given up.
                let _ = one.reply.send(answer);
            }
        });
    }
}
