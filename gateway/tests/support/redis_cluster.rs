//! A real Redis Cluster for tests: masters with slots, replicas, and an operator that moves slots as `redis-cli` does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redis::{Connection, FromRedisValue};

use crate::redis_server::{RedisServer, free_port, program};

/// Nodes agree much faster; a busy machine may take long.
const AGREE_DEADLINE: Duration = Duration::from_secs(60);

const SLOTS: u16 = 16_384;

#[derive(Debug)]
pub struct RedisCluster {
    pub servers: Vec<RedisServer>,
    /// The program of its servers.
    program: PathBuf,
}

/// A node of the cluster, as another node sees it.
#[derive(Clone, Debug)]
pub struct Member {
    pub id: String,
    pub port: u16,
    pub is_master: bool,
    pub slots: Vec<(u16, u16)>,
}

impl RedisCluster {
    /// Starts masters with an equal share of the slots each, and replicas of each.
    pub fn start(masters: usize, replicas: usize) -> Self {
        Self::start_program(&program(), masters, replicas)
    }

    /// The same with another implementation that takes the same options.
    pub fn start_program(program: &Path, masters: usize, replicas: usize) -> Self {
        let share = |part: usize| (usize::from(SLOTS) * part / masters) as u16;
        let firsts: Vec<u16> = (0..masters).map(share).collect();
        Self::start_parts(program, &firsts, replicas)
    }

    /// Starts a master for each of these slots, which owns it and all slots before the next one in the list.
    pub fn start_with(firsts: &[u16], replicas: usize) -> Self {
        Self::start_parts(&program(), firsts, replicas)
    }

    fn start_parts(program: &Path, firsts: &[u16], replicas: usize) -> Self {
        let masters = firsts.len();
        let mut cluster = Self { servers: Vec::new(), program: program.to_owned() };
        for _ in 0..masters * (1 + replicas) {
            cluster.add_server();
        }
        for (number, server) in cluster.servers.iter().enumerate() {
            // Distinct epochs, so that the nodes need not resolve conflicts.
            server.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()]);
            if number < masters {
                let (from, to) = (firsts[number], firsts.get(number + 1).map_or(SLOTS, |next| *next) - 1);
                server.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            }
        }
        cluster.meet_all();
        for number in masters..cluster.servers.len() {
            let master = cluster.id(number % masters);
            cluster.servers[number].ask::<()>(&["CLUSTER", "REPLICATE", &master]);
        }
        let replicas_there = replicas * masters;
        cluster.agree("there are all of them", |members| {
            members.iter().filter(|member| !member.is_master).count() == replicas_there
        });
        for number in masters..cluster.servers.len() {
            cluster.wait("a replica follows", || {
                cluster.info(number, "replication").contains("master_link_status:up")
            });
        }
        cluster
    }

    /// Starts one more server, which is not in the cluster yet. Returns its index.
    pub fn add_server(&mut self) -> usize {
        let bus = free_port().to_string();
        let mut all = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", "1500"];
        all.extend(["--repl-diskless-sync-delay", "0", "--cluster-port", &bus]);
        all.extend(["--cluster-allow-replica-migration", "no", "--cluster-require-full-coverage", "no"]);
        self.servers.push(RedisServer::start_program(&self.program, &all));
        self.servers.len() - 1
    }

    /// Introduces all running servers to each other, and waits until the cluster works.
    pub fn meet_all(&self) {
        let mut running = self.running();
        let first = running.next().expect("one runs");
        for server in running {
            let bus = option_of(server, "cluster-port");
            first.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &server.port().to_string(), &bus]);
        }
        let count = self.running().count();
        self.agree("all know each other", |members| members.len() == count);
    }

    /// Waits until every running server reports the same members, and the condition holds for them.
    pub fn agree(&self, what: &str, holds: impl Fn(&[Member]) -> bool) {
        self.wait(what, || {
            self.running().all(|server| {
                let works = server.try_ask::<String>(&["CLUSTER", "INFO"]);
                works.is_ok_and(|info| info.contains("cluster_state:ok")) && holds(&members(server))
            })
        });
    }

    fn wait(&self, what: &str, holds: impl Fn() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(
                start.elapsed() < AGREE_DEADLINE,
                "{what}: not within {AGREE_DEADLINE:?}\n{}",
                self.state()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns what each running server says of itself and of the others.
    fn state(&self) -> String {
        let answer = |server: &RedisServer, command: &[&str]| {
            server.try_ask::<String>(command).unwrap_or_else(|error| format!("{error}\n"))
        };
        let of_server = |server: &RedisServer| {
            let (nodes, replication) =
                (answer(server, &["CLUSTER", "NODES"]), answer(server, &["INFO", "replication"]));
            format!("port {}:\n{nodes}{replication}", server.port())
        };
        self.running().map(of_server).collect()
    }

    fn running(&self) -> impl Iterator<Item = &RedisServer> {
        self.servers.iter().filter(|server| server.is_running())
    }

    pub fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect()
    }

    pub fn id(&self, server: usize) -> String {
        self.servers[server].ask(&["CLUSTER", "MYID"])
    }

    pub fn info(&self, server: usize, section: &str) -> String {
        self.servers[server].ask(&["INFO", section])
    }

    /// Returns the server that owns a slot, according to the first running server.
    pub fn owner(&self, slot: u16) -> usize {
        let (first, _) =
            self.servers.iter().enumerate().find(|(_, server)| server.is_running()).expect("one runs");
        self.owner_by(first, slot).expect("somebody has it")
    }

    /// Returns the server that owns a slot, according to this server. `None`: no server does.
    pub fn owner_by(&self, server: usize, slot: u16) -> Option<usize> {
        let members = members(&self.servers[server]);
        members.iter().find(|member| member.has(slot)).map(|owner| self.at_port(owner.port))
    }

    /// Returns the slots that a server owns.
    pub fn slots(&self, server: usize) -> Vec<u16> {
        let port = self.servers[server].port();
        let members = members(&self.servers[server]);
        let slots = members.iter().filter(|member| member.port == port).flat_map(|member| &member.slots);
        slots.flat_map(|(from, to)| *from..=*to).collect()
    }

    fn at_port(&self, port: u16) -> usize {
        self.servers.iter().position(|server| server.port() == port).expect("it is one of ours")
    }

    /// Moves slots with all their keys, key by key, as `redis-cli --cluster reshard` does.
    pub fn move_slots(&self, slots: impl IntoIterator<Item = u16>, to: usize) {
        let mut connections: Vec<Option<Connection>> =
            self.servers.iter().map(|server| server.is_running().then(|| connect(server))).collect();
        let (id, port) = (self.id(to), self.servers[to].port().to_string());
        let members = members(&self.servers[to]);
        for slot in slots {
            let has = |member: &&Member| member.has(slot);
            let owner = members.iter().find(has).expect("somebody has it");
            if owner.id == id {
                continue;
            }
            let (number, from_id) = (slot.to_string(), owner.id.clone());
            let from = self.at_port(owner.port);
            let mut at = |server: usize, words: &[&str]| {
                run::<redis::Value>(connections[server].as_mut().expect("it runs"), words)
            };
            at(to, &["CLUSTER", "SETSLOT", &number, "IMPORTING", &from_id]);
            at(from, &["CLUSTER", "SETSLOT", &number, "MIGRATING", &id]);
            loop {
                let keys = at(from, &["CLUSTER", "GETKEYSINSLOT", &number, "10"]);
                let keys = Vec::<String>::from_redis_value(keys).expect("keys");
                if keys.is_empty() {
                    break;
                }
                let mut words = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
                words.extend(keys.iter().map(String::as_str));
                at(from, &words);
            }
            at(to, &["CLUSTER", "SETSLOT", &number, "NODE", &id]);
            at(from, &["CLUSTER", "SETSLOT", &number, "NODE", &id]);
        }
    }

    /// Moves slots with all their keys as a whole, as Valkey can from version 9 on.
    pub fn migrate_slots(&self, slots: impl IntoIterator<Item = u16>, to: usize) {
        let id = self.id(to);
        for slot in slots {
            let from = self.owner(slot);
            if from == to {
                continue;
            }
            let number = slot.to_string();
            self.servers[from].ask::<()>(&[
                "CLUSTER",
                "MIGRATESLOTS",
                "SLOTSRANGE",
                &number,
                &number,
                "NODE",
                &id,
            ]);
            self.wait("a slot is migrated", || self.owner(slot) == to);
        }
    }

    /// Removes a server without slots from the cluster, and ends it.
    pub fn remove_server(&mut self, server: usize) {
        let id = self.id(server);
        self.servers[server].kill();
        for other in self.running() {
            other.ask::<()>(&["CLUSTER", "FORGET", &id]);
        }
        self.agree("it is forgotten", |members| members.iter().all(|member| member.id != id));
    }

    /// Waits until a server is a replica that is in sync with its master.
    pub fn is_replica(&self, server: usize) {
        self.wait("it is a replica", || {
            let info = self.servers[server].try_ask::<String>(&["INFO", "replication"]).unwrap_or_default();
            info.contains("role:slave") && info.contains("master_link_status:up")
        });
    }

    /// Waits until all servers agree on the owner of these slots.
    pub fn agree_on(&self, slots: &[u16], owner: usize) {
        let port = self.servers[owner].port();
        self.agree("all know who has what", |members| {
            let has = members.iter().filter(|member| member.port == port).flat_map(|member| &member.slots);
            let has: Vec<_> = has.collect();
            slots.iter().all(|slot| has.iter().any(|(from, to)| (*from..=*to).contains(slot)))
        });
    }
}

impl Member {
    fn has(&self, slot: u16) -> bool {
        self.is_master && self.slots.iter().any(|(from, to)| (*from..=*to).contains(&slot))
    }
}

fn option_of(server: &RedisServer, name: &str) -> String {
    let values: Vec<String> = server.ask(&["CONFIG", "GET", name]);
    values.into_iter().nth(1).expect("a value")
}

fn connect(server: &RedisServer) -> Connection {
    let client = redis::Client::open(server.url()).expect("an address");
    client.get_connection_with_timeout(Duration::from_secs(5)).expect("a connection")
}

fn run<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    let mut command = redis::Cmd::new();
    words.iter().for_each(|word| {
        command.arg(*word);
    });
    command.query(connection).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Returns the members that a node reports, without failed ones.
pub fn members(server: &RedisServer) -> Vec<Member> {
    let Ok(text) = server.try_ask::<String>(&["CLUSTER", "NODES"]) else { return Vec::new() };
    let member = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let port = words[1].split('@').next()?.rsplit_once(':')?.1.parse().ok()?;
        let range = |word: &&str| {
            let (from, to) = word.split_once('-').unwrap_or((word, word));
            Some((from.parse().ok()?, to.parse().ok()?))
        };
        let flags: Vec<&str> = words[2].split(',').collect();
        let is_there = !flags.contains(&"fail") && !flags.contains(&"handshake") && words[7] == "connected";
        is_there.then(|| Member {
            id: words[0].to_owned(),
            port,
            is_master: flags.contains(&"master"),
            slots: words[8..].iter().filter_map(range).collect(),
        })
    };
    text.lines().filter_map(member).collect()
}
