//! A network relay for tests: connections lead through it to one target, or to several in turn, and can be cut, held,
//! silenced or slowed down.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// Only connections on which this word was sent can be silenced and have their answers kept.
    word: &'static [u8],
    /// Connections up to this number, counted from 1, are silent.
    silent: watch::Sender<u64>,
    opened: AtomicU64,
    /// Raised to cut all present connections.
    cuts: watch::Sender<u64>,
    held: watch::Sender<bool>,
    /// Whether answers on connections with the word are kept back.
    keeps: watch::Sender<bool>,
    /// The answers kept back at present, the first of each connection.
    recorded: Mutex<Vec<u8>>,
    /// The targets of new connections, in turn.
    targets: Mutex<Vec<SocketAddr>>,
    /// The rate of bytes towards clients, on all connections together, per second. 0: no limit.
    rate: AtomicU64,
    /// When the last permitted byte has passed.
    passed: Mutex<Instant>,
}

impl Shared {
    /// Waits until the rate permits these bytes.
    async fn carry(&self, bytes: usize) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let until = {
            let mut passed = self.passed.lock();
            *passed = (*passed).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / rate as f64);
            *passed
        };
        tokio::time::sleep_until(until).await;
    }
}

impl Relay {
    /// Starts a relay to `target`. Only connections on which `word` was sent can be silenced.
    pub async fn start(target: SocketAddr, word: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            word,
            silent: watch::channel(0).0,
            opened: AtomicU64::new(0),
            cuts: watch::channel(0).0,
            held: watch::channel(false).0,
            keeps: watch::channel(false).0,
            recorded: Mutex::default(),
            targets: Mutex::new(vec![target]),
            rate: AtomicU64::new(0),
            passed: Mutex::new(Instant::now()),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, shared.clone()));
        Self { address, shared, _tasks: tasks }
    }

    /// Starts a relay to a port of this machine.
    pub async fn to(port: u16) -> Self {
        Self::start((Ipv4Addr::LOCALHOST, port).into(), b"\r\n").await
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Sets the targets of new connections, in turn. Present connections stay.
    pub fn lead_to(&self, targets: &[SocketAddr]) {
        *self.shared.targets.lock() = targets.to_vec();
    }

    /// Sets a port of this machine as the target of new connections.
    pub fn point(&self, port: u16) {
        self.lead_to(&[(Ipv4Addr::LOCALHOST, port).into()]);
    }

    /// Cuts all present connections.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Holds all bytes, in both directions, until [`Relay::release`]. Neither end notices.
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    pub fn release(&self) {
        self.shared.held.send_replace(false);
        self.shared.recorded.lock().clear();
        self.shared.keeps.send_replace(false);
    }

    /// Keeps back answers on connections with the word, until [`Relay::release`]. Requests pass.
    pub fn keep_answers(&self) {
        self.shared.keeps.send_replace(true);
    }

    /// Whether an answer that contains these bytes is kept back.
    pub fn keeps(&self, part: &[u8]) -> bool {
        self.shared.recorded.lock().windows(part.len()).any(|window| window == part)
    }

    /// Limits the bytes towards clients to this rate.
    pub fn slow_down(&self, bytes_per_second: u64) {
        self.shared.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Silences the present connections for good, in both directions. Neither end notices.
    pub fn silence(&self) {
        self.shared.silent.send_replace(self.shared.opened.load(Ordering::SeqCst));
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut pairs = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        while pairs.try_join_next().is_some() {}
        let number = shared.opened.fetch_add(1, Ordering::SeqCst) + 1;
        let target = {
            let targets = shared.targets.lock();
            targets[number as usize % targets.len()]
        };
        let Ok(far) = TcpStream::connect(target).await else { continue };
        let (near, far) = (near.into_split(), far.into_split());
        let (said, heard) = watch::channel(false);
        let said = Arc::new(said);
        let there = pass(near.0, far.1, number, shared.clone(), Some(said.clone()), heard.clone());
        let back = pass(far.0, near.1, number, shared.clone(), None, heard);
        pairs.spawn(until_cut(shared.cuts.subscribe(), there));
        pairs.spawn(until_cut(shared.cuts.subscribe(), back));
    }
}

async fn until_cut(mut cuts: watch::Receiver<u64>, passing: impl Future<Output = ()>) {
    tokio::select! {
        () = passing => {}
        _ = cuts.changed() => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    shared: Arc<Shared>,
    said: Option<Arc<watch::Sender<bool>>>,
    heard: watch::Receiver<bool>,
) {
    let (mut silent, mut held) = (shared.silent.subscribe(), shared.held.subscribe());
    let mut keeps = shared.keeps.subscribe();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let is_silent = |silenced: u64| silenced >= number && *heard.borrow();
        let length = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(length) => length,
            },
            _ = silent.changed() => 0,
        };
        if is_silent(*silent.borrow_and_update()) {
            // Keeps both sockets open.
            std::future::pending::<()>().await;
        }
        let bytes = &buffer[..length];
        if let Some(said) = &said
            && bytes.windows(shared.word.len()).any(|window| window == shared.word)
        {
            said.send_replace(true);
        }
        if said.is_none() {
            if *heard.borrow() && *keeps.borrow() {
                shared.recorded.lock().extend_from_slice(bytes);
            }
            if *heard.borrow() && keeps.wait_for(|keeps| !keeps).await.is_err() {
                return;
            }
            shared.carry(bytes.len()).await;
        }
        if held.wait_for(|held| !held).await.is_err() || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
