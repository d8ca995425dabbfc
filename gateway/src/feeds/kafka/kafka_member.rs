//! A connection to a Kafka cluster as a member of the consumer group: how it is made, and the requests on it.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use krafka::auth::{AuthConfig, TlsConfig};
use krafka::consumer::{
    AutoOffsetReset, Consumer, ConsumerRebalanceListener, IsolationLevel, OffsetAndMetadata,
    PartitionAssignmentStrategy, TopicPartition,
};
use krafka::producer::{Acks, Producer};
use krafka::{CloseOptions, ConsumerRecord, KrafkaError, Offset, PartitionId};
use parking_lot::Mutex;

use super::kafka_config::{KafkaConfig, Sasl, Value};
use crate::feeds::redis_stream::From;
use crate::feeds::source::Bounds;
use crate::secret::Secret;

/// A node that sends no heartbeat for this long loses its partitions. Brokers accept six seconds or more.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// A node that does not poll for this long loses its partitions too, and a rebalance waits for it as long. The feed
/// polls at least once a second.
const POLL_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// The longest request that carries a dead letter, in bytes. Brokers accept 1 MiB by default.
pub(super) const LETTER_BYTES_MAX: usize = 16 << 20;

/// The configured cluster, without a connection.
pub(super) struct KafkaCluster {
    settings: KafkaConfig,
    dead_letters: String,
    bounds: Bounds,
    client_id: String,
    security: AuthConfig,
}

/// A connected member of the group.
pub(super) struct KafkaMember {
    consumer: Consumer,
    pub(super) producer: Producer,
    topic: String,
    from: From,
    taken: RevokedPartitions,
}

/// Partitions that were revoked from this node since the last [`KafkaMember::taken`].
#[derive(Clone, Default)]
struct RevokedPartitions(Arc<Mutex<HashSet<PartitionId>>>);

impl RevokedPartitions {
    fn add(&self, partitions: &[TopicPartition]) {
        self.0.lock().extend(partitions.iter().map(TopicPartition::partition));
    }
}

impl ConsumerRebalanceListener for RevokedPartitions {
    async fn on_partitions_assigned(&self, _: &[TopicPartition]) {}

    async fn on_partitions_revoked(&self, partitions: &[TopicPartition]) {
        self.add(partitions);
    }

    async fn on_partitions_lost(&self, partitions: &[TopicPartition]) {
        self.add(partitions);
    }
}

impl KafkaCluster {
    pub(super) fn new(settings: &KafkaConfig, bounds: Bounds, client_id: String) -> Result<Self, String> {
        let mut security = match settings.sasl {
            None => AuthConfig::plaintext(),
            Some(sasl) => {
                let password = match &settings.password_file {
                    Some(file) => Secret::from_file(file).map_err(|error| error.to_string())?,
                    None => settings.password.clone(),
                };
                let (user, password) = (&*settings.user, password.reveal());
                match sasl {
                    Sasl::Plain => AuthConfig::sasl_plain(user, password),
                    Sasl::ScramSha256 => AuthConfig::sasl_scram_sha256(user, password),
                    Sasl::ScramSha512 => AuthConfig::sasl_scram_sha512(user, password),
                }
            }
        };
        if settings.tls {
            security = security.with_tls(tls(settings)?);
        }
        let dead_letters = settings.dead_letters();
        Ok(Self { settings: settings.clone(), dead_letters, bounds, client_id, security })
    }

    pub(super) fn topic(&self) -> &str {
        &self.settings.topic
    }

    pub(super) fn dead_letters(&self) -> &str {
        &self.dead_letters
    }

    pub(super) fn value(&self) -> Value {
        self.settings.value
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub(super) fn timeout(&self) -> Duration {
        self.settings.timeout()
    }

    /// Connects and starts to join the group.
    pub(super) async fn open(&self) -> Result<KafkaMember, String> {
        let describe = |error: KrafkaError| error.to_string();
        let timeout = self.timeout();
        let kafka = krafka::Kafka::builder(self.settings.brokers.join(","))
            .client_id(&self.client_id)
            .security(self.security.clone())
            .connect_timeout(timeout)
            .request_timeout(timeout)
            .connect()
            .await
            .map_err(describe)?;
        let number = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let taken = RevokedPartitions::default();
        let consumer = kafka
            .consumer(&self.settings.group)
            // A missing offset, or one that is gone, is reported as an error: see `poll`.
            .auto_offset_reset(AutoOffsetReset::None)
            .enable_auto_commit(false)
            .isolation_level(IsolationLevel::ReadCommitted)
            // A rebalance takes only those partitions from a node that another node will have.
            .partition_assignment_strategy(PartitionAssignmentStrategy::CooperativeSticky)
            .session_timeout(SESSION_TIMEOUT)
            .heartbeat_interval(HEARTBEAT_INTERVAL)
            .max_poll_interval(POLL_INTERVAL_MAX)
            .max_poll_records(number(self.bounds.records_max))
            .max_buffered_records(number(self.bounds.records_max))
            .fetch_max_bytes(number(self.bounds.bytes_max))
            .max_partition_fetch_bytes(number(self.bounds.bytes_max))
            .metrics_push(false)
            .rebalance_listener(taken.clone())
            .build()
            .await
            .map_err(describe)?;
        for topic in [&self.settings.topic, &self.dead_letters] {
            let found = consumer.fetch_metadata(Some(topic)).await.map_err(describe)?;
            if found.topics.iter().all(|found| found.name != *topic || found.partitions.is_empty()) {
                return Err(format!("there is no topic {topic}"));
            }
        }
        let producer = kafka
            .producer()
            .acks(Acks::All)
            // A duplicate dead letter does no harm, and without idempotence the right to write is enough.
            .idempotent(false)
            .linger(Duration::ZERO)
            .delivery_timeout(timeout)
            .max_block(timeout)
            .max_request_size(LETTER_BYTES_MAX)
            .metrics_push(false)
            .build()
            .await
            .map_err(describe)?;
        consumer.subscribe([&self.settings.topic]).await.map_err(describe)?;
        Ok(KafkaMember {
            consumer,
            producer,
            topic: self.settings.topic.clone(),
            from: self.settings.from,
            taken,
        })
    }
}

fn tls(settings: &KafkaConfig) -> Result<TlsConfig, String> {
    let read = |file: &Path| {
        std::fs::read(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
    };
    let mut tls = match &settings.ca_file {
        Some(file) => TlsConfig::new().with_ca_cert_pem(read(file)?),
        None => TlsConfig::new().with_native_roots(),
    };
    if let (Some(certificate), Some(key)) = (&settings.client_cert_file, &settings.client_key_file) {
        // Read again for each connection: certificates are replaced while nodes run.
        let path = |file: &Path| file.to_string_lossy().into_owned();
        tls = tls.with_client_cert(path(certificate), path(key));
    }
    Ok(tls)
}

impl KafkaMember {
    /// Returns the partitions that were revoked from this node since the last call.
    pub(super) fn taken(&self) -> HashSet<PartitionId> {
        std::mem::take(&mut self.taken.0.lock())
    }

    pub(super) async fn has_partitions(&self) -> bool {
        !self.consumer.assignment().await.is_empty()
    }

    async fn partitions(&self) -> Vec<PartitionId> {
        self.consumer.assignment().await.remove(&self.topic).unwrap_or_default()
    }

    /// Returns the next records, waiting for at most `at_most`.
    pub(super) async fn poll(&self, at_most: Duration) -> Result<Vec<ConsumerRecord>, KrafkaError> {
        match self.consumer.poll(at_most).await {
            Err(KrafkaError::NoOffset { partitions }) => {
                for (_, partition) in partitions {
                    self.begin(partition).await?;
                }
                Ok(Vec::new())
            }
            polled => polled,
        }
    }

    /// Sets the position in a partition that was never read, or whose next record is gone.
    async fn begin(&self, partition: PartitionId) -> Result<(), KrafkaError> {
        let topic = &*self.topic;
        let committed = self.committed().await?;
        let (first, end) = self.consumer.fetch_watermarks(topic, partition).await?;
        let from = match (committed.get(&partition), self.from) {
            // The group has an offset by now, from this node or another one.
            (Some(stood), _) if (first..=end).contains(stood) => *stood,
            // The log was truncated past the committed offset.
            (Some(stood), _) => {
                let gone = first.saturating_sub(*stood);
                tracing::error!(
                    topic,
                    partition,
                    from = stood,
                    to = first,
                    "{gone} records were removed from the topic before they were published"
                );
                first
            }
            (None, From::End) if committed.is_empty() => {
                self.commit_ends().await?;
                end
            }
            // The group has read other partitions, so this one was added to the topic later.
            (None, _) => first,
        };
        self.consumer.seek(topic, partition, from).await
    }

    /// Returns the group's committed offsets, in the partitions of which it has read anything.
    async fn committed(&self) -> Result<BTreeMap<PartitionId, Offset>, KrafkaError> {
        let topic = &*self.topic;
        let found = self.consumer.fetch_metadata(Some(topic)).await?;
        let of_topic = found.topics.iter().filter(|found| found.name == topic);
        let all: Vec<(&str, PartitionId)> =
            of_topic.flat_map(|found| found.partitions.keys()).map(|partition| (topic, *partition)).collect();
        let committed = self.consumer.committed(&all).await?;
        Ok(committed.into_iter().map(|((_, partition), stood)| (partition, stood.offset)).collect())
    }

    /// Commits the present end of each partition, so that a node that is assigned another partition begins at that
    /// offset, and not at the end that the partition has by then.
    async fn commit_ends(&self) -> Result<(), KrafkaError> {
        let topic = &*self.topic;
        let found = self.consumer.fetch_metadata(Some(topic)).await?;
        let mut ends = Vec::new();
        for partition in
            found.topics.iter().filter(|found| found.name == topic).flat_map(|found| found.partitions.keys())
        {
            let (_, end) = self.consumer.fetch_watermarks(topic, *partition).await?;
            ends.push((*partition, end));
        }
        self.commit(&ends).await
    }

    pub(super) async fn seek(&self, from: &BTreeMap<PartitionId, Offset>) -> Result<(), KrafkaError> {
        let to = |(partition, offset): (&PartitionId, &Offset)| {
            (TopicPartition::new(&*self.topic, *partition), *offset)
        };
        self.consumer.seek_many(from.iter().map(to)).await
    }

    pub(super) async fn commit(&self, up_to: &[(PartitionId, Offset)]) -> Result<(), KrafkaError> {
        let offset = |(partition, offset): &(PartitionId, Offset)| {
            (TopicPartition::new(&*self.topic, *partition), OffsetAndMetadata::new(*offset))
        };
        self.consumer.commit_offsets(up_to.iter().map(offset)).await
    }

    /// Pauses or resumes fetching. The node stays a member of the group.
    pub(super) async fn pause(&self, pause: bool) {
        let partitions = self.partitions().await;
        match pause {
            true => self.consumer.pause(&self.topic, &partitions).await,
            false => self.consumer.resume(&self.topic, &partitions).await,
        }
    }

    /// Checks that a broker answers, because the client is slow to report that none does.
    pub(super) async fn prove(&self) -> Result<(), KrafkaError> {
        // Every topic has partition 0, and its end is requested from a broker each time.
        self.consumer.fetch_watermarks(&self.topic, 0).await.map(drop)
    }

    /// Returns how many records are still to be read. While the consumer is paused, the ends of partitions are
    /// requested from the brokers, because the client's own figures are old.
    pub(super) async fn behind(&self, is_paused: bool) -> Result<Option<u64>, KrafkaError> {
        let lag = self.consumer.lag().await;
        if !is_paused {
            self.prove().await?;
            return Ok(lag.values().map(|partition| partition.lag).sum());
        }
        let mut behind = 0;
        for (partition, known) in lag {
            let Some(position) = known.position else { return Ok(None) };
            let (_, end) = self.consumer.fetch_watermarks(&self.topic, partition.partition).await?;
            behind += u64::try_from(end - position).unwrap_or(0);
        }
        Ok(Some(behind))
    }

    pub(super) async fn close(self, within: Duration) {
        let options = || CloseOptions::new().timeout(within);
        let (left, _) =
            tokio::join!(self.consumer.close_with(options()), self.producer.close_with(options()));
        if let Err(error) = left {
            tracing::debug!(%error, "the group could not be left; the membership ends by itself");
        }
    }
}
