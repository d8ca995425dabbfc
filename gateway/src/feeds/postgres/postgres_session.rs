//! A session of PostgreSQL: inspects the table of a feed, and runs the statements on it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, Statement};
use tokio_util::task::AbortOnDropHandle;

use super::postgres_config::PostgresConfig;
use super::postgres_tls::PostgresTls;
use crate::feeds::source::{Bounds, FeedRecord, FieldKey, RecordError, RecordFields, SettledRecord};

/// The most rows that are counted to tell how far a feed is behind.
pub(super) const COUNTED_MAX: i64 = 10_000;

/// The server ends a session whose node is silent for this long, and with it the session's advisory lock.
const SILENCE_MAX: &str = "10s";

/// The stored size from which a dead letter that cannot be written whole is kept without its content. Smaller ones do
/// not fail because of their size.
const OMITTED_FROM_BYTES: u32 = 1 << 20;

/// An open session.
pub(super) struct PostgresSession {
    client: Client,
    /// Notified when the database announces new rows.
    news: Arc<Notify>,
    /// Whether this session holds the advisory lock.
    pub(super) reads: bool,
    words: Vec<FieldKey>,
    statements: Statements,
    _driver: AbortOnDropHandle<()>,
}

struct Statements {
    turn: Statement,
    leave: Statement,
    take: Statement,
    stored: Statement,
    done: Statement,
    dead: Statement,
    dead_without: Statement,
    trim: Statement,
    look: Statement,
}

/// Why a session has failed. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostgresError {
    #[error("{}", describe(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("there is no table {0}")]
    NoTable(String),
    #[error("the table {0} has no column {1}")]
    NoColumn(String, String),
    #[error("the database answers something unexpected")]
    Unexpected,
}

impl PostgresError {
    /// Whether a smaller request may succeed: this one took too long, or was more than the server can have in one value.
    pub(super) fn is_too_much(&self) -> bool {
        let Self::Database(error) = self else { return false };
        let too_much = [SqlState::QUERY_CANCELED, SqlState::PROGRAM_LIMIT_EXCEEDED, SqlState::OUT_OF_MEMORY];
        error.code().is_some_and(|code| too_much.contains(code))
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} ({})", error.message(), error.code().code()),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

/// Quotes a name for SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn quoted_table(name: &str) -> String {
    name.split('.').map(quoted).collect::<Vec<_>>().join(".")
}

impl PostgresSession {
    /// Connects and inspects the table.
    pub(super) async fn open(
        server: &tokio_postgres::Config,
        tls: Option<&PostgresTls>,
        settings: &PostgresConfig,
        names: &[(FieldKey, Box<str>)],
        bounds: Bounds,
    ) -> Result<Self, PostgresError> {
        let news = Arc::new(Notify::new());
        let (client, driver) = match tls {
            Some(tls) => {
                let (client, connection) = server.connect(tls.clone()).await?;
                (client, tokio::spawn(drive(connection, news.clone())))
            }
            None => {
                let (client, connection) = server.connect(NoTls).await?;
                (client, tokio::spawn(drive(connection, news.clone())))
            }
        };
        let driver = AbortOnDropHandle::new(driver);
        // A server that does not know the first of these settings ends only sessions inside a transaction and, by the
        // other settings, those whose machine is gone.
        let limits = format!(
            "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = '{SILENCE_MAX}'; \
             SELECT set_config(name, wanted, false) FROM (VALUES ('idle_session_timeout', '{SILENCE_MAX}'), \
             ('tcp_keepalives_idle', '5'), ('tcp_keepalives_interval', '2'), ('tcp_keepalives_count', '3'), \
             ('tcp_user_timeout', '{SILENCE_MAX}')) AS limits (name, wanted) JOIN pg_settings USING (name)",
            settings.timeout_ms
        );
        client.batch_execute(&limits).await?;
        let table = PostgresTable::find(&client, settings, names).await?;
        let statements = table.statements(&client, settings, bounds).await?;
        // Listens before the first look, so that no later row goes unannounced.
        client.batch_execute(&format!("LISTEN {}", quoted(&settings.notify()))).await?;
        let words = table.columns.iter().map(|column| column.word).collect();
        Ok(Self { client, news, reads: false, words, statements, _driver: driver })
    }

    /// Takes the advisory lock if no other session holds it.
    pub(super) async fn acquire_lock(&mut self) -> Result<bool, PostgresError> {
        if !self.reads {
            self.reads = self.client.query_one(&self.statements.turn, &[]).await?.try_get(0)?;
        }
        Ok(self.reads)
    }

    pub(super) async fn leave(&mut self) -> Result<(), PostgresError> {
        if std::mem::replace(&mut self.reads, false) {
            self.client.query_one(&self.statements.leave, &[]).await?;
        }
        Ok(())
    }

    /// Returns at most this many rows.
    pub(super) async fn take(
        &self,
        rows: usize,
        record_bytes_max: usize,
    ) -> Result<Vec<FeedRecord>, PostgresError> {
        let rows_max = i64::try_from(rows).unwrap_or(i64::MAX);
        let rows = self.client.query(&self.statements.take, &[&rows_max]).await?;
        rows.iter()
            .map(|row| {
                let position: String = row.try_get(0)?;
                let bytes: i64 = row.try_get(1)?;
                let bytes = u64::try_from(bytes).map_err(|_| PostgresError::Unexpected)?;
                let fields = if bytes > record_bytes_max as u64 {
                    Err(RecordError::TooLong { bytes, max: record_bytes_max })
                } else {
                    let mut fields = RecordFields::default();
                    for (at, word) in self.words.iter().enumerate() {
                        let value: Option<String> = row.try_get(at + 2)?;
                        if let Some(value) = value {
                            fields.set(*word, Bytes::from(value));
                        }
                    }
                    Ok(fields)
                };
                Ok(FeedRecord { position: position.into(), fields })
            })
            .collect()
    }

    /// Returns the position of the next row and its stored size in bytes, which is less than its full size where values
    /// are compressed.
    pub(super) async fn stored_next(&self) -> Result<Option<(Box<str>, u64)>, PostgresError> {
        let Some(row) = self.client.query_opt(&self.statements.stored, &[]).await? else { return Ok(None) };
        let (position, bytes): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Some((position.into(), u64::try_from(bytes).map_err(|_| PostgresError::Unexpected)?)))
    }

    /// Settles records. With `without`, long dead letters are kept without their content.
    pub(super) async fn settle(
        &mut self,
        settled: &[SettledRecord],
        without: bool,
    ) -> Result<(), PostgresError> {
        let done: Vec<&str> =
            settled.iter().filter(|one| one.dead.is_none()).map(|one| &*one.position).collect();
        let dead = settled.iter().filter_map(|one| Some((&*one.position, one.dead.as_deref()?)));
        let (dead, reasons): (Vec<&str>, Vec<&str>) = dead.unzip();
        // First, and by itself: published rows are deleted whatever happens to dead letters.
        if !done.is_empty() {
            self.client.execute(&self.statements.done, &[&done]).await?;
        }
        if !dead.is_empty() {
            let transaction = self.client.transaction().await?;
            let statement = if without { &self.statements.dead_without } else { &self.statements.dead };
            transaction.execute(statement, &[&dead, &reasons]).await?;
            transaction.execute(&self.statements.trim, &[]).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    /// Returns how many rows wait, counted up to a bound, and the age of the first one.
    pub(super) async fn look(&self) -> Result<(u64, Option<Duration>), PostgresError> {
        let row = self.client.query_one(&self.statements.look, &[]).await?;
        let (waiting, age): (i64, Option<f64>) = (row.try_get(0)?, row.try_get(1)?);
        let age = age.map(|age| Duration::try_from_secs_f64(age.max(0.0)).unwrap_or(Duration::MAX));
        Ok((u64::try_from(waiting).map_err(|_| PostgresError::Unexpected)?, age))
    }

    /// Returns when the database has announced new rows.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    pub(super) fn is_over(&self) -> bool {
        self.client.is_closed()
    }
}

/// Transfers the session's bytes. Of the server's own messages, notifications are passed on and others ignored.
async fn drive<S, T>(mut connection: Connection<S, T>, news: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(_) = message {
            news.notify_one();
        }
    }
    // Wakes the waiting task, which finds the session ended.
    news.notify_one();
}

/// The table as it was found.
struct PostgresTable {
    /// Quoted for SQL.
    name: String,
    dead: String,
    id: String,
    id_type: String,
    created_at: Option<String>,
    columns: Vec<Column>,
    object: u32,
}

/// A column with a field of records, as an expression of type text.
struct Column {
    word: FieldKey,
    /// Quoted for SQL.
    name: String,
    text: String,
}

impl PostgresTable {
    async fn find(
        client: &Client,
        settings: &PostgresConfig,
        names: &[(FieldKey, Box<str>)],
    ) -> Result<Self, PostgresError> {
        let name = quoted_table(&settings.table);
        let object: Option<u32> =
            client.query_one("SELECT to_regclass($1)::oid", &[&name]).await?.try_get(0)?;
        let object = object.ok_or_else(|| PostgresError::NoTable(settings.table.clone()))?;
        let dead = quoted_table(&settings.dead_letters());
        let rows = client
            .query(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute \
                 WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped",
                &[&object],
            )
            .await?;
        let mut found: Vec<(String, String)> = Vec::with_capacity(rows.len());
        for row in rows {
            found.push((row.try_get(0)?, row.try_get(1)?));
        }
        let of = |name: &str| found.iter().find(|(found, _)| found == name).map(|(_, kind)| kind.as_str());
        let missing = |column: &str| PostgresError::NoColumn(settings.table.clone(), column.to_owned());
        let id_type = of(&settings.id).ok_or_else(|| missing(&settings.id))?.to_owned();
        let mut columns = Vec::new();
        for (word, name) in names {
            let quoted = quoted(name);
            let text = match of(name) {
                // A column with a configured name must exist.
                None if **name != *word.name() => return Err(missing(name)),
                None => continue,
                Some("bytea") if *word == FieldKey::B64data => {
                    format!("translate(encode({quoted}, 'base64'), E'\\n', '')")
                }
                Some(kind) if kind.ends_with("[]") => format!("to_jsonb({quoted})::text"),
                Some(_) => format!("{quoted}::text"),
            };
            columns.push(Column { word: *word, name: quoted, text });
        }
        let has = |word: FieldKey| columns.iter().any(|column| column.word == word);
        for (one, other) in [(FieldKey::Channel, FieldKey::Channels), (FieldKey::Data, FieldKey::B64data)] {
            if !has(one) && !has(other) {
                return Err(missing(&format!("{} or {}", one.name(), other.name())));
            }
        }
        let created_at = of(&settings.created_at).map(|_| quoted(&settings.created_at));
        Ok(Self { name, dead, id: quoted(&settings.id), id_type, created_at, columns, object })
    }

    async fn statements(
        &self,
        client: &Client,
        settings: &PostgresConfig,
        bounds: Bounds,
    ) -> Result<Statements, PostgresError> {
        let Self { name, dead, id, id_type, columns, object, .. } = self;
        let Bounds { bytes_max, record_bytes_max, .. } = bounds;
        let turn = format!("hashtextextended('tidegate:feed:{object}', 0)");
        let fields: Vec<String> =
            columns.iter().enumerate().map(|(at, column)| format!("{} AS c{at}", column.text)).collect();
        let size: Vec<String> =
            (0..columns.len()).map(|at| format!("coalesce(octet_length(c{at}), 0)")).collect();
        let given: Vec<String> = (0..columns.len())
            .map(|at| format!("CASE WHEN size <= {record_bytes_max} THEN c{at} END"))
            .collect();
        // The server adds up the sizes, so that no more rows are sent than fit into the bounds.
        let take = format!(
            "SELECT id::text, size, {given} FROM (\
               SELECT *, sum(CASE WHEN size <= {record_bytes_max} THEN size ELSE 0 END) OVER (ORDER BY id) AS total FROM (\
                 SELECT *, ({size})::int8 AS size FROM (\
                   SELECT {id} AS id, {fields} FROM {name} ORDER BY {id} LIMIT $1) AS read) AS sized) AS summed \
             WHERE total - size < {bytes_max} ORDER BY summed.id",
            given = given.join(", "),
            size = size.join(" + "),
            fields = fields.join(", "),
        );
        let of_ids = format!("WHERE {id} = ANY ($1::text[]::{id_type}[])");
        let stored: Vec<String> =
            columns.iter().map(|column| format!("coalesce(pg_column_size({}), 0)", column.name)).collect();
        let stored = stored.join(" + ");
        let stored_next = format!("SELECT {id}::text, ({stored})::int8 FROM {name} ORDER BY {id} LIMIT 1");
        let dead_ones = |record: &str| {
            format!(
                "WITH gone AS (DELETE FROM {name} AS tidegate_row {of_ids} RETURNING {id}::text AS id, {record} AS record) \
             INSERT INTO {dead} (id, reason, record, at) SELECT gone.id, why.reason, gone.record, clock_timestamp() \
             FROM gone JOIN unnest($1::text[], $2::text[]) AS why (id, reason) USING (id)"
            )
        };
        let without = format!(
            "CASE WHEN {stored} > {OMITTED_FROM_BYTES} THEN '{{\"omitted\": true}}' ELSE to_jsonb(tidegate_row) END"
        );
        let trim = format!(
            "DELETE FROM {dead} WHERE ctid IN (SELECT ctid FROM {dead} ORDER BY at DESC, ctid DESC OFFSET {})",
            settings.dead_letters_max
        );
        let age = self.created_at.as_ref().map_or_else(
            || "NULL::float8".to_owned(),
            |at| {
                format!(
                    "(SELECT extract(epoch FROM clock_timestamp() - {at})::float8 FROM {name} ORDER BY {id} LIMIT 1)"
                )
            },
        );
        let look = format!(
            "SELECT (SELECT count(*) FROM (SELECT 1 FROM {name} LIMIT {COUNTED_MAX}) AS waiting), {age}"
        );
        Ok(Statements {
            turn: client.prepare(&format!("SELECT pg_try_advisory_lock({turn})")).await?,
            leave: client.prepare(&format!("SELECT pg_advisory_unlock({turn})")).await?,
            take: client.prepare(&take).await?,
            done: client.prepare(&format!("DELETE FROM {name} {of_ids}")).await?,
            stored: client.prepare(&stored_next).await?,
            dead: client.prepare(&dead_ones("to_jsonb(tidegate_row)")).await?,
            dead_without: client.prepare(&dead_ones(&without)).await?,
            trim: client.prepare(&trim).await?,
            look: client.prepare(&look).await?,
        })
    }
}
