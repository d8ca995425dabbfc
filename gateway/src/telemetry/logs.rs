//! Structured logs, and traces if they are configured.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::{Dispatch, Subscriber};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::traces::{SPANS, TraceError, Traces};
use super::{LogFormat, TelemetryConfig};

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogSetupError {
    #[error("telemetry.log_level is not a log filter: {0}")]
    Filter(#[from] ParseError),
    #[error(transparent)]
    Traces(#[from] TraceError),
    #[error("logs are set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends all log lines and panics of this process to standard error. Call it once, inside the runtime that is to send
/// traces; flush the traces at the end.
pub fn init(config: &TelemetryConfig) -> Result<Option<Traces>, LogSetupError> {
    let (logs, level) = log_layer(config, std::io::stderr)?;
    let traces = Traces::start(config)?;
    listeners(logs, traces.as_ref()).try_init()?;
    // A process has one set of logs, which had not been set up before.
    let _ = LEVEL.set(level);
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "a thread panicked");
        default_hook(panic);
    }));
    Ok(traces)
}

/// The handle of the log level of this process, once logs are set up.
static LEVEL: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Sets the log level to `config.log_level`. Has no effect where another program has set up the logs.
pub fn set_level(config: &TelemetryConfig) -> Result<(), ParseError> {
    let filter = filter(config)?;
    if let Some(level) = LEVEL.get()
        && let Err(error) = level.reload(filter)
    {
        tracing::error!(%error, "the level of logs could not be changed");
    }
    Ok(())
}

/// Combines the layers. A layer that is present but empty would cause every span to be created for nobody, so unused
/// layers are left out.
fn listeners(logs: Box<dyn Layer<Registry> + Send + Sync>, traces: Option<&Traces>) -> Dispatch {
    match traces {
        Some(traces) => Registry::default().with(logs).with(traces.layer()).into(),
        None => Registry::default().with(logs).into(),
    }
}

type Logs<S> = Box<dyn Layer<S> + Send + Sync>;

/// Returns the layer that writes logs to `writer`. It ignores spans of traces, so that these cost nothing unless traces are on.
fn log_layer<S, W>(
    config: &TelemetryConfig,
    writer: W,
) -> Result<(Logs<S>, reload::Handle<Targets, S>), ParseError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, level) = reload::Layer::new(filter(config)?);
    let layer = fmt::layer().with_writer(writer);
    let layer = match config.log_format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    };
    Ok((layer, level))
}

fn filter(config: &TelemetryConfig) -> Result<Targets, ParseError> {
    let filter: Targets = config.log_level.parse()?;
    Ok(filter.with_target(SPANS, tracing::level_filters::LevelFilter::OFF))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Paper {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(config: &TelemetryConfig, log: impl FnOnce()) -> String {
        let paper = Paper::default();
        let subscriber = Registry::default().with(log_layer(config, paper.clone()).unwrap().0);
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(paper.0.lock().clone()).unwrap()
    }

    #[test]
    fn without_traces_their_spans_are_not_even_made() {
        let (logs, _) = log_layer(&TelemetryConfig::default(), std::io::sink).unwrap();
        tracing::dispatcher::with_default(&listeners(logs, None), || {
            assert!(tracing::info_span!(target: SPANS, "deliver").is_disabled());
            assert!(!tracing::info_span!("of a log").is_disabled());
        });
    }

    #[test]
    fn json_logs_are_one_object_a_line_with_their_fields() {
        let config = TelemetryConfig { log_format: LogFormat::Json, ..TelemetryConfig::default() };
        let text = logged(&config, || {
            tracing::info!(connections = 3, "a node\nstarts");
            tracing::debug!("too quiet");
        });
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(lines[0]).unwrap();
        assert_eq!(line["message"], "a node\nstarts");
        assert_eq!(line["connections"], 3);
        assert_eq!(line["level"], "INFO");
    }

    #[test]
    fn modules_have_levels_of_their_own() {
        let config = TelemetryConfig {
            log_level: "warn,tidegate::broker=debug".to_owned(),
            ..TelemetryConfig::default()
        };
        let text = logged(&config, || {
            tracing::info!(target: "tidegate::node", "not this");
            tracing::debug!(target: "tidegate::broker::redis", "but this");
        });
        assert!(!text.contains("not this") && text.contains("but this"), "{text}");
    }

    #[test]
    fn another_level_holds_from_when_it_is_set() {
        let paper = Paper::default();
        let (layer, level) = log_layer(&TelemetryConfig::default(), paper.clone()).unwrap();
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            tracing::debug!("before");
            let config = TelemetryConfig { log_level: "debug".to_owned(), ..TelemetryConfig::default() };
            level.reload(filter(&config).unwrap()).unwrap();
            tracing::debug!("after");
            assert!(tracing::info_span!(target: SPANS, "publish").is_disabled());
        });
        let text = String::from_utf8(paper.0.lock().clone()).unwrap();
        assert!(!text.contains("before") && text.contains("after"), "{text}");
    }

    #[test]
    fn spans_of_traces_are_off_where_only_logs_are_on() {
        let config = TelemetryConfig { log_level: "trace".to_owned(), ..TelemetryConfig::default() };
        logged(&config, || {
            assert!(tracing::info_span!(target: SPANS, "publish").is_disabled());
        });
    }
}
