//! `tidegate top`: shows in a terminal what nodes are doing.
//!
//! `read_nodes` requests the metrics of nodes, `busiest_channels` asks the server API, `figures` computes rates and
//! quantiles from two readings, and `page` lays them out. Only control sequences that every terminal knows are used.

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

/// The width of pages where there is no terminal to ask.
const WIDTH: u16 = 120;

/// Show live activity of nodes, refreshed every second, until interrupted.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Configuration file of a gateway, for its addresses and a key of its server API.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// URL of a node's internal listener, such as `http://10.0.0.7:8001`. Repeat it for several nodes. Default: the
    /// configured address, on this machine.
    #[arg(long = "node", value_name = "URL")]
    pub nodes: Vec<String>,
    /// URL of the server API, from which channels and other nodes are learned. Default: the configured address, on this
    /// machine.
    #[arg(long = "api", value_name = "URL")]
    pub api: Option<String>,
    /// A key of the server API. Default: the first of api.keys or api.keys_file.
    #[arg(long, env = "TIDEGATE_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Interval between two refreshes, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(200..=60_000))]
    pub interval_ms: u64,
    /// The most channels to show. 0: none, and the server API is not called.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub channels: u32,
    /// Print one page, made from two readings, and exit.
    #[arg(long)]
    pub once: bool,
}

/// Opens the alternate screen and hides the cursor.
const OPEN: &[u8] = b"\x1b[?1049h\x1b[?25l";
const CLOSE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// Shows pages until it is interrupted, or prints one page. Fails if no node has answered for that one.
pub fn command(args: &TopArgs, of: GatewayAddress<'_>, internal: SocketAddr) -> ExitCode {
    run_cli("top", async {
        let has_answered = show(args, of, internal).await?;
        Ok(if has_answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Shows pages. Returns whether a node has answered.
async fn show(args: &TopArgs, of: GatewayAddress<'_>, internal: SocketAddr) -> Result<bool, CliError> {
    let via = GatewayArgs { url: args.api.clone(), key: args.key.clone(), ..GatewayArgs::default() };
    let mut channels =
        (args.channels > 0).then(|| Channels::new(&via.url(of), via.key(of), args.channels as usize));
    let own = [format!("http://{}", on_this_machine(internal))];
    let nodes = if args.nodes.is_empty() { &own[..] } else { &args.nodes };
    let mut reader = MetricsReader::new(nodes)?;
    let is_terminal = io::stdout().is_terminal() && !args.once;
    // Installed before the screen opens, so that an interrupt closes the screen.
    let (mut interrupted, mut terminated) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Ctrl-Z restores the shell's screen until the process continues.
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

/// The output of pages: a terminal, which is restored when this is dropped, or a reader of one page after the other.
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

    /// Stops this process, as the default action of SIGTSTP does. Returns when it continues.
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

    /// Returns the columns, and the lines if there is a terminal.
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
            // From the top, each line over the old one, and nothing of the old page below the last. A line is cleared
            // before it is written: clearing behind a line as wide as the terminal would erase its last character.
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
            // Best effort: nobody is left to report an error to.
            let _ = io::stdout().write_all(CLOSE);
            let _ = io::stdout().flush();
        }
    }
}
