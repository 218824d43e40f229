//! Builds the kernel side, so that `cargo build` of the agent is all a user has to know.
//!
//! The kernel side needs what the user side does not: a compiler that can build `core` for the BPF target, and
//! bpf-linker. [`Toolchain::find`] looks for both without changing anything, and every failure names the one command that repairs it.
//! [`embed_objects`] is the whole of a build script.

mod objects;
mod toolchain;

use std::path::{Path, PathBuf};

pub use objects::{Object, SKIP_VAR, compile, embed_objects};
pub use toolchain::{
    LINKER_VERSION, MIN_RUSTC, PINNED_NIGHTLY, Prefix, TOOLCHAIN_VAR, Toolchain, find_linker, find_prefix,
    linker_llvm_major,
};

/// Why the kernel side cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No compiler fits; the text says what was looked at.
    #[error("no Rust compiler for the kernel side ({0}): run `cargo xtask setup`")]
    NoCompiler(String),
    /// The compiler that was asked for does not fit.
    #[error(
        "{TOOLCHAIN_VAR}={named} does not fit ({why}): name another, or unset it and run `cargo xtask setup`"
    )]
    NamedCompiler {
        /// The variable's value.
        named: String,
        /// What is wrong with it.
        why: String,
    },
    /// bpf-linker is missing or has another version.
    #[error("no bpf-linker {LINKER_VERSION} ({0}): run `cargo xtask setup`")]
    NoLinker(String),
    /// bpf-linker cannot read what this compiler writes.
    #[error(
        "{linker} uses LLVM {linker_llvm} but {rustc} uses LLVM {rustc_llvm}, which it cannot read: run `cargo xtask setup`"
    )]
    LlvmMismatch {
        /// Path of bpf-linker.
        linker: String,
        /// Its LLVM's major version.
        linker_llvm: u32,
        /// Path of the compiler.
        rustc: String,
        /// Its LLVM's major version.
        rustc_llvm: u32,
    },
    /// The compiler ran and refused the code; its own words are on standard error.
    #[error("the kernel side did not compile: see the messages above")]
    Compile,
    /// A variable that cargo sets for build scripts is missing.
    #[error("{0} is not set: this function is for build scripts run by cargo")]
    NotABuildScript(&'static str),
    /// A program could not be started or a file not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// An object is not what the linker should have written.
    #[error("{path} is no object that could be made smaller: {source}")]
    Elf {
        /// The object.
        path: PathBuf,
        /// What is wrong with it.
        source: object::build::Error,
    },
    /// cargo printed something that is not what its documentation says.
    #[error("cargo's messages could not be understood: {0}")]
    Messages(#[from] serde_json::Error),
}

/// Names what was tried when the system refuses.
trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Context<T> for Result<T, std::io::Error> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

/// The repository's root: where both workspaces are.
pub fn repository_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}
