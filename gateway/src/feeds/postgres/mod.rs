//! A table of PostgreSQL, read by one node at a time: its rows are deleted as they are published.
//!
//! The turn is an advisory lock of the session: it ends with the session, whatever becomes of the node. Nothing is read past
//! rows that are still there, so a transaction that ends late is not missed. No transaction is open while rows are published.

mod config;
mod session;
mod tls;

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio_postgres::config::SslMode;

pub use self::config::{Config, PostgresUrl};
use self::session::{Failed, Session};
use self::tls::Tls;
use super::config::Feed;
use super::source::{Bounds, Lag, Look, Settled, Source, SourceError, Taken, Word};
use crate::broker::redis::tls_connector;

/// The table, and this node as its reader.
pub(super) struct Postgres {
    server: tokio_postgres::Config,
    tls: Option<Tls>,
    settings: Config,
    bounds: Bounds,
    names: Vec<(Word, Box<str>)>,
    session: Option<Session>,
}

impl Postgres {
    pub(super) fn new(name: &str, feed: &Feed, prefix: &str) -> Result<Self, String> {
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
                Some(Tls(connector.map_err(|error| error.to_string())?))
            }
            // Over a socket nothing else is spoken.
            _ => {
                server.ssl_mode(SslMode::Disable);
                None
            }
        };
        let names = feed.fields.names().map(|(word, name)| (word, name.into())).into();
        Ok(Self { server, tls, bounds: feed.bounds(), names, session: None, settings })
    }

    /// Runs calls within the timeout, on a session that is opened if there is none. After a failure there is none.
    async fn within<T>(
        &mut self,
        calls: impl AsyncFnOnce(&mut Session) -> Result<T, Failed>,
    ) -> Result<T, SourceError> {
        let timeout = self.settings.timeout();
        let Self { server, tls, settings, names, bounds, session, .. } = self;
        let done = tokio::time::timeout(timeout, async {
            let session = match session {
                Some(open) if !open.is_over() => open,
                closed => closed.insert(Session::open(server, tls.as_ref(), settings, names, *bounds).await?),
            };
            calls(session).await
        });
        let why = match done.await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(failed)) => failed.to_string(),
            Err(_) => format!("no answer within {} ms", timeout.as_millis()),
        };
        self.session = None;
        Err(SourceError(format!("table {} of PostgreSQL: {why}", self.settings.table)))
    }

    async fn take_next(&mut self) -> Result<Taken, SourceError> {
        let record_bytes_max = self.bounds.record_bytes_max;
        let taken = self.within(async |session| {
            Ok(match session.take_turn().await? {
                true => Taken::Records(session.take(record_bytes_max).await?),
                false => Taken::NotOurs,
            })
        });
        taken.await
    }

    async fn look_at(&mut self) -> Result<Look, SourceError> {
        let looked = self.within(async |session| {
            // Of a session that was opened anew it is not.
            if !session.reads {
                return Ok(Look::NotOurs);
            }
            let (records, oldest) = session.look().await?;
            Ok(Look::Ours(Lag { records: Some(records), oldest }))
        });
        looked.await
    }
}

impl Source for Postgres {
    fn take(&mut self) -> BoxFuture<'_, Result<Taken, SourceError>> {
        self.take_next().boxed()
    }

    fn settle(&mut self, settled: Vec<Settled>) -> BoxFuture<'_, Result<(), SourceError>> {
        async move { self.within(async |session| session.settle(&settled).await).await }.boxed()
    }

    fn look(&mut self) -> BoxFuture<'_, Result<Look, SourceError>> {
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
                && let Err(error) = self.within(async |session| session.leave().await).await
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
