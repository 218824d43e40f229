//! Installs what a machine lacks and nothing else. It keeps no notes of what it did: it looks at what is there, so it
//! can be run at any time and is done at once when there is nothing to do.

mod apt;

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use sidecar_build::{LINKER_VERSION, MIN_RUSTC, PINNED_NIGHTLY, Prefix, Toolchain};

use crate::shell::{cargo, find_program, root, run, step};

/// What the installed things are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// Building and running the agent
    Build,
    /// Tests on this machine and in virtual machines
    Test,
    /// Checks of the kernel side's code
    Lint,
}

/// A program tests use and the packages that may bring it, best first.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
}

const fn need(program: &'static str, packages: &'static [&'static str]) -> Need {
    Need { program, packages }
}

/// A C compiler links the agent; the rest is what [`compiler`] and [`linker`] add.
const BUILD: &[Need] = &[need("cc", &["gcc"]), need("c++", &["g++"])];

const TEST: &[Need] = &[
    need("qemu-system-x86_64", &["qemu-system-x86"]),
    need("busybox", &["busybox-static", "busybox"]),
    need("xz", &["xz-utils"]),
    need("strip", &["binutils"]),
    need("nginx", &["nginx-light", "nginx"]),
    need("curl", &["curl"]),
    need("ss", &["iproute2"]),
    need("nft", &["nftables"]),
    need("strace", &["strace"]),
    need("iperf3", &["iperf3"]),
    need("prometheus", &["prometheus"]),
];

/// Installs what is missing of these groups.
pub(crate) fn setup(groups: &[Group]) -> Result<()> {
    if groups.contains(&Group::Build) {
        programs(BUILD, "to build the agent")?;
        let prefix = compiler()?;
        linker(&prefix)?;
    }
    if groups.contains(&Group::Test) {
        programs(TEST, "to test it")?;
    }
    if groups.contains(&Group::Lint) {
        clippy(&sidecar_build::find_prefix()?)?;
    }
    Ok(())
}

/// Says what `setup` found, for the command that is only `setup`.
pub(crate) fn summary() -> Result<()> {
    let toolchain = Toolchain::find(&root())?;
    let (major, minor) = toolchain.prefix.version;
    println!(
        "kernel side: {}/bin/rustc {major}.{minor}, {}",
        toolchain.prefix.path.display(),
        toolchain.linker.display()
    );
    println!("nothing else is missing");
    Ok(())
}

fn programs(needs: &[Need], why: &str) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| find_program(need.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !apt::available() {
        let names: Vec<&str> = missing.iter().map(|need| need.program).collect();
        bail!(
            "{} missing {why}: install {} with your package manager, then run this again",
            count(names.len()),
            names.join(", ")
        );
    }
    let alternatives: Vec<&[&str]> = missing.iter().map(|need| need.packages).collect();
    apt::install(&alternatives, why)
}

fn count(programs: usize) -> String {
    if programs == 1 { "a program is".to_owned() } else { format!("{programs} programs are") }
}

/// A compiler with the sources of `core`: the distribution's if it is new enough, else a nightly of rustup.
fn compiler() -> Result<Prefix> {
    let refused = match sidecar_build::find_prefix() {
        Ok(prefix) => return Ok(prefix),
        // Installing something else would not change what was asked for.
        Err(error @ sidecar_build::Error::NamedCompiler { .. }) => return Err(error.into()),
        Err(error) => error,
    };
    // Debian's backport for building browsers comes first: it is the newest, and leaves /usr/bin/rustc of rustup users alone.
    for set in [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]] {
        if apt::available() && apt::offers(set[0], MIN_RUSTC)? {
            let set: Vec<&[&str]> = set.iter().map(std::slice::from_ref).collect();
            apt::install(&set, "to compile the kernel side")?;
            return Ok(sidecar_build::find_prefix()?);
        }
    }
    if find_program("rustup").is_some() {
        step(&format!("installing Rust {PINNED_NIGHTLY} with rustup, to compile the kernel side"));
        let mut rustup = Command::new("rustup");
        rustup.args([
            "toolchain",
            "install",
            PINNED_NIGHTLY,
            "--profile",
            "minimal",
            "--component",
            "rust-src",
        ]);
        run(&mut rustup)?;
        return Ok(sidecar_build::find_prefix()?);
    }
    let (major, minor) = MIN_RUSTC;
    bail!(
        "{refused}\nThis distribution offers no rustc {major}.{minor} or newer with sources. Install rustup \
         (https://rustup.rs) and run this again, or set {}.",
        sidecar_build::TOOLCHAIN_VAR
    )
}

/// bpf-linker, built against the LLVM the compiler uses, into the repository's own directory.
fn linker(prefix: &Prefix) -> Result<()> {
    if Toolchain::find(&root()).is_ok() {
        return Ok(());
    }
    let llvm = prefix.llvm_major;
    let home = format!("/usr/lib/llvm-{llvm}");
    let libraries = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    if !apt::available() {
        bail!(
            "bpf-linker {LINKER_VERSION} is missing: install LLVM {llvm} with its development files, then run\n  \
             LLVM_PREFIX=<where it is> cargo install bpf-linker --version {LINKER_VERSION} --no-default-features --features llvm-{llvm}"
        );
    }
    let lacking: Vec<&str> =
        libraries.iter().map(String::as_str).filter(|name| !apt::installed(name)).collect();
    if !lacking.is_empty() {
        let sets: Vec<&[&str]> = lacking.iter().map(std::slice::from_ref).collect();
        apt::install(&sets, "to build bpf-linker").with_context(|| {
            format!("LLVM {llvm} is what the compiler uses; distributions without it find it at https://apt.llvm.org")
        })?;
    }
    step(&format!("building bpf-linker {LINKER_VERSION} with LLVM {llvm} (a minute or two)"));
    let tools = root().join(".cache/tools");
    fs::create_dir_all(&tools)?;
    let mut install = cargo();
    install.args([
        "install",
        "--quiet",
        "bpf-linker",
        "--locked",
        "--version",
        LINKER_VERSION,
        "--no-default-features",
    ]);
    install.args(["--features", &format!("llvm-{llvm}"), "--root"]).arg(&tools).env("LLVM_PREFIX", home);
    run(&mut install)?;
    Toolchain::find(&root()).context("bpf-linker was built but does not fit")?;
    Ok(())
}

/// Clippy beside the compiler of the kernel side.
fn clippy(prefix: &Prefix) -> Result<()> {
    if prefix.path.join("bin/cargo-clippy").exists() {
        return Ok(());
    }
    if prefix.path.starts_with("/usr") && apt::available() {
        let package = if apt::installed("rustc-web") { "rust-web-clippy" } else { "rust-clippy" };
        return apt::install(&[&[package]], "to check the kernel side's code");
    }
    let toolchain = prefix.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    step(&format!("installing clippy for {toolchain} with rustup"));
    run(Command::new("rustup").args(["component", "add", "clippy", "--toolchain", &toolchain]))
}
