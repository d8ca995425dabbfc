//! Dead letters: records that cannot be published, kept in a topic of their own.

use std::time::Duration;

use krafka::error::ErrorCode;
use krafka::{ConsumerRecord, KrafkaError, Record};

use super::kafka_member::{KafkaCluster, KafkaMember, LETTER_BYTES_MAX};
use super::parse_record;

/// The room that a dead letter needs beside the record.
const SLACK_BYTES: usize = 64 << 10;

/// Returns the dead letter of a record: the record as it was, with headers that tell the reason and the place.
pub(super) fn letter(record: &ConsumerRecord, reason: &str, cluster: &KafkaCluster) -> Record {
    let mut letter = Record::new(cluster.dead_letters(), "").without_value();
    letter.key = record.key.clone();
    letter.headers = record.headers.clone();
    let about = [
        ("feed_reason", reason.to_owned()),
        ("feed_topic", record.topic.to_string()),
        ("feed_partition", record.partition.to_string()),
        ("feed_offset", record.offset.to_string()),
    ];
    for (name, text) in about {
        letter = letter.header(name, text);
    }
    letter.value = record.value.clone();
    if parse_record::size(record) + SLACK_BYTES > LETTER_BYTES_MAX { without_content(letter) } else { letter }
}

fn without_content(letter: Record) -> Record {
    let bytes = letter.value.as_ref().map_or(0, bytes::Bytes::len);
    // A key or headers may be just as long, so they are left out too.
    let keeps = |(name, _): &(String, Option<bytes::Bytes>)| name.starts_with("feed_");
    let mut letter = letter.without_value().without_key();
    letter.headers.retain(keeps);
    letter.header("feed_omitted", bytes.to_string())
}

/// Writes a dead letter, and returns once the replicas have acknowledged it (`acks=all`).
pub(super) async fn write(open: &KafkaMember, letter: Record, timeout: Duration) -> Result<(), String> {
    let short = without_content(letter.clone());
    let written = tokio::time::timeout(timeout, async {
        match open.producer.send(letter).await {
            // The topic of dead letters accepts shorter records than the topic that the record was in.
            Err(KrafkaError::Broker {
                code: ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge,
                ..
            }) => open.producer.send(short).await,
            written => written,
        }
    });
    match written.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", timeout.as_millis())),
    }
}
