//! All tests: those of the code, those of this machine's kernel, and those of the kernels in virtual machines.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::host_triple,
    executables::cargo_test,
    results::{Counts, Reader},
    setup::{self, Group},
    shell::{find_program, is_root, show, step},
    vm,
};

/// Which tests.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Leave out the virtual machines
    #[arg(long)]
    quick: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// Runs them all and says how many passed; an error if one failed.
pub(crate) fn test(options: &Options) -> Result<()> {
    let groups: &[Group] = if options.quick { &[Group::Build] } else { &[Group::Build, Group::Test] };
    setup::setup(groups)?;
    step("testing on this machine");
    let (mut sum, ok) = on_this_machine(options.filter.as_deref())?;
    println!("this machine: {sum}");
    if !ok && sum == Counts::default() {
        bail!("the tests did not compile: see the messages above");
    }
    let mut trouble = (!ok).then(|| "tests on this machine failed".to_owned());
    if !options.quick {
        let options = vm::Options { filter: options.filter.clone(), ..vm::Options::default() };
        match vm::vm(&options) {
            Ok(counts) => sum += counts,
            Err(error) => trouble = Some(format!("{error:#}")),
        }
    }
    println!("\n{sum}");
    match trouble {
        Some(trouble) => bail!("{trouble}"),
        None if sum.failed > 0 => bail!("{} tests failed", sum.failed),
        None if sum.passed == 0 => bail!("no test ran"),
        None => Ok(()),
    }
}

/// `cargo test`, its output passed on and counted. Successful tests show their output because it may be the reason
/// why they were skipped.
fn on_this_machine(filter: Option<&str>) -> Result<(Counts, bool)> {
    let mut cargo = cargo_test(&[])?;
    cargo.arg("--no-fail-fast");
    as_root(&mut cargo)?;
    cargo.args(filter).args(["--", "--show-output"]).stdout(Stdio::piped());
    let mut child = cargo.spawn().with_context(|| format!("cannot start `{}`", show(&cargo)))?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut reader = Reader::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        reader.line(&line);
        println!("{line}");
    }
    let status = child.wait()?;
    for skip in &reader.skips {
        println!("skipped {skip}");
    }
    Ok((reader.counts, status.success()))
}

/// Loading programs needs root: cargo builds as the user and runs the tests through sudo.
fn as_root(cargo: &mut Command) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    if find_program("sudo").is_none() {
        println!("  not root and no sudo: tests that load programs into the kernel will say so");
        return Ok(());
    }
    let variable = format!("CARGO_TARGET_{}_RUNNER", host_triple()?.to_uppercase().replace('-', "_"));
    cargo.env(variable, "sudo --preserve-env");
    Ok(())
}
