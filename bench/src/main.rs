//! What `cargo xtask bench` starts inside its machine, and beside the agent on this one: fixed workloads, the cheapest
//! program a hook can have, and readings of what a process has used. No probe and no library of ours takes part in what
//! is measured.
//!
//! Lines that begin with `@@` are results; `cargo xtask bench` reads them.

mod floor;
mod host;
mod http;
mod load;
mod usage;
mod workloads;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

const USAGE: &str =
    "usage: sidecar-bench measure WORKLOAD BLOCKS OPERATIONS   nanoseconds per operation of each block
       sidecar-bench floor tp_btf|raw_tp|fentry|xdp HOOK      attach an empty program and stay
       sidecar-bench ready ADDRESS                            wait until the agent there is ready
       sidecar-bench scrape ADDRESS SECONDS                   read its metrics every so many seconds
       sidecar-bench usage PID LABEL                          what a process has used
       sidecar-bench host AGENT                               the agent on this machine (as root)";

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
        [workloads::PEER] => workloads::peer(),
        [load::HOLD, count] => load::hold(number(count)?),
        ["floor", kind, hook] => floor::hold(kind, hook),
        ["ready", address] => http::ready(address),
        ["scrape", address, seconds] => http::scrape(address, number(seconds)?),
        ["usage", pid, label] => usage::print(number(pid)? as u32, label),
        ["host", agent] => host::measure(agent),
        _ => bail!("{USAGE}"),
    }
}

fn number(word: &str) -> Result<u64> {
    word.parse().with_context(|| format!("`{word}` is no number\n{USAGE}"))
}
