//! What `cargo xtask bench` starts inside its machine, and beside the agent on this one: fixed workloads, the cheapest
//! program a hook can have, and readings of what a process has used. No probe, no library of ours takes part in what is
//! measured.

mod floor;
mod http;
mod load;
mod usage;
mod workloads;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "usage: sidecar-bench measure WORKLOAD BLOCKS OPERATIONS
       sidecar-bench floor tp_btf|raw_tp|fentry HOOK
       sidecar-bench ready ADDRESS
       sidecar-bench scrape ADDRESS SECONDS
       sidecar-bench get ADDRESS PATH
       sidecar-bench usage PID
       sidecar-bench connections COUNT PER_SECOND
       sidecar-bench hold COUNT
       sidecar-bench spread COUNT";

fn main() -> ExitCode {
    match perform() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidecar-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["measure", workload, blocks, operations] => {
            workloads::measure(workload, number(blocks)?, number(operations)?)
        }
        ["peer"] => workloads::peer(),
        ["floor", kind, hook] => floor::hold(kind, hook),
        ["ready", address] => http::ready(address),
        ["scrape", address, seconds] => http::scrape(address, number(seconds)?),
        ["get", address, path] => {
            print!("{}", http::get(address, path)?);
            Ok(())
        }
        ["usage", pid] => usage::print(number(pid)? as u32),
        ["connections", count, per_second] => load::connections(number(count)?, number(per_second)?),
        ["hold", count] => load::hold(number(count)?),
        ["spread", count] => load::spread(number(count)?),
        _ => bail!("{USAGE}"),
    }
}

fn number(word: &str) -> Result<u64> {
    word.parse().with_context(|| format!("`{word}` is no number\n{USAGE}"))
}
