//! Rules of a probe's folder: complete, and knowing nothing but itself.

use std::collections::BTreeSet;

use super::{File, Problem, problem};

/// First line of what is linked into a kernel program: helpers marked GPL-only are refused otherwise.
pub(super) const LICENCE: &str = "// SPDX-License-Identifier: MIT OR GPL-2.0";
/// What a probe consists of.
pub(super) const FILES: [&str; 7] =
    ["mod.rs", "kernel.rs", "shared.rs", "collect.rs", "test.rs", "dashboard.json", "README.md"];
/// What a kernel program may use; the rest does not exist there or belongs to others.
const KERNEL_USES: [&str; 8] =
    ["core", "aya_ebpf", "sidecar_ebpf", "sidecar_common", "shared", "self", "crate", "super"];

/// Whether the file is linked into a kernel program: `kernel.rs`, its parts `kernel_….rs`, `shared.rs`.
pub(super) fn is_kernel_side(file: &File) -> bool {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    file.path.starts_with("probes/")
        && file.extension() == "rs"
        && (name.starts_with("kernel") || name == "shared.rs")
}

/// Names of the folders in `probes/`.
pub(super) fn names(files: &[File]) -> BTreeSet<&str> {
    files.iter().filter_map(|file| Some(file.path.strip_prefix("probes/")?.split_once('/')?.0)).collect()
}

pub(super) fn check(files: &[File]) -> Vec<Problem> {
    let names = names(files);
    let mut problems = Vec::new();
    for name in &names {
        for part in FILES {
            let path = format!("probes/{name}/{part}");
            if !files.iter().any(|file| file.path == path) {
                problems.push(problem(path, 1, "missing: a probe has seven files, see CONTRIBUTING.md"));
            }
        }
    }
    for file in files.iter().filter(|file| file.extension() == "rs") {
        match file.path.strip_prefix("probes/").and_then(|rest| rest.split_once('/')) {
            Some((name, _)) => problems.extend(inside(file, name, &names)),
            None => problems.extend(outside(file, &names)),
        }
    }
    problems
}

/// What the files of the probe `name` may not say.
fn inside(file: &File, name: &str, names: &BTreeSet<&str>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let kernel = is_kernel_side(file);
    let own_modules: Vec<&str> =
        file.text.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    for (number, line) in code_lines(file) {
        if let Some(root) = kernel.then(|| used_root(line)).flatten()
            && !KERNEL_USES.contains(&root)
            && !own_modules.contains(&root)
        {
            let message =
                format!("kernel side uses `{root}`: it may use only {}", KERNEL_USES[..5].join(", "));
            problems.push(problem(&file.path, number, message));
        }
        for other in names.iter().filter(|other| **other != name) {
            if ["crate", "super"].iter().any(|root| line.contains(&format!("{root}::{other}::"))) {
                problems.push(problem(
                    &file.path,
                    number,
                    format!("knows the probe `{other}`: probes know no other probe"),
                ));
            }
        }
        for metric in metric_names(line) {
            if !metric.starts_with(&format!("sidecar_{name}_")) {
                problems.push(problem(
                    &file.path,
                    number,
                    format!("metric `{metric}` must begin with `sidecar_{name}_`"),
                ));
            }
        }
    }
    let declared = file.text.contains(&format!("name: \"{name}\""));
    if file.path == format!("probes/{name}/mod.rs") && !declared {
        problems.push(problem(
            &file.path,
            1,
            format!("PROBE must say `name: \"{name}\"`, as its folder does"),
        ));
    }
    problems
}

/// Code that treats one probe differently by its name belongs into that probe.
fn outside(file: &File, names: &BTreeSet<&str>) -> Vec<Problem> {
    let exempt = ["probes/lib.rs", "probes/build.rs"].contains(&file.path.as_str());
    if exempt || file.is_test() || file.path.starts_with("xtask/") {
        return Vec::new();
    }
    let mut problems = Vec::new();
    let before_tests =
        file.text.find("#[cfg(test)]\nmod tests {").map_or(usize::MAX, |at| file.text[..at].lines().count());
    for (number, line) in code_lines(file).filter(|(number, _)| *number <= before_tests) {
        for name in names {
            let says = [
                format!("sidecar_{name}_"),
                format!("probes::{name}"),
                format!("== \"{name}\""),
                format!("!= \"{name}\""),
                format!("\"{name}\" =="),
                format!("\"{name}\" =>"),
            ];
            if let Some(said) = says.iter().find(|said| line.contains(said.as_str())) {
                let message = format!("names the probe `{name}` (`{said}`): only its own folder may");
                problems.push(problem(&file.path, number, message));
            }
        }
    }
    problems
}

/// Lines that are no comments, numbered from 1.
fn code_lines(file: &File) -> impl Iterator<Item = (usize, &str)> {
    let lines = file.text.lines().enumerate().map(|(number, line)| (number + 1, line.trim()));
    lines.filter(|(_, line)| !line.starts_with("//"))
}

/// `use a::b;` and `extern crate a;` use `a`.
fn used_root(line: &str) -> Option<&str> {
    let line = line.strip_prefix("pub ").unwrap_or(line);
    let rest = line.strip_prefix("use ").or_else(|| line.strip_prefix("extern crate "))?;
    rest.trim_start_matches("::").split([':', ';', ' ']).next()
}

/// String literals that are names of metrics.
fn metric_names(line: &str) -> impl Iterator<Item = &str> {
    line.split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| text.starts_with("sidecar_") && !text.contains([' ', '{', '.']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(changes: &[(&str, &str)]) -> Vec<File> {
        let mut files: Vec<File> = FILES
            .iter()
            .map(|part| File { path: format!("probes/exec/{part}"), text: "name: \"exec\"".to_owned() })
            .collect();
        files.extend(
            FILES
                .iter()
                .map(|part| File { path: format!("probes/dns/{part}"), text: "name: \"dns\"".to_owned() }),
        );
        for (path, text) in changes {
            files.retain(|file| file.path != *path);
            files.push(File { path: (*path).to_owned(), text: (*text).to_owned() });
        }
        files
    }

    fn only(changes: &[(&str, &str)]) -> String {
        let problems = check(&repository(changes));
        assert_eq!(problems.len(), 1, "{problems:?}");
        format!("{}:{}: {}", problems[0].path, problems[0].line, problems[0].message)
    }

    #[test]
    fn a_complete_probe_has_no_problem() {
        assert!(check(&repository(&[])).is_empty());
    }

    #[test]
    fn a_missing_file_is_named() {
        let mut files = repository(&[]);
        files.retain(|file| file.path != "probes/exec/README.md");
        assert_eq!(check(&files)[0].path, "probes/exec/README.md");
    }

    #[test]
    fn a_kernel_program_uses_only_what_exists_there() {
        let found =
            only(&[("probes/exec/kernel.rs", "use core::mem;\nuse aya_ebpf::Global;\nuse std::fs;\n")]);
        assert!(found.starts_with("probes/exec/kernel.rs:3: kernel side uses `std`"), "{found}");
    }

    #[test]
    fn a_probe_knows_no_other_probe() {
        let found = only(&[("probes/exec/collect.rs", "use crate::dns::shared::Key;\n")]);
        assert!(found.contains("knows the probe `dns`"), "{found}");
    }

    #[test]
    fn a_metric_begins_with_its_probes_name() {
        let found = only(&[("probes/exec/collect.rs", "name: \"sidecar_dns_total\",\n")]);
        assert!(found.contains("must begin with `sidecar_exec_`"), "{found}");
    }

    #[test]
    fn nobody_else_treats_a_probe_by_its_name() {
        let found =
            only(&[("crates/sidecar/src/load.rs", "// == \"dns\" in a comment\nif name == \"dns\" {}\n")]);
        assert!(found.starts_with("crates/sidecar/src/load.rs:2: names the probe `dns`"), "{found}");
        let test = repository(&[("crates/sidecar/tests/dns.rs", "assert!(name == \"dns\");\n")]);
        assert!(check(&test).is_empty());
    }

    #[test]
    fn a_probes_name_is_its_folders() {
        assert!(only(&[("probes/exec/mod.rs", "name: \"exce\",\n")]).contains("name: \"exec\""));
    }
}
