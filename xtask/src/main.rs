//! The project's own commands. Everything a contributor or the continuous integration does is one of them, so that
//! both do the same.

mod bench;
mod build;
mod codegen;
mod executables;
mod lint;
mod new_probe;
mod results;
mod run;
mod setup;
mod shell;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

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
    /// Run all tests, on this machine and in virtual machines
    Test(test::Options),
    /// Check format and lints of both sides
    Lint,
    /// Begin a new probe
    NewProbe(new_probe::Options),
    /// Write the documentation that comes from the code
    Codegen(codegen::Options),
    /// Check the repository's own rules
    Tidy,
    /// Run the tests that look at a kernel on Debian's kernels in virtual machines
    Vm(vm::Options),
    /// Measure what watching costs
    Bench(bench::Options),
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        // Not as `Result` from `main`: a backtrace through this program helps nobody.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<()> {
    match task {
        Task::Setup { groups } => {
            setup::setup(&groups)?;
            setup::summary()
        }
        Task::Build(options) => {
            setup::setup(&[Group::Build])?;
            build::build(&options).map(drop)
        }
        Task::Run { arguments } => run::run(&arguments),
        Task::Test(options) => test::test(&options),
        Task::Lint => lint::lint(),
        Task::Codegen(options) => codegen::codegen(options),
        Task::NewProbe(options) => new_probe::new_probe(&options),
        Task::Tidy => tidy::tidy(),
        Task::Vm(options) => vm(&options),
        Task::Bench(options) => bench::bench(&options),
    }
}

fn vm(options: &vm::Options) -> Result<()> {
    let counts = vm::vm(options)?;
    println!("\n{counts}");
    anyhow::ensure!(counts.failed == 0, "{} tests failed", counts.failed);
    Ok(())
}
