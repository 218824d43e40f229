//! Looks for a compiler and a linker that can build BPF objects. Which ones a machine has differs a lot; this is the
//! one place that knows, for build scripts and `cargo xtask setup` alike.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Context as _, Error};

/// Names the compiler to use: a prefix such as `/usr`, or a rustup toolchain.
pub const TOOLCHAIN_VAR: &str = "SIDECAR_BPF_TOOLCHAIN";
/// The nightly that `cargo xtask setup` installs where the distribution has no fitting compiler.
pub const PINNED_NIGHTLY: &str = "nightly-2026-05-20";
/// bpf-linker must have this version exactly: others write BTF that kernels refuse.
pub const LINKER_VERSION: &str = "0.13.0";
/// Oldest compiler that fits, as (major, minor).
pub const MIN_RUSTC: (u32, u32) = (1, 96);

/// A compiler with the sources of `core`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefix {
    /// Directory that holds `bin/rustc`, `bin/cargo` and `lib/rustlib`.
    pub path: PathBuf,
    /// `rustc`'s version, as (major, minor).
    pub version: (u32, u32),
    /// Major version of its LLVM.
    pub llvm_major: u32,
}

/// All that is needed to build the kernel side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The compiler.
    pub prefix: Prefix,
    /// Path of bpf-linker.
    pub linker: PathBuf,
}

impl Toolchain {
    /// Finds a compiler and a linker that fit each other. `root` is the repository, whose `.cache/tools` is looked at first.
    pub fn find(root: &Path) -> Result<Self, Error> {
        let prefix = find_prefix()?;
        let linker = find_linker(root)?;
        match linker_llvm_major(&linker) {
            Some(major) if major < prefix.llvm_major => Err(Error::LlvmMismatch {
                linker: linker.display().to_string(),
                linker_llvm: major,
                rustc: prefix.path.join("bin/rustc").display().to_string(),
                rustc_llvm: prefix.llvm_major,
            }),
            _ => Ok(Self { prefix, linker }),
        }
    }

    /// A cargo command for the kernel-side workspace in `directory`, for an agent that runs on `arch` (a Rust
    /// architecture name, `x86_64`), untouched by the cargo that may be running us.
    pub fn cargo(&self, directory: &Path, arch: &str) -> Command {
        let bin = self.prefix.path.join("bin");
        let mut cargo = Command::new(bin.join("cargo"));
        for (key, _) in env::vars_os() {
            if key.to_str().is_some_and(belongs_to_outer_build) {
                cargo.env_remove(key);
            }
        }
        let flags = [
            format!("-Clinker={}", self.linker.display()),
            "-Clink-arg=--btf".to_owned(),
            "-Cdebuginfo=2".to_owned(),
            format!("--cfg=bpf_target_arch=\"{arch}\""),
        ];
        // Programs that cargo starts by name, such as clippy, must be this compiler's own.
        let inherited = env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(bin.clone()).chain(env::split_paths(&inherited));
        if let Ok(path) = env::join_paths(path) {
            cargo.env("PATH", path);
        }
        cargo
            .current_dir(directory)
            .env("RUSTC", bin.join("rustc"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        cargo
    }
}

/// Whether a variable was set by the build that started us, and would mislead the one we start.
fn belongs_to_outer_build(key: &str) -> bool {
    // The user's registry, network and terminal settings and the job server go through.
    const KEPT: [&str; 7] = [
        "CARGO_HOME",
        "CARGO_MAKEFLAGS",
        "CARGO_NET_",
        "CARGO_HTTP_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_TERM_",
    ];
    const SET_BY_CARGO: [&str; 10] = [
        "TARGET",
        "HOST",
        "PROFILE",
        "OPT_LEVEL",
        "DEBUG",
        "NUM_JOBS",
        "OUT_DIR",
        "RUSTDOC",
        "RUSTFLAGS",
        "RUSTC",
    ];
    let prefixed = ["CARGO_", "RUSTC_", "DEP_"].iter().any(|prefix| key.starts_with(prefix));
    (prefixed && !KEPT.iter().any(|kept| key.starts_with(kept)))
        || SET_BY_CARGO.contains(&key)
        || key == "CARGO"
        || key == "RUSTUP_TOOLCHAIN"
}

/// The compiler that [`TOOLCHAIN_VAR`] names, else the distribution's, else one of rustup's, nightlies first.
pub fn find_prefix() -> Result<Prefix, Error> {
    if let Some(named) = env::var_os(TOOLCHAIN_VAR) {
        let named = named.to_string_lossy().into_owned();
        let path = if named.contains('/') {
            PathBuf::from(&named)
        } else {
            rustup_toolchains().join(with_host(&named))
        };
        return inspect(&path).map_err(|why| Error::NamedCompiler { named, why });
    }
    let mut refused = Vec::new();
    for path in candidates() {
        match inspect(&path) {
            Ok(prefix) => return Ok(prefix),
            Err(why) => refused.push(why),
        }
    }
    Err(Error::NoCompiler(refused.join("; ")))
}

fn candidates() -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/usr"), PathBuf::from("/usr/local")];
    found.retain(|prefix| prefix.join("bin/rustc").exists());
    let mut rustup: Vec<PathBuf> = fs::read_dir(rustup_toolchains())
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    // A name's rank: the pinned nightly, other nightlies, the rest.
    rustup.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (!name.starts_with(PINNED_NIGHTLY), !name.starts_with("nightly"), name)
    });
    found.extend(rustup);
    found
}

/// Where rustup keeps its toolchains, whether or not there are any.
fn rustup_toolchains() -> PathBuf {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")))
        .unwrap_or_default()
        .join("toolchains")
}

/// rustup's directory name for `nightly` is `nightly-x86_64-unknown-linux-gnu`; both spellings are accepted.
fn with_host(name: &str) -> String {
    if name.contains("-linux-") {
        return name.to_owned();
    }
    format!("{name}-{}-unknown-linux-gnu", env::consts::ARCH)
}

/// Says what is at `path`, or in a few words why it does not fit.
fn inspect(path: &Path) -> Result<Prefix, String> {
    let rustc = path.join("bin/rustc");
    let shown = rustc.display();
    let output = Command::new(&rustc)
        .arg("-vV")
        .env_remove("RUSTUP_TOOLCHAIN")
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("{shown}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = line_value(&text, "release:").and_then(major_minor);
    let version = version.ok_or_else(|| format!("{shown} does not say its version"))?;
    let (major, minor) = MIN_RUSTC;
    if version < MIN_RUSTC {
        return Err(format!("{shown} is {}.{}, older than {major}.{minor}", version.0, version.1));
    }
    let sources = path.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !sources.exists() {
        return Err(format!("{shown} has no sources of core (rustup calls them rust-src)"));
    }
    if !path.join("bin/cargo").exists() {
        return Err(format!("{shown} has no cargo beside it"));
    }
    let llvm_major = line_value(&text, "LLVM version:").and_then(major_minor).map_or(0, |(major, _)| major);
    Ok(Prefix { path: path.to_path_buf(), version, llvm_major })
}

fn line_value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The first bpf-linker of the right version in `root`'s `.cache/tools`, in `PATH` or in cargo's own directory.
pub fn find_linker(root: &Path) -> Result<PathBuf, Error> {
    let mut directories = vec![root.join(".cache/tools/bin")];
    directories.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    directories.extend(cargo_home.map(|home| home.join("bin")));

    let mut others = Vec::new();
    for path in directories.iter().map(|directory| directory.join("bpf-linker")).filter(|path| path.is_file())
    {
        match linker_version(&path) {
            Ok(version) if version == LINKER_VERSION => return Ok(path),
            Ok(version) => others.push(format!("{} is {version}", path.display())),
            Err(error) => others.push(error.to_string()),
        }
    }
    others.dedup();
    Err(Error::NoLinker(if others.is_empty() { "none found".to_owned() } else { others.join("; ") }))
}

fn linker_version(path: &Path) -> Result<String, Error> {
    let output = Command::new(path)
        .arg("--version")
        .stderr(Stdio::null())
        .output()
        .context(|| format!("cannot run {}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split_whitespace().nth(1).unwrap_or("of unknown version").to_owned())
}

/// Major version of the shared LLVM a bpf-linker uses; `None` if it carries its own.
pub fn linker_llvm_major(linker: &Path) -> Option<u32> {
    let output = Command::new("ldd").arg(linker).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let library = text.lines().find_map(|line| line.trim().strip_prefix("libLLVM"))?;
    library.split(|c: char| !c.is_ascii_digit()).find_map(|number| number.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_up_to_its_minor_number() {
        assert_eq!(major_minor("1.97.0-nightly"), Some((1, 97)));
        assert_eq!(major_minor("22.1.8"), Some((22, 1)));
        assert_eq!(major_minor("nightly"), None);
    }

    #[test]
    fn the_outer_build_is_kept_out_and_the_users_settings_are_not() {
        for key in [
            "CARGO_PKG_NAME",
            "CARGO_TARGET_DIR",
            "RUSTC_WRAPPER",
            "CARGO",
            "RUSTUP_TOOLCHAIN",
            "RUSTFLAGS",
            "CARGO_BUILD_TARGET",
        ] {
            assert!(belongs_to_outer_build(key), "{key}");
        }
        for key in ["CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_NET_OFFLINE", "PATH", "CARGO_MAKEFLAGS", "HOME"]
        {
            assert!(!belongs_to_outer_build(key), "{key}");
        }
    }

    #[test]
    fn a_rustup_toolchain_may_be_named_with_or_without_its_host() {
        assert!(with_host("nightly").starts_with("nightly-"));
        assert_eq!(with_host("nightly-x86_64-unknown-linux-musl"), "nightly-x86_64-unknown-linux-musl");
    }

    #[test]
    fn a_directory_without_a_compiler_is_refused_by_name() {
        let error = inspect(Path::new("/nonexistent")).unwrap_err();
        assert!(error.starts_with("/nonexistent/bin/rustc"), "{error}");
    }
}
