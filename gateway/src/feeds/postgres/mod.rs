//! A table of PostgreSQL, read by one node at a time: its rows are deleted as they are published.
//!
//! The turn is an advisory lock of the session: it ends with the session, whatever becomes of the node. Nothing is read past
//! rows that are still there, so a transaction that ends late is not missed. No transaction is open while rows are published.

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
    appetite: BatchSize,
    /// A dead letter that could not be written, not even alone.
    unwritable: Option<Box<str>>,
}

/// Why calls came to nothing.
struct PostgresTrouble {
    error: SourceError,
    /// Of less there may be an answer.
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
        // One that has an application's name keeps it.
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
            // Over a socket nothing else is spoken.
            _ => {
                server.ssl_mode(SslMode::Disable);
                None
            }
        };
        let names = feed.fields.names().map(|(word, name)| (word, name.into())).into();
        let bounds = feed.bounds();
        let appetite = BatchSize::new(bounds.records_max);
        Ok(Self { server, tls, bounds, names, session: None, settings, appetite, unwritable: None })
    }

    /// Runs calls within the timeout, on a session that is opened if there is none. After a failure there is none.
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
        if self.appetite.one_is_too_much()
            && let Some(record) = self.too_long_to_be_read().await?
        {
            return Ok(SourceItem::Records(vec![record]));
        }
        let (rows, record_bytes_max) = (self.appetite.rows(), self.bounds.record_bytes_max);
        let taken = self.within(async |session| {
            Ok(match session.take_turn().await? {
                true => SourceItem::Records(session.take(rows, record_bytes_max).await?),
                false => SourceItem::NotOurs,
            })
        });
        let taken = taken.await;
        let taken = taken.inspect_err(|trouble| self.hold_back(trouble))?;
        if let SourceItem::Records(records) = &taken
            && !records.is_empty()
        {
            self.appetite.was_in_time();
        }
        Ok(taken)
    }

    fn hold_back(&mut self, trouble: &PostgresTrouble) {
        if trouble.is_too_much {
            self.appetite.was_too_much();
            let (table, rows) = (&self.settings.table, self.appetite.rows());
            tracing::debug!(table, rows, "fewer rows of a table are asked for at once");
        }
    }

    /// The next row, if what the table stores of it is more than a record may have: that much can be asked also where the
    /// row itself cannot be read in time.
    async fn too_long_to_be_read(&mut self) -> Result<Option<FeedRecord>, SourceError> {
        let max = self.bounds.record_bytes_max;
        let next = self.within(async |session| {
            Ok(if session.take_turn().await? { session.stored_next().await? } else { None })
        });
        let too_long = next.await?.filter(|(_, bytes)| *bytes > max as u64);
        Ok(too_long.map(|(position, bytes)| FeedRecord {
            position,
            fields: Err(RecordError::TooLong { bytes, max }),
        }))
    }

    async fn let_go(&mut self, settled: Vec<SettledRecord>) -> Result<(), SourceError> {
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
                        "a dead letter is more than the database writes in time: if it is long, its content is left out"
                    );
                }
                Ok(())
            }
            Err(trouble) => {
                self.hold_back(&trouble);
                if trouble.is_too_much && self.appetite.one_is_too_much() {
                    self.unwritable = alone;
                }
                Err(trouble.error)
            }
        }
    }

    async fn look_at(&mut self) -> Result<SourceCheck, SourceError> {
        let looked = self.within(async |session| {
            // Of a session that was opened anew it is not.
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
        self.let_go(settled).boxed()
    }

    fn look(&mut self) -> BoxFuture<'_, Result<SourceCheck, SourceError>> {
        self.look_at().boxed()
    }

    fn wait(&mut self, at_most: Duration) -> BoxFuture<'_, Result<(), SourceError>> {
        async move {
            if let Some(session) = &self.session {
                // Whether something has come or not is looked for next.
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
                tracing::debug!(%error, "the turn to read a table could not be given back; it ends with the session");
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
