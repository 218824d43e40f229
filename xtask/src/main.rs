//! The project's own commands. Everything a contributor or the continuous integration does is one of them, so that
//! both do the same.

mod build;
mod run;
mod setup;
mod shell;

use anyhow::Result;
use clap::{Parser, Subcommand};
use setup::Group;

/// Builds, tests and checks eBPF Sidecar.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing to build, test and check
    Setup {
        /// Only for these purposes
        #[arg(long = "for", value_enum, value_name = "PURPOSE", default_values = ["build", "test"])]
        groups: Vec<Group>,
    },
    /// Build the agent
    Build(build::Options),
    /// Build the agent and run it
    Run {
        /// Arguments of the agent
        #[arg(last = true)]
        arguments: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Setup { groups } => {
            setup::setup(&groups)?;
            setup::summary()
        }
        Task::Build(options) => {
            setup::setup(&[Group::Build])?;
            build::build(&options).map(drop)
        }
        Task::Run { arguments } => run::run(&arguments),
    }
}
