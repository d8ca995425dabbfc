//! The subcommands that list: they request page after page, and print to standard output.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::call::ApiClient;
use super::gateway_args::{ChannelsArgs, ConnectionsArgs, GatewayAddress, GatewayArgs};
use super::print_listing;
use super::run_cli::{CliError, run_cli};

/// The list to print.
#[derive(Clone, Copy, Debug)]
pub enum ListCommand<'a> {
    Channels(&'a ChannelsArgs),
    Connections(&'a ConnectionsArgs),
}

/// Prints the list. Fails if it is not complete.
pub fn command(listing: ListCommand<'_>, of: GatewayAddress<'_>) -> ExitCode {
    run_cli(listing.method(), async {
        let missing = list(listing, of, &mut io::stdout().lock()).await?;
        if missing.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("the list is incomplete: these nodes did not answer: {}", missing.join(", "));
        Ok(ExitCode::FAILURE)
    })
}

/// Prints the list, and returns the names of nodes whose part is missing.
async fn list(
    listing: ListCommand<'_>,
    of: GatewayAddress<'_>,
    out: &mut impl Write,
) -> Result<Vec<String>, CliError> {
    let via = listing.via();
    let caller = ApiClient::new(&via.url(of), via.key(of)?.as_ref())?;
    let mut left = via.limit.unwrap_or(u64::MAX);
    let (mut cursor, mut listed, mut missing) = (via.cursor.clone(), 0_u64, Vec::<String>::new());
    loop {
        let mut parameters = listing.parameters();
        parameters["limit"] = u64::from(via.page).min(left).into();
        parameters["cursor"] = cursor.as_str().into();
        let page = caller.call(listing.method(), &parameters).await?;
        let entries = page[listing.method()].as_object().ok_or(CliError::Answer(listing.method()))?;
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
            eprintln!("there are more entries: continue with --cursor {cursor}");
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
