//! `tidegate top`: what nodes do at this moment, in a terminal.
//!
//! `read_nodes` asks nodes for their metrics, `busiest_channels` the server API, `figures` makes rates and quantiles of
//! two readings, and `page` lays them out. The terminal is written to with the few control sequences that all of them know.

mod busiest_channels;
mod figures;
mod namespace_table;
mod page;
mod read_nodes;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::inspect::{CliError, GatewayAddress, GatewayArgs, on_this_machine, run_cli};
use busiest_channels::Channels;
use read_nodes::MetricsReader;

/// As wide as pages are where there is no terminal to ask.
const WIDTH: u16 = 120;

/// Show what nodes do at this moment, anew every second, until it is interrupted.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// The configuration that a gateway reads: says where it is, and gives a key of its server API.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// The internal listener of a node, such as `http://10.0.0.7:8001`: once for each node. Without it: that of the
    /// configuration, on this machine.
    #[arg(long = "node", value_name = "URL")]
    pub nodes: Vec<String>,
    /// Where the server API is, which knows the channels and the other nodes. Without it: where the configuration says, on
    /// this machine.
    #[arg(long = "api", value_name = "URL")]
    pub api: Option<String>,
    /// A key of the server API. Without it: the first of api.keys or api.keys_file.
    #[arg(long, env = "TIDEGATE_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// How often everything is read, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(200..=60_000))]
    pub interval_ms: u64,
    /// The most channels that are shown. 0: none, and the server API is not asked.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub channels: u32,
    /// Print one page, of two readings, and end.
    #[arg(long)]
    pub once: bool,
}

/// The other screen, without a cursor.
const OPEN: &[u8] = b"\x1b[?1049h\x1b[?25l";
const CLOSE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// Shows pages until it is interrupted, or one. Fails where no node has answered for that one.
pub fn command(args: &TopArgs, of: GatewayAddress<'_>, internal: SocketAddr) -> ExitCode {
    run_cli("top", async {
        let has_answered = show(args, of, internal).await?;
        Ok(if has_answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Returns whether a node has answered.
async fn show(args: &TopArgs, of: GatewayAddress<'_>, internal: SocketAddr) -> Result<bool, CliError> {
    let via = GatewayArgs { url: args.api.clone(), key: args.key.clone(), ..GatewayArgs::default() };
    let mut channels =
        (args.channels > 0).then(|| Channels::new(&via.url(of), via.key(of), args.channels as usize));
    let own = [format!("http://{}", on_this_machine(internal))];
    let nodes = if args.nodes.is_empty() { &own[..] } else { &args.nodes };
    let mut reader = MetricsReader::new(nodes)?;
    let is_terminal = io::stdout().is_terminal() && !args.once;
    // Before the screen: whoever interrupts it has it closed.
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Whoever stops it with Ctrl-Z has the shell's screen back for as long.
    let mut stopped = signal(SignalKind::from_raw(Signal::TSTP.as_raw()))?;
    let mut screen = Screen::open(is_terminal)?;
    let mut round = interval(Duration::from_millis(args.interval_ms));
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let read = async {
            round.tick().await;
            reader.read().await;
            if let Some(channels) = &mut channels {
                channels.read().await;
            }
        };
        tokio::select! {
            () = read => {}
            _ = interrupted.recv() => return Ok(true),
            _ = terminated.recv() => return Ok(true),
            _ = stopped.recv() => {
                screen.pause()?;
                continue;
            }
        }
        let has_rates = reader.nodes().iter().all(|node| node.gone.is_some() || node.readings.len() > 1);
        if !args.once || has_rates {
            let (width, height) = screen.size();
            let all = page::Page { nodes: reader.nodes(), channels: channels.as_ref() };
            screen.show(&all.lines(width.into()), height)?;
        }
        if args.once && has_rates {
            return Ok(reader.nodes().iter().any(|node| node.gone.is_none()));
        }
    }
}

/// Where pages are shown: a terminal, which is as it was before once this is dropped, or whoever reads one after the other.
struct Screen {
    is_terminal: bool,
}

impl Screen {
    fn open(is_terminal: bool) -> io::Result<Self> {
        if is_terminal {
            io::stdout().write_all(OPEN)?;
            io::stdout().flush()?;
        }
        Ok(Self { is_terminal })
    }

    /// Stops this process as if nobody had taken the signal for that. Goes on when it does.
    fn pause(&mut self) -> io::Result<()> {
        if self.is_terminal {
            io::stdout().write_all(CLOSE)?;
            io::stdout().flush()?;
        }
        kill_process(getpid(), Signal::STOP)?;
        if self.is_terminal {
            io::stdout().write_all(OPEN)?;
            io::stdout().flush()?;
        }
        Ok(())
    }

    /// Columns and lines.
    fn size(&self) -> (u16, Option<u16>) {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok();
        match size.filter(|size| size.ws_col > 0 && size.ws_row > 0) {
            Some(size) => (size.ws_col, self.is_terminal.then_some(size.ws_row)),
            None => (std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(WIDTH), None),
        }
    }

    fn show(&mut self, lines: &[String], height: Option<u16>) -> io::Result<()> {
        let mut text = String::with_capacity(8 * 1024);
        if self.is_terminal {
            // From the top, each line in place of the one before, and nothing of the page before below the last. What is
            // there is cleared first: behind a line as wide as the terminal, its last character would be.
            let rows = height.map_or(lines.len(), usize::from).min(lines.len());
            text.push_str("\x1b[H\x1b[K");
            text.push_str(&lines[..rows].join("\r\n\x1b[K"));
            text.push_str("\x1b[J");
        } else {
            text.extend(lines.iter().flat_map(|line| [line, "\n"]));
            text.push('\n');
        }
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.is_terminal {
            // There is nobody left to tell.
            let _ = io::stdout().write_all(CLOSE);
            let _ = io::stdout().flush();
        }
    }
}
