//! A real Kafka for tests: one broker on a free port, in its own directory, both removed on drop.
//!
//! `tests/kafka/run` fetches its programs and sets their path.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use krafka::admin::{CreateTopicsOptions, NewTopic};
use krafka::consumer::{AutoOffsetReset, IsolationLevel, TopicPartition};
use krafka::{ConsumerRecord, Kafka, Record};
use tempfile::TempDir;

use crate::redis_server::free_port;

/// Two Java programs start one after the other, beside other load.
const START_DEADLINE: Duration = Duration::from_secs(90);

/// Any id will do for a cluster of one broker.
const CLUSTER_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

#[derive(Debug)]
pub struct KafkaServer {
    programs: PathBuf,
    directory: TempDir,
    port: u16,
    /// The port for brokers, without TLS or authentication.
    inner: u16,
    process: Option<Child>,
}

impl KafkaServer {
    /// Starts a broker without TLS or authentication.
    pub async fn start() -> Self {
        Self::start_with("PLAINTEXT", &[]).await
    }

    /// Starts a broker with another protocol on its port, and further settings, in which `$DIRECTORY` stands for its directory.
    pub async fn start_with(protocol: &str, settings: &[&str]) -> Self {
        let programs =
            std::env::var_os("KAFKA_PROGRAMS").expect("tests/kafka/run says where Kafka is").into();
        let directory = tempfile::tempdir().expect("a directory for Kafka");
        let (port, control, inner) = (free_port(), free_port(), free_port());
        let mut lines = vec![
            "process.roles=broker,controller".to_owned(),
            "node.id=1".to_owned(),
            format!("controller.quorum.voters=1@127.0.0.1:{control}"),
            format!(
                "listeners=CLIENT://127.0.0.1:{port},INNER://127.0.0.1:{inner},CONTROL://127.0.0.1:{control}"
            ),
            format!("advertised.listeners=CLIENT://localhost:{port},INNER://127.0.0.1:{inner}"),
            format!("listener.security.protocol.map=CLIENT:{protocol},INNER:PLAINTEXT,CONTROL:PLAINTEXT"),
            "controller.listener.names=CONTROL".to_owned(),
            "inter.broker.listener.name=INNER".to_owned(),
            "log.dirs=$DIRECTORY/data".to_owned(),
            // A single broker has no replicas, and tests should be fast.
            "offsets.topic.num.partitions=1".to_owned(),
            "offsets.topic.replication.factor=1".to_owned(),
            "transaction.state.log.num.partitions=1".to_owned(),
            "transaction.state.log.replication.factor=1".to_owned(),
            "transaction.state.log.min.isr=1".to_owned(),
            "group.initial.rebalance.delay.ms=0".to_owned(),
            "auto.create.topics.enable=false".to_owned(),
        ];
        lines.extend(settings.iter().map(|line| (*line).to_owned()));
        let text = lines.join("\n").replace("$DIRECTORY", &directory.path().to_string_lossy());
        std::fs::write(directory.path().join("server.properties"), text).expect("a file of settings");
        let mut server = Self { programs, directory, port, inner, process: None };
        let mut format = server.java("kafka.tools.StorageTool");
        format.args(["format", "--cluster-id", CLUSTER_ID, "--config"]).arg(server.settings());
        for hash in ["256", "512"] {
            format.args(["--add-scram", &format!("SCRAM-SHA-{hash}=[name=gate,password=secret]")]);
        }
        let formatted = format.output().expect("java runs: apt-get install default-jre-headless brings it");
        assert!(formatted.status.success(), "{}", String::from_utf8_lossy(&formatted.stderr));
        server.restart().await;
        server
    }

    fn settings(&self) -> PathBuf {
        self.directory.path().join("server.properties")
    }

    fn java(&self, class: &str) -> Command {
        let mut java = Command::new("java");
        java.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]);
        java.arg(self.programs.join("*")).arg(class).current_dir(self.directory.path());
        java
    }

    /// Returns the address for clients.
    pub fn address(&self) -> String {
        format!("localhost:{}", self.port)
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts the broker with its old data, and waits until it accepts connections.
    pub async fn restart(&mut self) {
        self.kill();
        let log = std::fs::File::create(self.directory.path().join("log")).expect("a log");
        let errors = log.try_clone().expect("the same log");
        let mut java = self.java("kafka.Kafka");
        java.arg(self.settings()).stdin(Stdio::null()).stdout(log).stderr(errors);
        self.process = Some(java.spawn().expect("java runs"));
        let start = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let process = self.process.as_mut().expect("it was started");
            let ended = process.try_wait().expect("it can be asked");
            if ended.is_some() || start.elapsed() > START_DEADLINE {
                let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                panic!("Kafka does not start: {ended:?}\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Connects a client on the port for brokers. Retries until the broker answers.
    pub async fn client(&self) -> Kafka {
        let start = Instant::now();
        loop {
            match Kafka::builder(format!("127.0.0.1:{}", self.inner)).connect().await {
                Ok(kafka) => return kafka,
                Err(error) => assert!(start.elapsed() < START_DEADLINE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn make_topic(&self, name: &str, partitions: i32) {
        let admin = self.client().await.admin();
        let topic = NewTopic::new(name, partitions, 1).expect("a topic");
        let made = admin.create_topics([topic], CreateTopicsOptions::default()).await.expect("an answer");
        made.into_values().for_each(|made| made.expect("it is made"));
    }

    pub async fn delete_topic(&self, name: &str) {
        let admin = self.client().await.admin();
        let deleted = admin.delete_topics([name], Default::default()).await.expect("an answer");
        deleted.into_values().for_each(|deleted| deleted.expect("it is deleted"));
    }

    /// Deletes the records of a topic's first partition before an offset.
    pub async fn cut_off(&self, topic: &str, before: i64) {
        let admin = self.client().await.admin();
        let asked = [(TopicPartition::new(topic, 0), before)];
        let cut = admin.delete_records(asked, Default::default()).await.expect("an answer");
        assert!(cut.into_values().all(|cut| cut.is_ok_and(|first| first == before)), "it is removed");
    }

    /// Writes records, in order.
    pub async fn write(&self, records: impl IntoIterator<Item = Record>) {
        let producer = self.client().await.producer().build().await.expect("a producer");
        let mut written = Vec::new();
        for record in records {
            written.push(producer.enqueue(record).await.expect("it is taken"));
        }
        for written in written {
            assert!(written.await.expect("it is written").is_success());
        }
        producer.close().await.expect("a last word");
    }

    /// Returns all records of a topic.
    pub async fn read(&self, topic: &str) -> Vec<ConsumerRecord> {
        let kafka = self.client().await;
        let reading = kafka
            .consumer_without_group()
            .auto_offset_reset(AutoOffsetReset::Earliest)
            .isolation_level(IsolationLevel::ReadCommitted);
        let consumer = reading.build().await.expect("a consumer");
        consumer.subscribe([topic]).await.expect("a topic");
        let mut ends = BTreeMap::new();
        for partition in consumer.assignment().await.remove(topic).unwrap_or_default() {
            let (first, end) = consumer.fetch_watermarks(topic, partition).await.expect("where it ends");
            if end > first {
                ends.insert(partition, end);
            }
        }
        let mut found: Vec<ConsumerRecord> = Vec::new();
        while !ends.is_empty() {
            found.extend(consumer.poll(Duration::from_millis(200)).await.expect("records"));
            for record in &found {
                if ends.get(&record.partition).is_some_and(|end| record.offset + 1 >= *end) {
                    ends.remove(&record.partition);
                }
            }
        }
        found
    }
}

impl Drop for KafkaServer {
    fn drop(&mut self) {
        self.kill();
    }
}
