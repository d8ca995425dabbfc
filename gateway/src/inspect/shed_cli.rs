//! `tidegate shed`: has the nodes of a running cluster close the clients that other nodes have room for.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::call::ApiClient;
use super::gateway_args::{GatewayAddress, GatewayArgs};
use super::run_cli::{CliError, run_cli};

#[derive(Clone, Debug, Default, Args)]
pub struct ShedArgs {
    /// Configuration file of the gateway, for the address and a key of its server API.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// URL of the server API. Default: the configured address, on this machine.
    #[arg(long)]
    pub url: Option<String>,
    /// A key of the server API. Default: the first of api.keys or api.keys_file.
    #[arg(long, env = "TIDEGATE_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// Rebalance only this node, by its name or uid. Default: all nodes.
    #[arg(long, default_value = "")]
    pub node: String,
    /// Time over which clients are closed, in seconds, at least. 0: balance.over_s of each node.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub over: u32,
    /// Tolerated excess over the mean, in percent: a node within it closes no clients. 0: balance.tolerance_percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 0)]
    pub tolerance: u32,
    /// Stop rebalancing: close no more clients.
    #[arg(long)]
    pub stop: bool,
    /// Print the answer as JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Calls the API, and prints what each node does. Fails if not all nodes have answered.
pub fn shed(args: &ShedArgs, of: GatewayAddress<'_>) -> ExitCode {
    run_cli("shed", async {
        let answer = ask(args, of).await?;
        show(&answer, args.json, &mut io::stdout().lock())?;
        Ok(verdict(&answer))
    })
}

fn verdict(answer: &Value) -> ExitCode {
    let listed = |field: &str| answer[field].as_array().map_or(&[][..], Vec::as_slice);
    let missing: Vec<&str> = listed("missing_nodes").iter().filter_map(Value::as_str).collect();
    if !missing.is_empty() {
        eprintln!("these nodes did not answer, or run an earlier release: {}", missing.join(", "));
        return ExitCode::FAILURE;
    }
    if listed("nodes").iter().any(|node| node["state"] == "unknown") {
        eprintln!(
            "a node does not know yet how many clients the other nodes have, and closes none: try again in some seconds"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

async fn ask(args: &ShedArgs, of: GatewayAddress<'_>) -> Result<Value, CliError> {
    let via = GatewayArgs { url: args.url.clone(), key: args.key.clone(), ..GatewayArgs::default() };
    let caller = ApiClient::new(&via.url(of), via.key(of)?.as_ref())?;
    let request = json!({
        "node": args.node, "over_s": args.over, "tolerance_percent": args.tolerance, "stop": args.stop,
    });
    Ok(caller.call("shed", &request).await?)
}

fn show(answer: &Value, as_json: bool, out: &mut impl Write) -> io::Result<()> {
    if as_json {
        return writeln!(out, "{answer}");
    }
    writeln!(
        out,
        "{:>10}  {:>10}  {:>10}  {:>8}  {:<8}  node",
        "clients", "mean", "to close", "over", "state"
    )?;
    for node in answer["nodes"].as_array().into_iter().flatten() {
        let number = |field: &str| node[field].as_u64().unwrap_or(0);
        let text = |field: &str| super::print_listing::plain(node[field].as_str().unwrap_or_default());
        let over = format!("{} s", number("over_ms").div_ceil(1000));
        writeln!(
            out,
            "{:>10}  {:>10}  {:>10}  {over:>8}  {:<8}  {}",
            number("before"),
            number("mean"),
            number("to_close"),
            text("state"),
            text("name")
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_node_does_is_a_line() {
        let answer = json!({ "nodes": [{
            "uid": "1", "name": "a\u{7}", "state": "started", "before": 500, "mean": 334, "to_close": 166, "closed": 0,
            "over_ms": 60_000,
        }] });
        let shown = |as_json| {
            let mut out = Vec::new();
            show(&answer, as_json, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let line = shown(false).lines().nth(1).unwrap().to_owned();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["500", "334", "166", "60", "s", "started", "a\u{fffd}"]
        );
        assert_eq!(serde_json::from_str::<Value>(&shown(true)).unwrap(), answer);
    }
}
