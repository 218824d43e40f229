//! The agent and its command line. Everything a command does is in the module of its name; this only hands over.

mod agent;
mod cli;
mod config;
mod count;
mod doctor;
mod enrich;
mod events;
mod listing;
mod load;
mod serve;
mod top;
mod trace;

use std::{env, process::ExitCode};

use sidecar_probes::PROBES;

use crate::cli::{Exit, Invocation, Page};

fn main() -> ExitCode {
    let exit = match cli::parse() {
        Invocation::Run(args) => agent::run(&args),
        Invocation::Doctor(args, format) => with_config(&args, |config| doctor::run(config, format)),
        Invocation::Probes(args, format) => {
            with_config(&args, |config| print(&listing::probes(config, format)))
        }
        Invocation::Trace(common, args) => trace::run(&common, &args),
        Invocation::Count(common, args) => count::run(&common, &args),
        Invocation::Top(common, args) => top::run(&common, &args),
        Invocation::ConfigCheck(args) => with_config(&args, |config| print(&config::verdict(config))),
        Invocation::ConfigPrint(args, format) => with_config(&args, |config| {
            print(&match format {
                cli::FileFormat::Yaml => config::yaml(config),
                cli::FileFormat::Json => config::json(config),
            })
        }),
        Invocation::ConfigDefaults => print(&config::defaults(PROBES)),
        Invocation::Codegen(page) => print(&match page {
            Page::Config => config::markdown(PROBES),
            Page::Metrics => {
                listing::metrics_page(PROBES, &[agent::METRICS, events::METRICS, serve::METRICS].concat())
            }
            Page::Probes => listing::probes_page(PROBES),
            Page::Events => events::index_page(PROBES),
            Page::Schemas => events::schemas(PROBES),
        }),
        Invocation::Version => print(&format!("sidecar {}\n", cli::LONG_VERSION)),
    };
    exit.into()
}

fn with_config(args: &cli::CommonArgs, run: impl FnOnce(&config::Config) -> Exit) -> Exit {
    match config::load(args, env::vars_os(), PROBES) {
        Ok(config) => run(&config),
        Err(errors) => {
            eprintln!("sidecar: {errors}");
            Exit::Usage
        }
    }
}

/// Writes to standard output; a reader that has gone away (`| head`) is not an error.
fn print(text: &str) -> Exit {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("sidecar: standard output: {error}");
            Exit::Failure
        }
        _ => Exit::Ok,
    }
}
