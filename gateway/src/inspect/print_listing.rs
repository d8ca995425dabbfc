//! Prints a page of a list, as a table or as JSON.

use std::io::{self, Write};

use serde_json::{Map, Value};

use super::inspect_cli::ListCommand;

/// The most channels of one connection that a table shows.
const CHANNELS_SHOWN_MAX: usize = 5;

/// Prints one object a line, together with the key of its entry.
pub(super) fn lines(
    listing: ListCommand<'_>,
    entries: &Map<String, Value>,
    out: &mut impl Write,
) -> io::Result<()> {
    let name = match listing {
        ListCommand::Channels(_) => "channel",
        ListCommand::Connections(_) => "client",
    };
    for (key, entry) in entries {
        let mut line = Map::from_iter([(name.to_owned(), key.as_str().into())]);
        line.extend(entry.as_object().cloned().unwrap_or_default());
        writeln!(out, "{}", Value::Object(line))?;
    }
    Ok(())
}

/// Prints a table. Columns separated by tabs would not line up, and wider columns would not fit, so names come last.
pub(super) fn table(
    listing: ListCommand<'_>,
    entries: &Map<String, Value>,
    is_first: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    match listing {
        ListCommand::Channels(_) => {
            if is_first {
                writeln!(out, "{:>10}  channel", "clients")?;
            }
            for (channel, entry) in entries {
                writeln!(out, "{:>10}  {}", entry["num_clients"].to_string(), plain(channel))?;
            }
        }
        ListCommand::Connections(_) => {
            if is_first {
                let (client, uptime, transport, protocol) = ("client", "uptime", "transport", "protocol");
                writeln!(out, "{client:<36}  {uptime:>10}  {transport:<14}  {protocol:<20}  user, channels")?;
            }
            for (client, entry) in entries {
                let text = |field: &str| plain(entry[field].as_str().unwrap_or_default());
                let uptime = format!("{} s", entry["uptime"]);
                let (transport, protocol) = (text("transport"), text("protocol"));
                write!(out, "{client:<36}  {uptime:>10}  {transport:<14}  {protocol:<20}  ")?;
                let user = text("user");
                write!(out, "{}", if user.is_empty() { "(anonymous)" } else { &user })?;
                let channels = entry["state"]["channels"].as_object();
                for channel in channels.into_iter().flat_map(Map::keys).take(CHANNELS_SHOWN_MAX) {
                    write!(out, ", {}", plain(channel))?;
                }
                let all = entry["num_channels"].as_u64().unwrap_or(0);
                match all.saturating_sub(CHANNELS_SHOWN_MAX as u64) {
                    0 => writeln!(out)?,
                    more => writeln!(out, ", and {more} more")?,
                }
            }
        }
    }
    Ok(())
}

/// Replaces control characters. Users and channels have names from outside, which must not move a terminal's cursor.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { char::REPLACEMENT_CHARACTER } else { one }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::inspect::{ChannelsArgs, ConnectionsArgs};

    fn shown(listing: ListCommand<'_>, entries: &Value, as_lines: bool) -> String {
        let (mut out, entries) = (Vec::new(), entries.as_object().unwrap());
        if as_lines {
            lines(listing, entries, &mut out).unwrap();
        } else {
            table(listing, entries, true, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn channels_are_shown_with_their_clients() {
        let (args, entries) = (ChannelsArgs::default(), json!({"a\u{1b}[2J": {"num_clients": 3}}));
        let table = shown(ListCommand::Channels(&args), &entries, false);
        assert_eq!(table, "   clients  channel\n         3  a\u{fffd}[2J\n");
        let lines = shown(ListCommand::Channels(&args), &entries, true);
        assert_eq!(lines, "{\"channel\":\"a\\u001b[2J\",\"num_clients\":3}\n");
    }

    #[test]
    fn connections_are_shown_with_the_first_of_their_channels() {
        let channels: Map<String, Value> = (1..=6).map(|number| (format!("c{number}"), json!({}))).collect();
        let entry = json!({
            "user": "", "uptime": 7, "transport": "websocket", "protocol": "raw",
            "num_channels": 6, "state": {"channels": channels},
        });
        let args = ConnectionsArgs::default();
        let table = shown(ListCommand::Connections(&args), &json!({"id": entry}), false);
        assert!(table.ends_with("(anonymous), c1, c2, c3, c4, c5, and 1 more\n"), "{table}");
    }
}
