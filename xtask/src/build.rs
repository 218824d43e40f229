//! Builds the agent: quickly for trying things out, or as the one static file that is shipped.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::shell::{cargo, find_program, output, relative, root, run, step};

/// What to build.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Options {
    /// Optimised and static, as it is shipped
    #[arg(long)]
    pub(crate) release: bool,
    /// Build for another architecture, such as aarch64-unknown-linux-gnu
    #[arg(long, value_name = "TRIPLE")]
    pub(crate) target: Option<String>,
}

/// Builds the agent and returns where it is.
pub(crate) fn build(options: &Options) -> Result<PathBuf> {
    let host = host_triple()?;
    let triple = options.target.as_deref().unwrap_or(&host);
    let kind = if options.release { "release" } else { "debug" };
    step(&format!("building the agent ({kind}, {triple})"));

    let target = target_directory()?;
    let mut cargo = cargo();
    cargo.args(["build", "--package", "sidecar"]);
    if options.release {
        cargo.arg("--release");
    }
    if !options.release && options.target.is_none() {
        run(&mut cargo)?;
        return announce(target.join("debug/sidecar"));
    }
    static_for(&mut cargo, triple)?;
    cross_linker(&mut cargo, triple, &host)?;
    run(&mut cargo)?;

    let built = target.join(triple).join(kind).join("sidecar");
    if options.target.is_some() {
        return announce(built);
    }
    let shipped = target.join("release/sidecar");
    fs::create_dir_all(target.join("release"))?;
    // A running agent may hold the old file: replace the name, not the content.
    let fresh = shipped.with_extension("new");
    fs::copy(&built, &fresh).with_context(|| format!("cannot copy to {}", fresh.display()))?;
    fs::rename(&fresh, &shipped).with_context(|| format!("cannot replace {}", shipped.display()))?;
    announce(shipped)
}

fn announce(binary: PathBuf) -> Result<PathBuf> {
    let size =
        fs::metadata(&binary).with_context(|| format!("no {} after building", binary.display()))?.len();
    println!("  {} ({:.1} MB)", relative(&binary), size as f64 / 1e6);
    Ok(binary)
}

/// Makes cargo link everything into the binary. Naming the target keeps the flag away from build scripts and
/// procedural macros, which cannot be static.
pub(crate) fn static_for(cargo: &mut Command, triple: &str) -> Result<()> {
    if env::var_os("CARGO_ENCODED_RUSTFLAGS").is_some() {
        bail!(
            "CARGO_ENCODED_RUSTFLAGS is set and would hide the flag for a static binary: unset it or use RUSTFLAGS"
        );
    }
    let mut flags = env::var("RUSTFLAGS").unwrap_or_default();
    flags.push_str(" -Ctarget-feature=+crt-static");
    cargo.args(["--target", triple]).env("RUSTFLAGS", flags.trim());
    Ok(())
}

/// Names the linker for another architecture, after checking that there is one and that Rust's library is there.
fn cross_linker(cargo: &mut Command, triple: &str, host: &str) -> Result<()> {
    if triple == host {
        return Ok(());
    }
    let library = output(Command::new(rustc()).args(["--print", "target-libdir", "--target", triple]))?;
    if !PathBuf::from(library.trim()).exists() {
        bail!("this Rust toolchain has no library for {triple}: run `rustup target add {triple}`");
    }
    let arch = triple.split('-').next().unwrap_or(triple);
    let linker = format!("{arch}-linux-gnu-gcc");
    if find_program(&linker).is_none() {
        bail!("there is no {linker}: run `apt-get install gcc-{}-linux-gnu`", arch.replace('_', "-"));
    }
    let variable = format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_"));
    cargo.env(variable, linker);
    Ok(())
}

fn rustc() -> std::ffi::OsString {
    env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())
}

/// The machine we are on, as Rust names it.
pub(crate) fn host_triple() -> Result<String> {
    let version = output(Command::new(rustc()).arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Where cargo puts what it builds.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let metadata = output(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let directory =
        metadata["target_directory"].as_str().context("cargo metadata names no target directory")?;
    Ok(root().join(directory))
}
