//! Who may depend on whom. The layers stay apart only as long as somebody looks.

use anyhow::Result;

use super::{Problem, problem};
use crate::shell::{cargo, output};

/// Package, its manifest, what must not be below it, and why.
const RULES: [(&str, &str, &[&str], &str); 3] = [
    (
        "sidecar-core",
        "crates/sidecar-core/Cargo.toml",
        &["aya", "tokio", "hyper", "sidecar-probes", "sidecar-exporters"],
        "types only: no kernel, no I/O",
    ),
    (
        "sidecar-exporters",
        "exporters/Cargo.toml",
        &["aya", "sidecar-probes"],
        "exporters see snapshots and events, never a probe",
    ),
    (
        "sidecar-probes",
        "probes/Cargo.toml",
        &["tokio", "hyper", "axum", "sidecar-exporters"],
        "collectors are synchronous and know no exporter",
    ),
];

pub(super) fn check() -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for (package, manifest, forbidden, why) in RULES {
        let tree = output(cargo().args([
            "tree",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--all-features",
            "--target",
            "all",
        ]))?;
        for name in found(&tree, forbidden) {
            let message = format!(
                "{package} depends on {name} ({why}): `cargo tree -p {package} -e normal -i {name}` shows through what"
            );
            problems.push(problem(manifest, 1, message));
        }
    }
    Ok(problems)
}

/// The forbidden packages in a `cargo tree --prefix none`.
fn found<'a>(tree: &str, forbidden: &[&'a str]) -> Vec<&'a str> {
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    forbidden.iter().copied().filter(|name| names.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_found() {
        let tree = "sidecar-core v0.1.0 (/r)\naya-obj v0.2.0\ntokio v1.0.0 (*)\n";
        assert_eq!(found(tree, &["aya", "tokio"]), ["tokio"]);
    }
}
