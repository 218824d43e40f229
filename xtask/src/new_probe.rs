//! Begins a probe: a folder that already counts something, and its lines in the two lists, so that the first thing a
//! newcomer sees is a number.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::target_directory,
    shell::{cargo, output, relative, repository_files, root, run, step},
};

const HOST_LIST: &str = "probes/lib.rs";
const KERNEL_LIST: &str = "crates/sidecar-ebpf/Cargo.toml";
/// Keywords somebody might call a probe.
const KEYWORDS: [&str; 12] =
    ["as", "async", "fn", "impl", "in", "loop", "match", "mod", "move", "ref", "type", "use"];
/// The seven files.
const TEMPLATES: [(&str, &str); 7] = [
    ("mod.rs", include_str!("../templates/probe/mod.rs")),
    ("kernel.rs", include_str!("../templates/probe/kernel.rs")),
    ("shared.rs", include_str!("../templates/probe/shared.rs")),
    ("collect.rs", include_str!("../templates/probe/collect.rs")),
    ("test.rs", include_str!("../templates/probe/test.rs")),
    ("dashboard.json", include_str!("../templates/probe/dashboard.json")),
    ("README.md", include_str!("../templates/probe/README.md")),
];

/// Which probe.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Its name: folder, configuration key and part of its metrics
    #[arg(required_unless_present = "check")]
    name: Option<String>,
    /// Only try, on a copy of the repository, whether a new probe would compile and pass its tests
    #[arg(long, conflicts_with = "name")]
    check: bool,
}

/// Writes a probe into the repository, or proves on a copy that the templates still work.
pub(crate) fn new_probe(options: &Options) -> Result<()> {
    let Some(name) = &options.name else { return check() };
    step(&format!("writing the probe {name}"));
    add(&root(), name)?;
    println!("It counts starts of programs until you change it. Next:");
    println!("  cargo xtask run -- --probe {name}          see its number");
    println!("  cargo xtask vm --filter {name}             try it on other kernels");
    println!("  cargo xtask codegen && cargo xtask tidy    before you commit");
    Ok(())
}

/// Adds the probe `name` to the repository at `root`.
fn add(root: &Path, name: &str) -> Result<()> {
    check_name(name)?;
    let folder = root.join("probes").join(name);
    if folder.exists() {
        bail!("probes/{name} exists already");
    }
    // Both lists first in memory: nothing is written if one of them is not as expected.
    let host = add_to_host_list(&read(&root.join(HOST_LIST))?, name)?;
    let kernel = add_to_kernel_list(&read(&root.join(KERNEL_LIST))?, name)?;
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (file, template) in TEMPLATES {
        write(&folder.join(file), &template.replace("@NAME@", name))?;
    }
    write(&root.join(HOST_LIST), &host)?;
    write(&root.join(KERNEL_LIST), &kernel)?;
    run(Command::new("rustfmt").args(["--edition", "2024"]).arg(root.join(HOST_LIST)))
}

/// Lints and tests a probe fresh from the templates.
fn check() -> Result<()> {
    const NAME: &str = "fresh_probe";
    step("trying a new probe on a copy of the repository");
    let work = target_directory()?.join("new-probe");
    let copy = work.join("copy");
    if copy.exists() {
        fs::remove_dir_all(&copy)?;
    }
    for path in repository_files()? {
        let (from, to) = (root().join(&path), copy.join(&path));
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        // Listed but deleted and not yet committed.
        if from.is_file() {
            fs::copy(&from, &to).with_context(|| format!("cannot copy {path}"))?;
        }
    }
    add(&copy, NAME)?;
    let in_copy = |arguments: &[&str]| {
        let mut cargo = cargo();
        cargo.current_dir(&copy).env("CARGO_TARGET_DIR", work.join("target")).args(arguments);
        cargo
    };
    run(&mut in_copy(&[
        "clippy",
        "--quiet",
        "--package",
        "sidecar-probes",
        "--all-targets",
        "--",
        "--deny",
        "warnings",
    ]))?;
    let tests = output(&mut in_copy(&["test", "--quiet", "--package", "sidecar-probes", "--lib", NAME]))?;
    anyhow::ensure!(tests.contains("1 passed; 0 failed"), "the new probe's test did not run:\n{tests}");
    println!("  a new probe compiles, has no lints and passes its test");
    fs::remove_dir_all(&copy)?;
    Ok(())
}

/// The name becomes a folder, a module, an object, a configuration key and a part of metrics.
fn check_name(name: &str) -> Result<()> {
    let fits = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !fits {
        bail!(
            "`{name}` cannot be a probe's name: use lower-case letters, digits and `_`, beginning with a letter"
        );
    }
    if KEYWORDS.contains(&name) {
        bail!("`{name}` is a Rust keyword: choose another name");
    }
    Ok(())
}

/// `pub mod NAME;` among the others in order, and `&NAME::PROBE` last.
fn add_to_host_list(text: &str, name: &str) -> Result<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let module = format!("pub mod {name};");
    let modules = lines.iter().enumerate().filter(|(_, line)| line.starts_with("pub mod "));
    let at = modules.filter(|(_, line)| **line < module).map(|(at, _)| at + 1).next_back();
    let first = lines.iter().position(|line| line.starts_with("pub mod "));
    let at = at.or(first).with_context(|| format!("{HOST_LIST} has no line `pub mod …;`"))?;
    lines.insert(at, module);

    let text = lines.join("\n") + "\n";
    let list = text.find("static PROBES").with_context(|| format!("{HOST_LIST} has no list PROBES"))?;
    let end = text[list..].find("];").with_context(|| format!("{HOST_LIST}: PROBES has no end"))? + list;
    let (before, after) = text.split_at(end);
    let before = before.trim_end().trim_end_matches(',');
    let separator = if before.ends_with('[') { "" } else { ", " };
    Ok(format!("{before}{separator}&{name}::PROBE{after}"))
}

/// A `[[bin]]` after the last one.
fn add_to_kernel_list(text: &str, name: &str) -> Result<String> {
    const PATH: &str = "path = \"../../probes/";
    let last = text.rfind(PATH).with_context(|| format!("{KERNEL_LIST} has no [[bin]] of a probe"))?;
    let end = text[last..].find('\n').map_or(text.len(), |length| last + length + 1);
    let (before, after) = text.split_at(end);
    Ok(format!("{before}\n[[bin]]\nname = \"{name}\"\n{PATH}{name}/kernel.rs\"\n{after}"))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    println!("  {}", relative(path));
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_must_serve_as_module_and_metric() {
        for good in ["exec", "tcp_state", "http2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "Exec", "2fast", "a-b", "a b", "type", "../x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_host_list_gains_two_entries() {
        let text = "pub mod connection;\npub mod open;\nmod plain;\n\npub static PROBES: &[&Probe] = &[&connection::PROBE, &open::PROBE];\n";
        assert_eq!(
            add_to_host_list(text, "exec").unwrap(),
            "pub mod connection;\npub mod exec;\npub mod open;\nmod plain;\n\n\
             pub static PROBES: &[&Probe] = &[&connection::PROBE, &open::PROBE, &exec::PROBE];\n"
        );
        assert!(add_to_host_list(text, "arp").unwrap().starts_with("pub mod arp;\npub mod connection;\n"));
    }

    #[test]
    fn the_kernel_list_gains_a_bin_after_the_last() {
        let text = "[[bin]]\nname = \"dns\"\npath = \"../../probes/dns/kernel.rs\"\n\n[dependencies]\n";
        assert_eq!(
            add_to_kernel_list(text, "exec").unwrap(),
            "[[bin]]\nname = \"dns\"\npath = \"../../probes/dns/kernel.rs\"\n\n\
             [[bin]]\nname = \"exec\"\npath = \"../../probes/exec/kernel.rs\"\n\n[dependencies]\n"
        );
    }
}
