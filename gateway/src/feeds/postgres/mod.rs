//! A table of PostgreSQL, read by one node at a time: its rows are deleted once they are published.
//!
//! The right to read is an advisory lock of the session: it ends with the session, whatever happens to the node. Rows
//! are always read from the first one that is left, so a transaction that commits late is not missed. No transaction is
//! open while rows are published.

mod batch_size;
mod postgres_config;
mod postgres_session;
mod postgres_tls;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::config::SslMode;

use self::batch_size::BatchSize;
pub use self::postgres_config::{PostgresConfig, PostgresUrl};
use self::postgres_session::{PostgresError, PostgresSession};
use self::postgres_tls::PostgresTls;
use super::feed_config::FeedConfig;
use super::source::{
    Bounds, FeedRecord, FeedSource, FieldKey, Lag, RecordError, SettledRecord, SourceCheck, SourceError,
    SourceItem,
};
use crate::broker::redis::tls_connector;

/// The table, and this node as its reader.
pub(super) struct Postgres {
    server: tokio_postgres::Config,
    tls: Option<PostgresTls>,
    settings: PostgresConfig,
    bounds: Bounds,
    names: Vec<(FieldKey, Box<str>)>,
    session: Option<PostgresSession>,
    batch_size: BatchSize,
    /// The position of a dead letter that could not be written, not even alone.
    unwritable: Option<Box<str>>,
}

/// Why calls have failed.
struct PostgresTrouble {
    error: SourceError,
    /// Whether a smaller request may succeed.
    is_too_much: bool,
}

impl From<PostgresTrouble> for SourceError {
    fn from(trouble: PostgresTrouble) -> Self {
        trouble.error
    }
}

impl Postgres {
    pub(super) fn new(name: &str, feed: &FeedConfig, prefix: &str) -> Result<Self, String> {
        let settings = feed.postgres.clone();
        let mut server = settings.url.read().map_err(|problem| format!("url {problem}"))?;
        // A configured application name is kept.
        if server.get_application_name().is_none() {
            server.application_name(format!("{prefix} feed {name}"));
        }
        server.connect_timeout(settings.timeout());
        let tls = match server.get_ssl_mode() {
            SslMode::Require => {
                let identity = settings.client_cert_file.as_deref().zip(settings.client_key_file.as_deref());
                let connector = tls_connector(settings.ca_file.as_deref(), identity);
                Some(PostgresTls(connector.map_err(|error| error.to_string())?))
            }
            // TLS is not used over a Unix socket.
            _ => {
                server.ssl_mode(SslMode::Disable);
                None
            }
        };
        let names = feed.fields.names().map(|(word, name)| (word, name.into())).into();
        let bounds = feed.bounds();
        let batch_size = BatchSize::new(bounds.records_max);
        Ok(Self { server, tls, bounds, names, session: None, settings, batch_size, unwritable: None })
    }

    /// Runs calls within the timeout, on the session, which is opened if there is none. A failure drops the session.
    async fn within<T>(
        &mut self,
        calls: impl AsyncFnOnce(&mut PostgresSession) -> Result<T, PostgresError>,
    ) -> Result<T, PostgresTrouble> {
        let timeout = self.settings.timeout();
        let Self { server, tls, settings, names, bounds, session, .. } = self;
        let done = tokio::time::timeout(timeout, async {
            let session = match session {
                Some(open) if !open.is_over() => open,
                closed => closed
                    .insert(PostgresSession::open(server, tls.as_ref(), settings, names, *bounds).await?),
            };
            calls(session).await
        });
        let (why, is_too_much) = match done.await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failed)) => (failed.to_string(), failed.is_too_much()),
            Err(_) => (format!("no answer within {} ms", timeout.as_millis()), true),
        };
        self.session = None;
        let error = SourceError(format!("table {} of PostgreSQL: {why}", self.settings.table));
        Err(PostgresTrouble { error, is_too_much })
    }

    async fn take_next(&mut self) -> Result<SourceItem, SourceError> {
        if self.batch_size.one_is_too_much()
            && let Some(record) = self.too_long_to_be_read().await?
        {
            return Ok(SourceItem::Records(vec![record]));
        }
        let (rows, record_bytes_max) = (self.batch_size.rows(), self.bounds.record_bytes_max);
        let taken = self.within(async |session| {
            Ok(match session.acquire_lock().await? {
                true => SourceItem::Records(session.take(rows, record_bytes_max).await?),
                false => SourceItem::NotOurs,
            })
        });
        let taken = taken.await;
        let taken = taken.inspect_err(|trouble| self.hold_back(trouble))?;
        if let SourceItem::Records(records) = &taken
            && !records.is_empty()
        {
            self.batch_size.was_in_time();
        }
        Ok(taken)
    }

    fn hold_back(&mut self, trouble: &PostgresTrouble) {
        if trouble.is_too_much {
            self.batch_size.was_too_much();
            let (table, rows) = (&self.settings.table, self.batch_size.rows());
            tracing::debug!(table, rows, "fewer rows of a table are asked for at once");
        }
    }

    /// Returns the next row as a record that is too long, if its stored size exceeds the limit. The size can be read
    /// even where the row itself cannot be read in time.
    async fn too_long_to_be_read(&mut self) -> Result<Option<FeedRecord>, SourceError> {
        let max = self.bounds.record_bytes_max;
        let next = self.within(async |session| {
            Ok(if session.acquire_lock().await? { session.stored_next().await? } else { None })
        });
        let too_long = next.await?.filter(|(_, bytes)| *bytes > max as u64);
        Ok(too_long.map(|(position, bytes)| FeedRecord {
            position,
            fields: Err(RecordError::TooLong { bytes, max }),
        }))
    }

    async fn settle_records(&mut self, settled: Vec<SettledRecord>) -> Result<(), SourceError> {
        let dead: Vec<&SettledRecord> = settled.iter().filter(|one| one.dead.is_some()).collect();
        let without = match (&dead[..], &self.unwritable) {
            ([alone], Some(unwritable)) => alone.position == *unwritable,
            _ => false,
        };
        let alone = if let [alone] = dead[..] { Some(alone.position.clone()) } else { None };
        match self.within(async |session| session.settle(&settled, without).await).await {
            Ok(()) => {
                if let Some(position) = self.unwritable.take_if(|_| without) {
                    let table = &self.settings.table;
                    tracing::warn!(
                        table,
                        %position,
                        "the database does not write a dead letter in time: if it is long, its content is left out"
                    );
                }
                Ok(())
            }
            Err(trouble) => {
                self.hold_back(&trouble);
                if trouble.is_too_much && self.batch_size.one_is_too_much() {
                    self.unwritable = alone;
                }
                Err(trouble.error)
            }
        }
    }

    async fn look_at(&mut self) -> Result<SourceCheck, SourceError> {
        let looked = self.within(async |session| {
            // A session that was just opened does not hold the lock.
            if !session.reads {
                return Ok(SourceCheck::NotOurs);
            }
            let (records, oldest) = session.look().await?;
            Ok(SourceCheck::Ours(Lag { records: Some(records), oldest }))
        });
        Ok(looked.await?)
    }
}

impl FeedSource for Postgres {
    fn take(&mut self) -> BoxFuture<'_, Result<SourceItem, SourceError>> {
        self.take_next().boxed()
    }

    fn settle(&mut self, settled: Vec<SettledRecord>) -> BoxFuture<'_, Result<(), SourceError>> {
        self.settle_records(settled).boxed()
    }

    fn look(&mut self) -> BoxFuture<'_, Result<SourceCheck, SourceError>> {
        self.look_at().boxed()
    }

    fn wait(&mut self, at_most: Duration) -> BoxFuture<'_, Result<(), SourceError>> {
        async move {
            if let Some(session) = &self.session {
                // The next step looks for rows, whether there was a notification or not.
                let _late = tokio::time::timeout(at_most, session.news()).await;
            }
            Ok(())
        }
        .boxed()
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        async move {
            if self.session.is_some()
                && let Err(PostgresTrouble { error, .. }) = self.within(async |session| session.leave().await).await
            {
                tracing::debug!(%error, "the lock on a table could not be released; it ends with the session");
            }
            self.session = None;
        }
        .boxed()
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("table", &self.settings.table).finish_non_exhaustive()
    }
}
