//! Where and with what the figures were taken: without that, they say nothing.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

use super::results::Facts;
use crate::{
    shell::{output, root},
    vm::kernels,
};

/// What is the same for all figures of a run.
pub(super) fn facts() -> Result<Facts> {
    let git = |arguments: &[&str]| output(Command::new("git").current_dir(root()).args(arguments));
    let mut revision = git(&["rev-parse", "--short=12", "HEAD"])?.trim().to_owned();
    if !git(&["status", "--porcelain", "--", "crates", "probes", "exporters"])?.is_empty() {
        revision.push_str(" with changes");
    }
    Ok(Facts {
        date: output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?.trim().to_owned(),
        revision,
        processor: processor()?,
        ..Facts::default()
    })
}

/// This machine: processor and kernel.
fn processor() -> Result<String> {
    let information = fs::read_to_string("/proc/cpuinfo").context("cannot read /proc/cpuinfo")?;
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("a processor without a name", |(_, model)| model.trim());
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's release")?;
    Ok(format!("{model}, Linux {}", release.trim()))
}

pub(super) fn qemu() -> Result<String> {
    let text = output(Command::new("qemu-system-x86_64").arg("--version"))?;
    let version = text.split("version ").nth(1).and_then(|rest| rest.split_whitespace().next());
    version.map(str::to_owned).context("qemu-system-x86_64 tells no version")
}

/// The version of the unpacked tools: their changelog's first entry.
pub(super) fn tools(tree: &Path) -> Result<String> {
    let changelog = kernels::find(tree, "changelog.Debian.gz").context("libbpf-tools has no changelog")?;
    let text = output(Command::new("gzip").arg("-dc").arg(&changelog))?;
    let version = text.split(['(', ')']).nth(1);
    version.map(str::to_owned).context("the changelog of libbpf-tools begins with no version")
}
