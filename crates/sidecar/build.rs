//! Puts the git revision into release builds, so that a bug report names the code it is about.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // Development builds have no revision: it would mean a rebuild after every commit.
    let revision = if env::var("PROFILE").as_deref() == Ok("release") { revision() } else { None };
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let long =
        revision.as_ref().map_or_else(|| version.clone(), |revision| format!("{version} ({revision})"));
    println!("cargo:rustc-env=SIDECAR_BUILD_REVISION={}", revision.unwrap_or_default());
    println!("cargo:rustc-env=SIDECAR_BUILD_VERSION={long}");
}

/// The revision of this very checkout; nothing without git, outside a checkout, or inside somebody else's.
fn revision() -> Option<String> {
    let root = Path::new(&env::var_os("CARGO_MANIFEST_DIR")?).join("../..").canonicalize().ok()?;
    let git = |args: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&root).args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        (output.status.success() && !text.is_empty()).then_some(text)
    };
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?) != root {
        return None;
    }
    for name in ["HEAD", "logs/HEAD"] {
        let path = root.join(git(&["rev-parse", "--git-path", name])?);
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}
