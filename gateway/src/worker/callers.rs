//! Connections of an application's servers that publish and publish: read and answered where the subscribers are.
//!
//! A publication that comes to a worker goes out to that worker's subscribers in the same turn, without a task, a lock
//! that anybody waits for, or another thread that has to be woken. A caller stays here for as long as it sends nothing but
//! plain publications. Whatever else comes, and whoever is quiet for a while, goes back to where HTTP is spoken in full, with
//! all that was read.

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

/// Their tokens in the poll begin here. Clients have theirs below.
pub(super) const CALLERS: usize = 1 << 40;

/// The most requests of one caller in one turn, and reads.
const TURN_MAX: usize = 16;

/// Who is quiet for so long is served elsewhere until it closes.
const QUIET: Duration = Duration::from_secs(5);

/// How often is looked for those.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where callers come from, and go back to.
pub(crate) trait CallerHost: Send + Sync + fmt::Debug {
    /// Answers a request. What can be done without waiting is done when this is first polled.
    fn answer(&self, request: Request<Full<Bytes>>) -> BoxFuture<'static, Response<Full<Bytes>>>;

    /// Serves the connection from now on. So much was read of it and not answered.
    fn take_back(self: Arc<Self>, socket: TcpStream, read: Bytes, peer: Peer);

    /// Whether every answer is to be the last on its connection.
    fn is_leaving(&self) -> bool;
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct NewCaller {
    pub(crate) socket: TcpStream,
    pub(crate) read: Bytes,
    pub(crate) peer: Peer,
    pub(crate) host: Arc<dyn CallerHost>,
    /// Counts it among the connections on which HTTP is spoken.
    pub(crate) counted: TaskTrackerToken,
}

/// Names a caller of one worker for ever.
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
    /// Read, and not a whole request yet.
    unanswered: Vec<u8>,
    /// What of that waits for more.
    room: BodyPermit,
    /// Answers that the socket has not taken.
    unsent: Vec<u8>,
    /// Nothing is left to read until the poll tells of more.
    drained: bool,
    /// The peer has ended its side: the poll tells of that once.
    hung_up: bool,
    /// A request is being answered elsewhere: nothing is read until it is.
    waits: bool,
    /// Nothing more comes.
    ended: bool,
    /// No request after this one is answered.
    is_last: bool,
    /// It is among those who may have more to read.
    is_unread: bool,
    /// When it was last answered, or began a request. Not when it sent more of one: who takes long over it is served where
    /// that has a deadline.
    moved: Moment,
    counted: TaskTrackerToken,
}

/// Those of one worker.
#[derive(Debug, Default)]
pub(super) struct Callers {
    table: Slab<Box<CallerConnection>>,
    made: u64,
    /// Those who may have more to read, of which no edge tells.
    unread: Vec<usize>,
    looked: Moment,
    /// The time as HTTP has it, and of which second that is.
    date: (u64, String),
}

/// What is to be done with a caller after its turn.
enum AfterCall {
    Stay,
    /// There may be more to read.
    ReadOn,
    /// It is served elsewhere.
    Back,
    Gone,
}

impl Callers {
    /// How long nothing will be due here.
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
            // Dropped, as it would be if it could not be taken elsewhere.
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

    /// The poll tells of a caller.
    pub(super) fn handle_caller(&mut self, index: usize, hung_up: bool, buffer: &mut [u8]) {
        let Some(caller) = self.callers.table.get_mut(index) else { return };
        caller.drained = false;
        caller.hung_up |= hung_up;
        let then = if caller.send().is_err() { AfterCall::Gone } else { self.serve_caller(index, buffer) };
        self.settle_caller(index, then);
    }

    /// Goes on with callers that had more than one turn's share.
    pub(super) fn serve_callers(&mut self, buffer: &mut [u8]) {
        for index in std::mem::take(&mut self.callers.unread) {
            if let Some(caller) = self.callers.table.get_mut(index) {
                caller.is_unread = false;
            }
            let then = self.serve_caller(index, buffer);
            self.settle_caller(index, then);
        }
    }

    /// A request has been answered elsewhere.
    pub(super) fn answer_caller(&mut self, key: CallerKey, answer: Response<Full<Bytes>>, buffer: &mut [u8]) {
        let is_there = self.callers.table.get(key.index).is_some_and(|caller| caller.key == key);
        if is_there {
            self.send_answer(key.index, answer);
            let then = self.serve_caller(key.index, buffer);
            self.settle_caller(key.index, then);
        }
    }

    /// Those who are quiet go back to where waiting costs a worker nothing.
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
                // It does not read its answers.
                false => (now.since(caller.moved) >= write_timeout).then_some((index, AfterCall::Gone)),
            })
            .collect();
        for (index, then) in quiet {
            self.settle_caller(index, then);
        }
    }

    /// All who are not being answered go back: this node is about to stop. Of the others none is read any more.
    pub(super) fn let_callers_go(&mut self) {
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

    /// Reads and answers what a caller sends, its share of a turn.
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
                        // One that is large now and then is no reason to keep as much for ever.
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
                // Not all of a request will ever come.
                ParsedCall::Partial if caller.ended => return AfterCall::Gone,
                // Where there is no room, that is told where HTTP is spoken in full.
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
                    // A socket that gives less than was asked for is empty (epoll(7)).
                    caller.drained = count < room && !caller.hung_up;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => caller.drained = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return AfterCall::Gone,
            }
        }
        AfterCall::ReadOn
    }

    /// Has a request answered: at once, if nothing has to be waited for.
    fn call(&mut self, index: usize, request: Request<Full<Bytes>>) -> Option<Response<Full<Bytes>>> {
        let caller = self.callers.table.get_mut(index)?;
        let host = caller.host.clone();
        let metrics = self.metrics.clone();
        let failed = move || {
            metrics.panicked(PanicSite::Request);
            let mut answer = Response::new(Full::from("this request made the gateway fail\n"));
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
            // Whoever is gone is found to be when it is read from.
            caller.ended |= caller.send().is_err();
        }
    }

    fn settle_caller(&mut self, index: usize, then: AfterCall) {
        match then {
            AfterCall::Stay => {}
            AfterCall::ReadOn => {
                let Some(caller) = self.callers.table.get_mut(index) else { return };
                // Once, or its share of a turn would grow with every edge.
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
                // Closing the socket takes it out of the poll; one that lives on must not be told of here.
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
    /// Writes what waits, as much as the socket takes.
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

/// What is kept of a buffer for the next request.
const IDLE_BYTES: usize = 4 << 10;
