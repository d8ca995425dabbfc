//! The subcommands: page after page until all is told, to standard output.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::call::{ApiClient, CallError};
use super::gateway_args::{ChannelsArgs, ConnectionsArgs, GatewayAddress, GatewayArgs};
use super::print_listing;

/// What is listed.
#[derive(Clone, Copy, Debug)]
pub enum ListCommand<'a> {
    Channels(&'a ChannelsArgs),
    Connections(&'a ConnectionsArgs),
}

#[derive(Debug, thiserror::Error)]
enum ListError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the key cannot be read: {0}")]
    Key(#[from] crate::secret::SecretFileError),
    #[error("it cannot be written: {0}")]
    Write(#[from] io::Error),
    #[error("the answer holds no {0}")]
    Answer(&'static str),
}

/// Lists. Fails if not all of it could be told.
pub fn command(listing: ListCommand<'_>, of: GatewayAddress<'_>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("tidegate {} cannot start: {error}", listing.method());
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(list(listing, of, &mut io::stdout().lock())) {
        Ok(missing) if missing.is_empty() => ExitCode::SUCCESS,
        Ok(missing) => {
            eprintln!("these nodes have not told theirs: {}", missing.join(", "));
            ExitCode::FAILURE
        }
        // Whoever reads has seen enough.
        Err(ListError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate {}: {error}", listing.method());
            ExitCode::FAILURE
        }
    }
}

/// Answers the names of nodes that have not told theirs.
async fn list(
    listing: ListCommand<'_>,
    of: GatewayAddress<'_>,
    out: &mut impl Write,
) -> Result<Vec<String>, ListError> {
    let via = listing.via();
    let caller = ApiClient::new(&via.url(of), via.key(of)?.as_ref())?;
    let mut left = via.limit.unwrap_or(u64::MAX);
    let (mut cursor, mut listed, mut missing) = (via.cursor.clone(), 0_u64, Vec::<String>::new());
    loop {
        let mut parameters = listing.parameters();
        parameters["limit"] = u64::from(via.page).min(left).into();
        parameters["cursor"] = cursor.as_str().into();
        let page = caller.call(listing.method(), &parameters).await?;
        let entries = page[listing.method()].as_object().ok_or(ListError::Answer(listing.method()))?;
        if via.json {
            print_listing::lines(listing, entries, out)?;
        } else {
            print_listing::table(listing, entries, listed == 0, out)?;
        }
        listed += entries.len() as u64;
        left = left.saturating_sub(entries.len() as u64);
        for node in page["missing_nodes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !missing.iter().any(|known| known == node) {
                missing.push(node.to_owned());
            }
        }
        match page["cursor"].as_str() {
            Some(next) if next != cursor => next.clone_into(&mut cursor),
            _ => break,
        }
        if left == 0 {
            eprintln!("there are more: --cursor {cursor}");
            break;
        }
    }
    if !via.json {
        writeln!(out, "{listed} {}", listing.method())?;
    }
    Ok(missing)
}

impl ListCommand<'_> {
    pub(super) fn method(self) -> &'static str {
        match self {
            Self::Channels(_) => "channels",
            Self::Connections(_) => "connections",
        }
    }

    fn via(&self) -> &GatewayArgs {
        match self {
            Self::Channels(args) => &args.via,
            Self::Connections(args) => &args.via,
        }
    }

    fn parameters(self) -> Value {
        match self {
            Self::Channels(args) => json!({ "pattern": args.pattern }),
            Self::Connections(args) => {
                json!({ "user": args.user, "channel": args.channel, "client": args.client })
            }
        }
    }
}
