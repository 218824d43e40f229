//! Builds the agent and the tests once, static, so that the same files run on this machine and inside bare virtual
//! machines.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{host_triple, static_for},
    shell::{cargo, show, step},
};

/// A test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    /// Package and file: `sidecar-filters`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// What was built.
#[derive(Debug)]
pub(crate) struct Executables {
    /// The agent, where tests find it through `CARGO_BIN_EXE_sidecar`.
    pub(crate) agent: PathBuf,
    pub(crate) tests: Vec<Test>,
}

/// `cargo test` for these packages, static.
pub(crate) fn cargo_test(packages: &[&str]) -> Result<Command> {
    let mut cargo = cargo();
    cargo.arg("test");
    if packages.is_empty() {
        cargo.arg("--workspace");
    }
    for package in packages {
        cargo.args(["--package", package]);
    }
    static_for(&mut cargo, &host_triple()?)?;
    Ok(cargo)
}

/// Builds the tests that look at a kernel: those of the agent and of the probes.
pub(crate) fn build() -> Result<Executables> {
    step("building the agent and its tests (static)");
    let mut cargo = cargo_test(&["sidecar", "sidecar-probes"])?;
    cargo.args(["--no-run", "--message-format=json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = cargo.output().with_context(|| format!("cannot start `{}`", show(&cargo)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", show(&cargo), output.status);
    }
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(messages: &str) -> Result<Executables> {
    let mut agent = None;
    let mut tests = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let Some(path) = message["executable"].as_str().map(PathBuf::from) else { continue };
        let target = message["target"]["name"].as_str().unwrap_or_default();
        if message["profile"]["test"] != true {
            if target == "sidecar" {
                agent = Some(path);
            }
            continue;
        }
        // Unit tests say the same on every kernel.
        if message["target"]["kind"][0] != "test" {
            continue;
        }
        let package = package_name(message["manifest_path"].as_str().unwrap_or_default(), target);
        tests.push(Test { name: package, path });
    }
    let agent = agent.context("cargo built no agent")?;
    if tests.is_empty() {
        bail!("cargo built no test: is there one in crates/sidecar/tests?");
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Executables { agent, tests })
}

/// `crates/sidecar/Cargo.toml` and target `config` make `sidecar-config`.
fn package_name(manifest: &str, target: &str) -> String {
    let folder = Path::new(manifest).parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let target = target.replace('_', "-");
    if target.ends_with(&*folder) { target } else { format!("{folder}-{target}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integration_tests_are_told_from_unit_tests_and_from_the_agent() {
        let message = |target: &str, kind: &str, test: bool, path: &str| {
            format!(
                r#"{{"target":{{"name":"{target}","kind":["{kind}"]}},"profile":{{"test":{test}}},"manifest_path":"/r/crates/sidecar/Cargo.toml","executable":"{path}"}}"#
            )
        };
        let messages = [
            message("sidecar", "bin", false, "/t/sidecar"),
            message("sidecar", "bin", true, "/t/deps/sidecar-1"),
            message("owners", "test", true, "/t/deps/owners-2"),
            message("filters", "test", true, "/t/deps/filters-3"),
            r#"{"reason":"build-finished"}"#.to_owned(),
        ];
        let executables = parse(&messages.join("\n")).unwrap();
        assert_eq!(executables.agent, Path::new("/t/sidecar"));
        let names: Vec<&str> = executables.tests.iter().map(|test| test.name.as_str()).collect();
        assert_eq!(names, ["sidecar-filters", "sidecar-owners"]);
    }

    #[test]
    fn a_build_without_the_agent_is_an_error() {
        assert!(parse("{\"reason\":\"build-finished\"}").is_err());
    }
}
