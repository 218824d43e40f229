//! Formatting and clippy for both workspaces. The kernel side needs its own compiler's clippy, because only that
//! compiler can build `core` for the BPF target.

use std::env;

use anyhow::Result;
use sidecar_build::Toolchain;

use crate::{
    build::target_directory,
    setup::{self, Group},
    shell::{cargo, root, run, step},
};

/// Checks both sides; an error at the first that has something to repair.
pub(crate) fn lint() -> Result<()> {
    setup::setup(&[Group::Build, Group::Lint])?;
    let kernel_side = root().join("crates/sidecar-ebpf");

    step("checking the format");
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo().current_dir(&kernel_side).args(["fmt", "--check"]))?;

    step("clippy, user side");
    run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;

    step("clippy, kernel side");
    let mut clippy = Toolchain::find(&root())?.cargo(&kernel_side, env::consts::ARCH);
    clippy.args(["clippy", "--quiet", "--release", "--lib", "--bins", "-Zbuild-std=core"]);
    clippy
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(target_directory()?.join("bpf/clippy"));
    run(clippy.args(["--", "--deny", "warnings"]))
}
