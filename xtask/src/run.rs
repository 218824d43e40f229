//! From a fresh clone to a running agent in one command.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};

use crate::{
    build,
    setup::{self, Group},
    shell::{privileged, show, step},
};

/// Installs what the build needs, builds the agent and becomes it.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::setup(&[Group::Build])?;
    let binary = build::build(&build::Options { release: true, target: None })?;
    let mut agent = privileged(&binary, "loading programs into the kernel")?;
    agent.args(arguments);
    // The agent takes variables that begin like its own for misspelt settings; these were for the build.
    for variable in [sidecar_build::TOOLCHAIN_VAR, sidecar_build::SKIP_VAR] {
        agent.env_remove(variable);
    }
    step(&show(&agent));
    Err(agent.exec()).with_context(|| format!("cannot start {}", binary.display()))
}
