//! The two lists that name every probe must equal the folders: one missing entry and a probe is silently not there.

use std::collections::BTreeMap;

use super::{File, Problem, probes::names, problem};

pub(super) const HOST_LIST: &str = "probes/lib.rs";
pub(super) const KERNEL_LIST: &str = "crates/sidecar-ebpf/Cargo.toml";

pub(super) fn check(files: &[File]) -> Vec<Problem> {
    let folders = names(files);
    let text = |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    let mut problems = Vec::new();
    let (modules, listed) = host_entries(text(HOST_LIST));
    let bins = kernel_entries(text(KERNEL_LIST));
    for (list, entries, line_to_add) in [
        (HOST_LIST, &modules, "pub mod NAME;"),
        (HOST_LIST, &listed, "&NAME::PROBE in PROBES"),
        (KERNEL_LIST, &bins, "[[bin]] with name = \"NAME\" and path = \"../../probes/NAME/kernel.rs\""),
    ] {
        for folder in folders.iter().filter(|folder| !entries.contains_key(**folder)) {
            let message =
                format!("probes/{folder} is not listed: add {}", line_to_add.replace("NAME", folder));
            problems.push(problem(list, 1, message));
        }
        for (name, line) in entries.iter().filter(|(name, _)| !folders.contains(name.as_str())) {
            problems.push(problem(
                list,
                *line,
                format!("`{name}` has no folder probes/{name}: remove the entry"),
            ));
        }
    }
    problems
}

type Entries = BTreeMap<String, usize>;

/// Modules and entries of `PROBES`, with their lines. Private modules are shared code of the host side, no probes.
fn host_entries(text: &str) -> (Entries, Entries) {
    let (mut modules, mut listed) = (Entries::new(), Entries::new());
    for (number, line) in text.lines().enumerate() {
        let module = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';'));
        modules.extend(module.map(|name| (name.to_owned(), number + 1)));
        for part in line.split('&').skip(1) {
            listed.extend(part.split_once("::PROBE").map(|(name, _)| (name.to_owned(), number + 1)));
        }
    }
    (modules, listed)
}

/// Names of the bins whose path is the probe's folder of the same name.
fn kernel_entries(text: &str) -> Entries {
    let mut bins = Entries::new();
    let mut name = None;
    for (number, line) in text.lines().enumerate() {
        let value = |key: &str| {
            line.strip_prefix(key)?
                .trim_start()
                .strip_prefix('=')?
                .trim()
                .strip_prefix('"')?
                .strip_suffix('"')
        };
        match line {
            "[[bin]]" => name = None,
            _ if line.starts_with("name") => name = value("name"),
            _ => {}
        }
        if let (Some(path), Some(name)) = (value("path"), name)
            && path == format!("../../probes/{name}/kernel.rs")
        {
            bins.insert(name.to_owned(), number + 1);
        }
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIB: &str = "pub mod dns;\nmod plain;\npub static PROBES: &[&Probe] = &[&dns::PROBE];\n";
    const MANIFEST: &str = "[[bin]]\nname = \"dns\"\npath = \"../../probes/dns/kernel.rs\"\n";

    fn messages(lib: &str, manifest: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let files = [file(HOST_LIST, lib), file(KERNEL_LIST, manifest), file("probes/dns/mod.rs", "")];
        check(&files)
            .into_iter()
            .map(|problem| format!("{}:{}: {}", problem.path, problem.line, problem.message))
            .collect()
    }

    #[test]
    fn lists_that_equal_the_folders_are_good() {
        assert_eq!(messages(LIB, MANIFEST), Vec::<String>::new());
    }

    #[test]
    fn a_folder_that_is_not_listed_is_named_with_the_line_to_add() {
        let found = messages("pub mod dns;\n", "");
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("add &dns::PROBE in PROBES"), "{found:?}");
        assert!(found[1].contains("../../probes/dns/kernel.rs"), "{found:?}");
    }

    #[test]
    fn an_entry_without_a_folder_is_found_at_its_line() {
        let found = messages(&LIB.replace("&dns::PROBE", "&dns::PROBE, &old::PROBE"), MANIFEST);
        assert_eq!(found, ["probes/lib.rs:3: `old` has no folder probes/old: remove the entry"]);
    }

    #[test]
    fn a_bin_that_is_built_from_another_folder_does_not_count() {
        assert_eq!(messages(LIB, &MANIFEST.replace("/dns/", "/dnz/")).len(), 1);
    }
}
