//! An open connection for subscriptions. Its driver reads what arrives and passes messages on at once; all callers send
//! commands through a queue and are answered when Redis has confirmed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use redis::RedisConnectionInfo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::byte_stream::RedisByteStream;
use super::redis_dial::is_for_want_of_a_right;
use super::resp::{self, RedisMessage, RespReply};
use super::server::Server;
use crate::broker::BrokerError;

/// Bytes read at once. A publication keeps the memory of the whole read alive.
const READ_BYTES: usize = 64 << 10;

/// The most commands that wait to be written. Each caller has few in flight at once.
const COMMANDS_MAX: usize = 64;

/// The receiver of messages. Called on the connection's task, which reads nothing else meanwhile: must not wait.
pub(super) trait ReceiveMessage: Send + Sync + 'static {
    fn receive(&self, message: &RedisMessage);

    /// A sharded pub/sub channel is no longer subscribed, whether this node asked for that or not.
    fn left(&self, _name: &[u8]) {}

    /// Returns the counter that grows with everything that arrives.
    fn received(&self) -> &AtomicU64;
}

/// A handle for sending commands. The connection ends with its driver, not with this handle.
#[derive(Clone, Debug)]
pub(super) struct Subscriptions(mpsc::Sender<SubscriptionCommand>);

/// The task of a connection. When it ends, the connection is lost; its output is the reason.
pub(super) type Driver = AbortOnDropHandle<Arc<str>>;

#[derive(Debug)]
struct SubscriptionCommand {
    /// One or more commands.
    command: Vec<u8>,
    /// The replies awaited for the commands. They are queued before any of the commands is answered.
    awaited: Vec<AwaitedReply>,
}

#[derive(Debug)]
struct AwaitedReply {
    /// The kind and the number of confirmations. `None` for the answer of any other command.
    confirmations: Option<(RespReply, usize)>,
    /// Whether the commands before it are answered only if they are refused, in which case the refusal is ignored.
    is_behind_refusals: bool,
    reply: oneshot::Sender<Result<Bytes, BrokerError>>,
}

impl Subscriptions {
    pub(super) fn open<R: ReceiveMessage>(
        stream: Box<dyn RedisByteStream>,
        receiver: Arc<R>,
    ) -> (Self, Driver) {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let drive = async move {
            let reason = drive(stream, commands, &*receiver).await;
            reason.unwrap_or_else(|error| error.to_string()).into()
        };
        (Self(sender), AbortOnDropHandle::new(tokio::spawn(drive)))
    }

    pub(super) async fn subscribe(&self, names: Vec<String>) -> Result<(), BrokerError> {
        self.names("SUBSCRIBE", names, RespReply::Subscribed).await
    }

    pub(super) async fn unsubscribe(&self, names: Vec<String>) -> Result<(), BrokerError> {
        self.names("UNSUBSCRIBE", names, RespReply::Unsubscribed).await
    }

    /// Subscribes with SSUBSCRIBE. All names of a group are in one slot, and each group is confirmed or refused by itself.
    pub(super) async fn subscribe_sharded(&self, groups: &[Vec<String>]) -> Vec<Result<(), BrokerError>> {
        let (mut command, mut awaiting, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for names in groups {
            write_names("SSUBSCRIBE", names, &mut command);
            let (awaited, answer) = awaited(Some((RespReply::Subscribed, names.len())));
            awaiting.push(awaited);
            answers.push(answer);
        }
        if self.0.send(SubscriptionCommand { command, awaited: awaiting }).await.is_err() {
            return groups.iter().map(|_| Err(lost())).collect();
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(answer.await.unwrap_or_else(|_| Err(lost())).map(drop));
        }
        results
    }

    /// Unsubscribes with SUNSUBSCRIBE. All names of a group are in one slot. A refusal means that the channels have left
    /// already, which is as good.
    pub(super) async fn unsubscribe_sharded(&self, groups: &[Vec<String>]) -> Result<(), BrokerError> {
        let mut command = Vec::new();
        // Without names, the command would mean all.
        for names in groups.iter().filter(|names| !names.is_empty()) {
            write_names("SUNSUBSCRIBE", names, &mut command);
        }
        // How many confirmations come depends on which channels have left by then. When HELLO is answered, all have come.
        resp::command(["HELLO"].iter(), &mut command);
        let (mut last, answer) = awaited(None);
        last.is_behind_refusals = true;
        self.0.send(SubscriptionCommand { command, awaited: vec![last] }).await.map_err(|_| lost())?;
        answer.await.unwrap_or_else(|_| Err(lost())).map(drop)
    }

    /// Switches the server to RESP3 and logs in. Returns how the server identifies itself.
    pub(super) async fn greet(&self, login: &RedisConnectionInfo) -> Result<Server, BrokerError> {
        let mut hello = vec!["HELLO", "3"];
        if let Some(password) = login.password() {
            hello.extend(["AUTH", login.username().unwrap_or("default"), password]);
        }
        Ok(from_hello(&self.ask(&hello).await?))
    }

    /// Identifies the server by HELLO, which needs no rights.
    pub(super) async fn hello(&self) -> Result<Server, BrokerError> {
        Ok(from_hello(&self.ask(&["HELLO"]).await?))
    }

    /// Identifies the server by INFO, or by HELLO if the user lacks the right to INFO.
    pub(super) async fn identify(&self) -> Result<Server, BrokerError> {
        let server = self.ask(&["INFO", "server"]).await;
        if server.as_ref().is_err_and(is_for_want_of_a_right) {
            return self.hello().await;
        }
        let (server, replication) = (server?, self.ask(&["INFO", "replication"]).await?);
        Ok(Server::from_info(&String::from_utf8_lossy(&server), &String::from_utf8_lossy(&replication)))
    }

    /// Sends any other command. Returns its raw answer.
    pub(super) async fn ask(&self, parts: &[&str]) -> Result<Bytes, BrokerError> {
        let mut command = Vec::new();
        resp::command(parts.iter(), &mut command);
        self.send(command, None).await
    }

    /// Sends two commands in one write: the server does nothing else between them.
    pub(super) async fn ask_both(
        &self,
        first: &[&str],
        second: &[&str],
    ) -> (Result<Bytes, BrokerError>, Result<Bytes, BrokerError>) {
        let mut command = Vec::new();
        resp::command(first.iter(), &mut command);
        resp::command(second.iter(), &mut command);
        self.send_both(command, None, None).await
    }

    /// Subscribes to patterns and sends another command in the same write: Redis carries out no other client's commands
    /// in between.
    pub(super) async fn follow(&self, patterns: &[String], then: &[&str]) -> Result<(), BrokerError> {
        let mut command = Vec::new();
        let mut parts = vec!["PSUBSCRIBE"];
        parts.extend(patterns.iter().map(String::as_str));
        resp::command(parts.iter(), &mut command);
        resp::command(then.iter(), &mut command);
        let confirmations = Some((RespReply::Subscribed, patterns.len()));
        let (subscribed, answered) = self.send_both(command, confirmations, None).await;
        subscribed.and(answered).map(drop)
    }

    async fn names(&self, verb: &str, names: Vec<String>, confirmed: RespReply) -> Result<(), BrokerError> {
        // Without names, UNSUBSCRIBE would mean all.
        if names.is_empty() {
            return Ok(());
        }
        let mut command = Vec::new();
        write_names(verb, &names, &mut command);
        self.send(command, Some((confirmed, names.len()))).await.map(drop)
    }

    async fn send(
        &self,
        command: Vec<u8>,
        confirmations: Option<(RespReply, usize)>,
    ) -> Result<Bytes, BrokerError> {
        let (awaited, answer) = awaited(confirmations);
        self.0.send(SubscriptionCommand { command, awaited: vec![awaited] }).await.map_err(|_| lost())?;
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Sends two commands in one write.
    async fn send_both(
        &self,
        command: Vec<u8>,
        of_first: Option<(RespReply, usize)>,
        of_second: Option<(RespReply, usize)>,
    ) -> (Result<Bytes, BrokerError>, Result<Bytes, BrokerError>) {
        let ((first, first_answer), (second, second_answer)) = (awaited(of_first), awaited(of_second));
        if self.0.send(SubscriptionCommand { command, awaited: vec![first, second] }).await.is_err() {
            return (Err(lost()), Err(lost()));
        }
        let (first, second) = tokio::join!(first_answer, second_answer);
        (first.unwrap_or_else(|_| Err(lost())), second.unwrap_or_else(|_| Err(lost())))
    }
}

fn write_names(verb: &str, names: &[String], command: &mut Vec<u8>) {
    let mut parts = Vec::with_capacity(1 + names.len());
    parts.push(verb);
    parts.extend(names.iter().map(String::as_str));
    resp::command(parts.iter(), command);
}

fn lost() -> BrokerError {
    BrokerError::Unreachable("the connection was lost".into())
}

type PendingConfirmation = oneshot::Receiver<Result<Bytes, BrokerError>>;

fn awaited(confirmations: Option<(RespReply, usize)>) -> (AwaitedReply, PendingConfirmation) {
    let (reply, answer) = oneshot::channel();
    (AwaitedReply { confirmations, is_behind_refusals: false, reply }, answer)
}

fn from_hello(answer: &Bytes) -> Server {
    Server::from_hello(resp::words(&String::from_utf8_lossy(answer)))
}

/// Reads and writes until the connection ends.
async fn drive<R: ReceiveMessage>(
    stream: Box<dyn RedisByteStream>,
    mut commands: mpsc::Receiver<SubscriptionCommand>,
    receiver: &R,
) -> std::io::Result<String> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    let mut waiting: VecDeque<AwaitedReply> = VecDeque::new();
    let mut asking = true;
    loop {
        if buffer.capacity() - buffer.len() < READ_BYTES / 4 {
            buffer.reserve(READ_BYTES);
        }
        tokio::select! {
            read = reader.read_buf(&mut buffer) => {
                if read? == 0 {
                    return Ok("Redis closed the connection".to_owned());
                }
                receiver.received().fetch_add(1, Ordering::Relaxed);
                while let Some(reply) = resp::take(&mut buffer).map_err(std::io::Error::other)? {
                    match reply {
                        RespReply::Message(message) => receiver.receive(&message),
                        RespReply::Left(name) => receiver.left(&name),
                        reply => settle(&mut waiting, reply),
                    }
                }
            }
            next = commands.recv(), if asking => match next {
                // This cannot deadlock: Redis goes on reading while its own answers are not read here.
                Some(SubscriptionCommand { command, awaited }) => {
                    waiting.extend(awaited);
                    writer.write_all(&command).await?;
                    writer.flush().await?;
                }
                None => asking = false,
            },
        }
    }
}

/// Answers the caller that has waited longest. Redis answers in the order of the commands.
fn settle(waiting: &mut VecDeque<AwaitedReply>, reply: RespReply) {
    let Some(first) = waiting.front_mut() else { return };
    let result = match (&mut first.confirmations, reply) {
        (Some((kind, left)), reply) if *kind == reply => {
            *left -= 1;
            if *left > 0 {
                return;
            }
            Ok(Bytes::new())
        }
        (_, RespReply::Answer(Err(_))) if first.is_behind_refusals => return,
        (_, RespReply::Answer(Err(refusal))) => Err(BrokerError::refused(refusal)),
        (None, RespReply::Answer(Ok(answer))) => Ok(answer),
        _ => return,
    };
    if let Some(first) = waiting.pop_front() {
        // The caller may have given up.
        let _ = first.reply.send(result);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::route_pushes::PushRouter;
    use super::*;

    #[test]
    fn whoever_asked_first_is_told_first_and_only_when_all_names_are_confirmed() {
        let (mut waiting, mut answers) = (VecDeque::new(), Vec::new());
        for confirmations in [Some((RespReply::Subscribed, 3)), None, Some((RespReply::Unsubscribed, 1))] {
            let (reply, answer) = oneshot::channel();
            waiting.push_back(AwaitedReply { confirmations, is_behind_refusals: false, reply });
            answers.push(answer);
        }
        settle(&mut waiting, RespReply::Subscribed);
        settle(&mut waiting, RespReply::Subscribed);
        settle(&mut waiting, RespReply::Unsubscribed);
        assert!(answers[0].try_recv().is_err(), "one name is not confirmed yet");
        settle(&mut waiting, RespReply::Subscribed);
        assert!(matches!(answers[0].try_recv(), Ok(Ok(_))));
        assert!(answers[1].try_recv().is_err());
        settle(&mut waiting, RespReply::Answer(Ok(Bytes::from_static(b"pong"))));
        assert!(matches!(answers[1].try_recv(), Ok(Ok(answer)) if answer == "pong"));
        settle(&mut waiting, RespReply::Answer(Err("NOPERM no".to_owned())));
        assert!(matches!(answers[2].try_recv(), Ok(Err(BrokerError::Refused { .. }))));
        assert!(waiting.is_empty());
    }

    #[tokio::test]
    async fn each_slot_is_subscribed_by_itself_and_what_has_left_already_is_given_up() {
        let (ours, mut redis) = tokio::io::duplex(1024);
        let (connection, _driver) = Subscriptions::open(Box::new(ours), PushRouter::to_nobody());
        let groups = [vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()]];
        let server = async {
            let mut asked = [0; 1024];
            assert!(redis.read(&mut asked).await.unwrap() > 0);
            let confirmed =
                ["a", "b"].map(|name| format!(">3\r\n$10\r\nssubscribe\r\n$1\r\n{name}\r\n:1\r\n")).concat();
            redis.write_all(confirmed.as_bytes()).await.unwrap();
            redis.write_all(b"-MOVED 7365 127.0.0.1:1\r\n").await.unwrap();
            assert!(redis.read(&mut asked).await.unwrap() > 0);
            let answers = b">3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:1\r\n-MOVED 7365 127.0.0.1:1\r\n%0\r\n";
            redis.write_all(answers).await.unwrap();
        };
        let asked = async {
            let subscribed = connection.subscribe_sharded(&groups).await;
            assert!(matches!(&subscribed[..], [Ok(()), Err(BrokerError::Refused { .. })]), "{subscribed:?}");
            connection.unsubscribe_sharded(&groups).await.unwrap();
        };
        tokio::join!(asked, server);
    }

    #[tokio::test]
    async fn both_answers_to_two_commands_in_one_go_find_who_asked_however_soon_they_come() {
        let (ours, mut redis) = tokio::io::duplex(1024);
        let (connection, _driver) = Subscriptions::open(Box::new(ours), PushRouter::to_nobody());
        let server = async {
            let mut asked = [0; 1024];
            assert!(redis.read(&mut asked).await.unwrap() > 0);
            redis.write_all(b"+one\r\n+two\r\n").await.unwrap();
        };
        let (answers, ()) = tokio::join!(connection.ask_both(&["A"], &["B"]), server);
        assert_eq!((answers.0.unwrap(), answers.1.unwrap()), ("+one\r\n".into(), "+two\r\n".into()));
    }

    #[tokio::test]
    async fn bytes_are_a_sign_of_life_before_they_are_a_whole_message() {
        let router = PushRouter::to_nobody();
        let (ours, mut redis) = tokio::io::duplex(1024);
        let (_connection, _driver) = Subscriptions::open(Box::new(ours), router.clone());
        redis.write_all(b">3\r\n$7\r\nmess").await.unwrap();
        let received = async {
            while router.received().load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), received).await.expect("it is heard");
    }
}
