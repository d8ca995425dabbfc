//! One process's share of the connections: a plain run that connects and listens, and whose parent publishes.

use std::io::{self, Read, Write};
use std::sync::Arc;

use clap::Args;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::clock::now_ns;
use crate::lane::{self, HANDOVERS_MAX, Handover};
use crate::plan::Plan;
use crate::subscriber::{Books, Reach, Shared};

#[derive(Args, Clone, Debug)]
pub struct HolderArguments {
    /// The number that all publications of the run carry.
    #[arg(long)]
    pub run: u32,
}

/// How far a holder is: a line on its standard output, whenever it has changed.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HolderStatus {
    pub ready: u64,
    /// Attempts that failed; each is made again.
    pub failed: u64,
    /// Connections that were ready and are lost.
    pub gone: u64,
    /// Of the publication that came last.
    pub reach: Reach,
}

/// Holds the planned connections until standard input ends, so that it cannot outlive whoever started it.
pub async fn hold(plan: Plan) -> io::Result<()> {
    std::thread::Builder::new().name("end".to_owned()).spawn(|| {
        // Whatever is read: the end is what counts.
        let mut bytes = [0; 64];
        while io::stdin().read(&mut bytes).is_ok_and(|length| length > 0) {}
        std::process::exit(0);
    })?;
    let shared = Arc::new(Shared::new(plan));
    let (collector, mut handovers) = mpsc::channel(HANDOVERS_MAX);
    let start_ns = now_ns();
    let _lanes = (0..shared.plan.threads)
        .map(|number| lane::start(shared.clone(), number, start_ns, collector.clone()))
        .collect::<io::Result<Vec<_>>>()?;
    let (mut books, mut told) = (Books::default(), HolderStatus::default());
    while let Some(handover) = handovers.recv().await {
        let Handover::Received(received) = handover else { continue };
        books.absorb(*received);
        let status = HolderStatus {
            ready: books.tally.ready.saturating_sub(books.tally.ended),
            failed: books.tally.failures.total(),
            gone: books.tally.ended,
            reach: books.reach,
        };
        if status != told {
            told = status;
            let mut line = serde_json::to_vec(&status)?;
            line.push(b'\n');
            let mut out = io::stdout().lock();
            out.write_all(&line)?;
            out.flush()?;
        }
    }
    Ok(())
}
