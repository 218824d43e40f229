//! Tests on Debian's kernels in virtual machines: what the verifier accepts and which hooks exist differs from one
//! kernel to the next, and no build machine has them all.

pub(crate) mod cpio;
pub(crate) mod initramfs;
pub(crate) mod kernels;
pub(crate) mod machine;
pub(crate) mod modules;

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{
    build::target_directory,
    executables,
    results::Counts,
    setup::{self, Group},
    shell::{relative, step},
};
use initramfs::Common;
use kernels::Kernel;
use machine::Report;

/// Longest a machine may take.
const LIMIT: Duration = Duration::from_mins(20);
/// Machines at a time; each has two emulated processors.
const PARALLEL: usize = 2;

/// Which machines and which tests.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Kernels by version or by Debian's suite: 5.10, 6.1, 6.12, newest; all if none is named
    #[arg(value_name = "KERNEL")]
    pub(crate) kernels: Vec<String>,
    /// Only test programs (`sidecar-execs`) or else tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    pub(crate) filter: Option<String>,
}

/// Boots the kernels, runs the tests on each and returns the sums; an error if a machine did not finish.
pub(crate) fn vm(options: &Options) -> Result<Counts> {
    let releases = kernels::select(&options.kernels)?;
    if env::consts::ARCH != "x86_64" {
        bail!("the machines run x86_64 kernels and this machine builds for {}", env::consts::ARCH);
    }
    setup::setup(&[Group::Build, Group::Test])?;
    let executables = executables::build()?;
    let kernels: Vec<Kernel> = releases.into_iter().map(kernels::fetch).collect::<Result<_>>()?;
    let work = target_directory()?.join("vm");
    fs::create_dir_all(&work)?;
    let common = Common::new(&executables, &work)?;

    step(&format!("booting {} kernels, {PARALLEL} at a time", kernels.len()));
    let mut reports = boot_all(&kernels, &common, &work, options.filter.as_deref())?;
    let order = |report: &Report| kernels.iter().position(|kernel| kernel.name == report.kernel);
    reports.sort_by_key(order);
    conclude(&reports, &work)
}

fn boot_all(kernels: &[Kernel], common: &Common, work: &Path, filter: Option<&str>) -> Result<Vec<Report>> {
    let waiting = Mutex::new(kernels.iter());
    let next = || waiting.lock().ok().and_then(|mut kernels| kernels.next());
    let run = || -> Result<Vec<Report>> {
        let mut reports = Vec::new();
        while let Some(kernel) = next() {
            let archive = work.join(format!("{}.cpio", kernel.name));
            common.write(&archive, &modules::collect(&kernel.tree)?, filter)?;
            reports.push(machine::boot(kernel, &archive, &log_path(work, kernel.name), LIMIT)?);
            fs::remove_file(&archive)?;
        }
        Ok(reports)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..PARALLEL).map(|_| scope.spawn(run)).collect();
        let mut reports = Vec::new();
        for worker in workers {
            let Ok(result) = worker.join() else { bail!("a worker panicked") };
            reports.extend(result?);
        }
        Ok(reports)
    })
}

fn log_path(work: &Path, kernel: &str) -> PathBuf {
    work.join(format!("{kernel}.log"))
}

/// Prints what went wrong and the table.
fn conclude(reports: &[Report], work: &Path) -> Result<Counts> {
    let mut sum = Counts::default();
    let mut unfinished = Vec::new();
    for report in reports {
        sum += report.counts;
        for skip in &report.skips {
            println!("  [{}] skipped {skip}", report.kernel);
        }
        if report.error.is_some() || report.counts.failed > 0 {
            println!(
                "\n--- end of the console of {}; all of it: {}",
                report.kernel,
                relative(&log_path(work, report.kernel))
            );
            report.tail.iter().for_each(|line| println!("    {line}"));
        }
        if let Some(error) = &report.error {
            unfinished.push(format!("{}: {error}", report.kernel));
        }
    }
    println!(
        "\n{:<8} {:<28} {:>7} {:>7} {:>8} {:>8}",
        "kernel", "booted", "passed", "failed", "skipped", "seconds"
    );
    for Report { kernel, booted, counts, elapsed, .. } in reports {
        let Counts { passed, failed, skipped } = counts;
        println!(
            "{kernel:<8} {booted:<28} {passed:>7} {failed:>7} {skipped:>8} {:>8.1}",
            elapsed.as_secs_f64()
        );
    }
    if !unfinished.is_empty() {
        bail!("{}", unfinished.join("; "));
    }
    Ok(sum)
}
