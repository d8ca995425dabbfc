//! A stretch of network whose far end can be changed, cut and held: a balancer, a name, or the way to a replica.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Debug)]
pub struct Switch {
    port: u16,
    target: watch::Sender<u16>,
    /// Raised to end every connection there is.
    cuts: watch::Sender<u64>,
    held: watch::Sender<bool>,
    _accepting: JoinSet<()>,
}

impl Switch {
    /// To a port of this machine.
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (target, cuts, held) =
            (watch::Sender::new(target), watch::Sender::new(0), watch::Sender::new(false));
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, target.subscribe(), cuts.subscribe(), held.subscribe()));
        Self { port, target, cuts, held, _accepting: accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where connections go from now on. Those there are stay where they are.
    pub fn point(&self, target: u16) {
        self.target.send_replace(target);
    }

    /// Ends every connection there is.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Nothing passes, either way, until [`Switch::release`]. Neither end is told.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    pub fn release(&self) {
        self.held.send_replace(false);
    }
}

async fn accept(
    listener: TcpListener,
    target: watch::Receiver<u16>,
    cuts: watch::Receiver<u64>,
    held: watch::Receiver<bool>,
) {
    let mut pairs = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while pairs.try_join_next().is_some() {}
        let far = SocketAddr::from((Ipv4Addr::LOCALHOST, *target.borrow()));
        let (mut cuts, held) = (cuts.clone(), held.clone());
        cuts.mark_unchanged();
        pairs.spawn(async move {
            let Ok(far) = TcpStream::connect(far).await else { return };
            let (near, far) = (near.into_split(), far.into_split());
            tokio::select! {
                () = pass(near.0, far.1, held.clone()) => {}
                () = pass(far.0, near.1, held) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

/// Passes on what comes until either end is gone.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut held: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if held.wait_for(|held| !held).await.is_err() {
            return;
        }
        match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if held.wait_for(|held| !held).await.is_err()
                    || to.write_all(&buffer[..length]).await.is_err()
                {
                    return;
                }
            }
        }
    }
}
