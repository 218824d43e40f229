//! The command line: what the user wants done, as one value for `main` to dispatch on.

mod common;
mod count;
mod exit;
#[cfg(test)]
mod tests;
mod top;
mod trace;

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

#[cfg(test)]
pub(crate) use self::common::FlagValue;
pub(crate) use self::{
    common::CommonArgs,
    count::{CountArgs, CountFormat},
    exit::Exit,
    top::TopArgs,
    trace::{TraceArgs, TraceFormat},
};

/// Version of the package.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Git revision of a release build; empty when it is unknown.
pub(crate) const REVISION: &str = env!("SIDECAR_BUILD_REVISION");
/// Version and, where known, revision, as `--version` shows it.
pub(crate) const LONG_VERSION: &str = env!("SIDECAR_BUILD_VERSION");

/// What the user wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Invocation {
    /// Run the agent.
    Run(CommonArgs),
    /// Say what works on this machine and why the rest does not.
    Doctor(CommonArgs, Format),
    /// List the probes.
    Probes(CommonArgs, Format),
    /// Show events as they happen.
    Trace(CommonArgs, TraceArgs),
    /// Count things live.
    Count(CommonArgs, CountArgs),
    /// Show processes on a full screen.
    Top(CommonArgs, TopArgs),
    /// Check the configuration.
    ConfigCheck(CommonArgs),
    /// Print the configuration in effect.
    ConfigPrint(CommonArgs, FileFormat),
    /// Print the commented reference configuration.
    ConfigDefaults,
    /// Print a generated page.
    Codegen(Page),
    /// Print the version.
    Version,
}

/// How a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How a configuration is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileFormat {
    /// As the configuration file.
    #[value(alias = "text")]
    Yaml,
    /// With where each value came from, for programs.
    Json,
}

/// A generated page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Page {
    /// Reference of the metrics.
    Metrics,
    /// Reference of the configuration.
    Config,
    /// Table of the probes.
    Probes,
    /// Reference of the events.
    Events,
    /// JSON Schemas of the events, in one object.
    Schemas,
}

const EXAMPLES: &str = "\
Examples:
  sidecar                              every TCP connection of this machine
  sidecar --ports 80,443 --interval 5  only these ports, read every 5 seconds
  sidecar --pid 12345 --children       one process and its descendants
  sidecar --cgroup /system.slice/nginx.service --listen 0.0.0.0:9090
  curl http://127.0.0.1:9090/metrics   what it sees
  sidecar trace exec --duration 10s    programs that are started now
  sidecar count syscalls --pid 12345   what a process asks the kernel for
  sidecar top                          what all processes do, on a full screen
  sidecar doctor                       what works on this machine, and why not

Every flag has a key in the configuration file and a variable in the
environment: sidecar config print --defaults

Exit codes: ";

/// Shows what a service does as the Linux kernel sees it, without touching the service.
#[derive(Debug, Parser)]
#[command(
    name = "sidecar",
    version = LONG_VERSION,
    max_term_width = 80,
    after_help = help_end(),
    subcommand_value_name = "COMMAND"
)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Say what works on this machine, what does not, why, and what to do about it
    Doctor(Answer),
    /// List the probes: what they measure, what they cost, what they need
    Probes(Answer),
    /// Show events as they happen: programs that are started, connections that end, …
    Trace(TraceArgs),
    /// Count system calls, packets, … live, with a summary at the end
    Count(CountArgs),
    /// What processes do, on a full screen: counts, events, packets
    Top(TopArgs),
    /// Check or print the configuration
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Print a generated page of the documentation
    #[command(hide = true)]
    Codegen {
        /// Which page
        page: Page,
    },
    /// Print the version
    Version,
}

#[derive(Debug, clap::Args)]
struct Answer {
    /// How to answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Check the file, the environment and the flags; exit code 2 if anything is wrong
    Check {
        /// The file [default: as for running]
        file: Option<PathBuf>,
    },
    /// Print every value in effect and where it came from
    Print {
        /// How to print it
        #[arg(long, value_enum, default_value_t = FileFormat::Yaml)]
        format: FileFormat,
        /// Print a commented file of the defaults instead, to start from
        #[arg(long, conflicts_with = "format")]
        defaults: bool,
    },
}

fn help_end() -> String {
    let codes = Exit::ALL.map(|exit| format!("  {} {}", exit as u8, exit.meaning()));
    format!("{}\n{}", EXAMPLES.trim_end(), codes.join("\n"))
}

/// Reads the process's command line. Ends the process itself for `--help`, `--version` and what clap refuses (code 2).
pub(crate) fn parse() -> Invocation {
    parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

/// [`parse`] on given arguments, the program's name first.
pub(crate) fn parse_from(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let Cli { common, command } = Cli::try_parse_from(args)?;
    Ok(match command {
        None => Invocation::Run(common),
        Some(Verb::Doctor(answer)) => Invocation::Doctor(common, answer.format),
        Some(Verb::Probes(answer)) => Invocation::Probes(common, answer.format),
        Some(Verb::Count(args)) => Invocation::Count(common, args),
        Some(Verb::Top(args)) => Invocation::Top(common, args),
        Some(Verb::Trace(args)) => Invocation::Trace(common, args),
        Some(Verb::Config { verb: ConfigVerb::Check { file } }) => {
            let config = file.or(common.config);
            Invocation::ConfigCheck(CommonArgs { config, ..common })
        }
        Some(Verb::Config { verb: ConfigVerb::Print { defaults: true, .. } }) => Invocation::ConfigDefaults,
        Some(Verb::Config { verb: ConfigVerb::Print { format, .. } }) => {
            Invocation::ConfigPrint(common, format)
        }
        Some(Verb::Codegen { page }) => Invocation::Codegen(page),
        Some(Verb::Version) => Invocation::Version,
    })
}
