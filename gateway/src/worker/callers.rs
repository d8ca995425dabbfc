//! Kept connections of application servers that publish a lot: read and answered on the workers.
//!
//! A publication that arrives on a worker goes out to that worker's subscribers in the same turn, without a task, a
//! contended lock, or another thread to wake. A caller stays here as long as it sends nothing but plain publications. A
//! caller that sends anything else, or is quiet for a while, goes back to the HTTP server with all bytes that were read.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use shared::moment::Moment;
use slab::Slab;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::admission::Peer;
use crate::bodies::BodyPermit;
use crate::telemetry::labels::PanicSite;
use crate::worker::Worker;
use crate::worker::inbox::WorkerEvent;
use crate::worker::read_call::{CALL_BYTES_MAX, ParsedCall, read_call, write_answer};

/// The poll tokens of callers begin here. Those of clients are below.
pub(super) const CALLERS: usize = 1 << 40;

/// The most requests, and reads, of one caller in one turn.
const TURN_MAX: usize = 16;

/// A caller that is quiet for this long is handed back to the HTTP server.
const QUIET: Duration = Duration::from_secs(5);

/// How often quiet callers are looked for.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The HTTP server from which callers come, and to which they go back.
pub(crate) trait CallerHost: Send + Sync + fmt::Debug {
    /// Answers a request. What can be done without waiting is done when the future is first polled.
    fn answer(&self, request: Request<Full<Bytes>>) -> BoxFuture<'static, Response<Full<Bytes>>>;

    /// Serves the connection from now on. `read` was read from it and has not been answered.
    fn take_back(self: Arc<Self>, socket: TcpStream, read: Bytes, peer: Peer);

    /// Whether every answer has to be the last on its connection.
    fn is_leaving(&self) -> bool;
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct NewCaller {
    pub(crate) socket: TcpStream,
    pub(crate) read: Bytes,
    pub(crate) peer: Peer,
    pub(crate) host: Arc<dyn CallerHost>,
    /// Counts the caller among the HTTP connections.
    pub(crate) counted: TaskTrackerToken,
}

/// Identifies a caller of one worker; never reused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CallerKey {
    index: usize,
    number: u64,
}

#[derive(Debug)]
struct CallerConnection {
    socket: mio::net::TcpStream,
    key: CallerKey,
    peer: Peer,
    host: Arc<dyn CallerHost>,
    /// Bytes read that do not form a whole request yet.
    unanswered: Vec<u8>,
    /// The memory reserved for a request of which more bytes are expected.
    room: BodyPermit,
    /// Bytes of answers that the socket has not taken.
    unsent: Vec<u8>,
    /// Whether nothing is left to read until the poll reports more.
    drained: bool,
    /// Whether the peer has ended its side, which the poll reports once.
    hung_up: bool,
    /// Whether a request is being answered by a task. Nothing is read until it is.
    waits: bool,
    /// Whether the peer sends no more bytes.
    ended: bool,
    /// Whether no request after this one is answered.
    is_last: bool,
    /// Whether the caller is listed in `Callers::unread`.
    is_unread: bool,
    /// When a request was last answered or begun. More bytes of a request do not count: a slow request is handed back to the
    /// HTTP server, which has a deadline for it.
    moved: Moment,
    counted: TaskTrackerToken,
}

/// The callers of one worker.
#[derive(Debug, Default)]
pub(super) struct Callers {
    table: Slab<Box<CallerConnection>>,
    made: u64,
    /// Callers that may have more to read, without the poll reporting it.
    unread: Vec<usize>,
    looked: Moment,
    /// The current date as HTTP formats it, and the Unix second it is for.
    date: (u64, String),
}

/// What happens to a caller after its turn.
enum AfterCall {
    Stay,
    /// More may be left to read.
    ReadOn,
    /// The caller is handed back to the HTTP server.
    Back,
    Gone,
}

impl Callers {
    /// Returns how long until something is due here.
    pub(super) fn next_due(&self, now: Moment) -> Option<Duration> {
        if !self.unread.is_empty() {
            return Some(Duration::ZERO);
        }
        (!self.table.is_empty()).then(|| (self.looked + LOOK_INTERVAL).since(now))
    }

    fn date(&mut self) -> &str {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.date.0 != second || self.date.1.is_empty() {
            self.date = (second, httpdate::fmt_http_date(now));
        }
        &self.date.1
    }
}

impl Worker {
    pub(super) fn open_caller(&mut self, new: NewCaller) {
        let NewCaller { socket, read, peer, host, counted } = new;
        if self.drain.is_some() || host.is_leaving() {
            return host.take_back(socket, read, peer);
        }
        self.callers.made += 1;
        let entry = self.callers.table.vacant_entry();
        let key = CallerKey { index: entry.key(), number: self.callers.made };
        let mut socket = mio::net::TcpStream::from_std(socket);
        let interest = mio::Interest::READABLE | mio::Interest::WRITABLE;
        if let Err(error) =
            self.poll.registry().register(&mut socket, mio::Token(CALLERS + key.index), interest)
        {
            // The connection is dropped, as it would be if no other place could take it.
            return tracing::warn!(%error, "a connection of the server API cannot be polled");
        }
        entry.insert(Box::new(CallerConnection {
            socket,
            key,
            peer,
            host,
            unanswered: read.to_vec(),
            room: self.local.memory.bodies.room(),
            unsent: Vec::new(),
            drained: false,
            hung_up: false,
            waits: false,
            ended: false,
            is_last: false,
            is_unread: true,
            moved: self.local.now,
            counted,
        }));
        self.callers.unread.push(key.index);
        self.metrics.api.connections_on_workers.inc();
    }

    /// Serves a caller for which the poll reports an event.
    pub(super) fn handle_caller(&mut self, index: usize, hung_up: bool, buffer: &mut [u8]) {
        let Some(caller) = self.callers.table.get_mut(index) else { return };
        caller.drained = false;
        caller.hung_up |= hung_up;
        let then = if caller.send().is_err() { AfterCall::Gone } else { self.serve_caller(index, buffer) };
        self.settle_caller(index, then);
    }

    /// Continues with callers that had more to read than one turn's share.
    pub(super) fn serve_callers(&mut self, buffer: &mut [u8]) {
        for index in std::mem::take(&mut self.callers.unread) {
            if let Some(caller) = self.callers.table.get_mut(index) {
                caller.is_unread = false;
            }
            let then = self.serve_caller(index, buffer);
            self.settle_caller(index, then);
        }
    }

    /// Sends the answer to a request that a task has answered.
    pub(super) fn answer_caller(&mut self, key: CallerKey, answer: Response<Full<Bytes>>, buffer: &mut [u8]) {
        let is_there = self.callers.table.get(key.index).is_some_and(|caller| caller.key == key);
        if is_there {
            self.send_answer(key.index, answer);
            let then = self.serve_caller(key.index, buffer);
            self.settle_caller(key.index, then);
        }
    }

    /// Hands quiet callers back to the HTTP server, where waiting costs a worker nothing.
    pub(super) fn look_at_callers(&mut self) {
        if self.callers.table.is_empty() || self.callers.looked + LOOK_INTERVAL > self.local.now {
            return;
        }
        self.callers.looked = self.local.now;
        let (now, write_timeout) = (self.local.now, self.local.websocket.write_timeout());
        let quiet: Vec<(usize, AfterCall)> = self
            .callers
            .table
            .iter()
            .filter(|(_, caller)| !caller.waits && now.since(caller.moved) >= QUIET)
            .filter_map(|(index, caller)| match caller.unsent.is_empty() {
                true => Some((index, AfterCall::Back)),
                // The caller does not read its answers.
                false => (now.since(caller.moved) >= write_timeout).then_some((index, AfterCall::Gone)),
            })
            .collect();
        for (index, then) in quiet {
            self.settle_caller(index, then);
        }
    }

    /// Hands back all callers that are not being answered, because this node is about to stop. The others are not read any
    /// more.
    pub(super) fn hand_back_callers(&mut self) {
        let idle: Vec<usize> = self
            .callers
            .table
            .iter()
            .filter(|(_, caller)| !caller.waits && caller.unsent.is_empty())
            .map(|(index, _)| index)
            .collect();
        for index in idle {
            self.settle_caller(index, AfterCall::Back);
        }
    }

    /// Reads and answers a caller's requests, at most one turn's share.
    fn serve_caller(&mut self, index: usize, buffer: &mut [u8]) -> AfterCall {
        for _ in 0..TURN_MAX {
            let Some(caller) = self.callers.table.get_mut(index) else { return AfterCall::Stay };
            if caller.waits || !caller.unsent.is_empty() {
                return AfterCall::Stay;
            }
            if caller.is_last || caller.ended && caller.unanswered.is_empty() {
                return AfterCall::Gone;
            }
            if caller.host.is_leaving() && !caller.ended {
                return AfterCall::Back;
            }
            match read_call(&caller.unanswered) {
                ParsedCall::Whole(request, bytes) => {
                    caller.unanswered.drain(..bytes);
                    if caller.unanswered.is_empty() {
                        // A large request now and then is no reason to keep a large buffer.
                        caller.unanswered.shrink_to(IDLE_BYTES);
                    }
                    if caller.room.bytes() > 0 {
                        caller.room = self.local.memory.bodies.room();
                    }
                    if let Some(answer) = self.call(index, request) {
                        self.send_answer(index, answer);
                    }
                    continue;
                }
                ParsedCall::Other => return AfterCall::Back,
                // The request will never be complete.
                ParsedCall::Partial if caller.ended => return AfterCall::Gone,
                // If there is no memory for the request, the HTTP server reports that.
                ParsedCall::Partial if caller.drained => {
                    let fits = caller.room.resize(caller.unanswered.len());
                    return if fits { AfterCall::Stay } else { AfterCall::Back };
                }
                ParsedCall::Partial => {}
            }
            let room = buffer.len().min(CALL_BYTES_MAX);
            match caller.socket.read(&mut buffer[..room]) {
                Ok(0) => caller.ended = true,
                Ok(count) => {
                    if caller.unanswered.is_empty() {
                        caller.moved = self.local.now;
                    }
                    caller.unanswered.extend_from_slice(&buffer[..count]);
                    // A read that returns less than was asked for has emptied the socket (epoll(7)).
                    caller.drained = count < room && !caller.hung_up;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => caller.drained = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return AfterCall::Gone,
            }
        }
        AfterCall::ReadOn
    }

    /// Answers a request at once, or has a task answer it if there is something to wait for.
    fn call(&mut self, index: usize, request: Request<Full<Bytes>>) -> Option<Response<Full<Bytes>>> {
        let caller = self.callers.table.get_mut(index)?;
        let host = caller.host.clone();
        let metrics = self.metrics.clone();
        let failed = move || {
            metrics.panicked(PanicSite::Request);
            let mut answer = Response::new(Full::from("the gateway failed while it handled this request\n"));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            answer
        };
        let begun = catch_unwind(AssertUnwindSafe(|| {
            let mut answering = host.answer(request);
            match (&mut answering).now_or_never() {
                Some(answer) => Ok(answer),
                None => Err(answering),
            }
        }));
        match begun {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(answering)) => {
                caller.waits = true;
                let (key, inbox) = (caller.key, self.local.inbox.clone());
                self.local.node.spawn(async move {
                    let answer =
                        AssertUnwindSafe(answering).catch_unwind().await.unwrap_or_else(|_| failed());
                    inbox.push(WorkerEvent::Answered(key, Box::new(answer)));
                });
                None
            }
            Err(_) => Some(failed()),
        }
    }

    fn send_answer(&mut self, index: usize, mut answer: Response<Full<Bytes>>) {
        let is_last = self.callers.table.get(index).is_some_and(|caller| caller.host.is_leaving());
        if is_last {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut out = Vec::new();
        write_answer(answer, self.callers.date(), &mut out);
        if let Some(caller) = self.callers.table.get_mut(index) {
            caller.waits = false;
            caller.is_last = is_last;
            caller.moved = self.local.now;
            caller.unsent.append(&mut out);
            // A peer that is gone is noticed at the next read.
            caller.ended |= caller.send().is_err();
        }
    }

    fn settle_caller(&mut self, index: usize, then: AfterCall) {
        match then {
            AfterCall::Stay => {}
            AfterCall::ReadOn => {
                let Some(caller) = self.callers.table.get_mut(index) else { return };
                // Listed once; otherwise its share of a turn would grow with every edge.
                if !std::mem::replace(&mut caller.is_unread, true) {
                    self.callers.unread.push(index);
                }
            }
            AfterCall::Back | AfterCall::Gone => {
                let Some(mut caller) = self.callers.table.try_remove(index) else { return };
                if caller.is_unread {
                    self.callers.unread.retain(|unread| *unread != index);
                }
                self.metrics.api.connections_on_workers.dec();
                // Deregistered explicitly: dropping the socket would do so, but a socket that lives on must not be polled
                // here.
                if self.poll.registry().deregister(&mut caller.socket).is_ok()
                    && matches!(then, AfterCall::Back)
                {
                    let CallerConnection { socket, unanswered, peer, host, counted, .. } = *caller;
                    host.take_back(OwnedFd::from(socket).into(), unanswered.into(), peer);
                    drop(counted);
                }
            }
        }
        if self.callers.table.is_empty() {
            self.callers.table = Slab::new();
        }
    }
}

impl CallerConnection {
    /// Writes pending answers, as much as the socket takes.
    fn send(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.unsent.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// How many bytes of a buffer's capacity are kept for the next request.
const IDLE_BYTES: usize = 4 << 10;
