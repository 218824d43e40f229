//! Rules for any file: short enough to read, and saying at its top why it exists.

use super::{File, Problem, problem};

/// A longer file has more than one subject.
const MAX_LINES: usize = 800;
const CODE: [&str; 9] = ["rs", "sh", "py", "js", "ts", "css", "html", "proto", "c"];
const PROSE: [&str; 6] = ["md", "toml", "yaml", "yml", "json", "service"];

pub(super) fn check(file: &File) -> Vec<Problem> {
    let mut problems = Vec::new();
    let code = CODE.contains(&file.extension());
    if !code && !PROSE.contains(&file.extension()) {
        return problems;
    }
    for (number, line) in file.text.lines().enumerate() {
        if line.ends_with([' ', '\t']) {
            problems.push(problem(&file.path, number + 1, "space at the end of the line: remove it"));
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        problems.push(problem(
            &file.path,
            file.text.lines().count(),
            "no newline at the end of the file: add one",
        ));
    }
    let lines = file.text.lines().count();
    if code && lines > MAX_LINES {
        problems.push(problem(
            &file.path,
            MAX_LINES + 1,
            format!("{lines} lines, at most {MAX_LINES}: split it by subject"),
        ));
    }
    if file.extension() == "rs" && !has_module_doc(&file.text) {
        problems.push(problem(
            &file.path,
            1,
            "no module documentation: begin with `//!` and why this file exists",
        ));
    }
    if must_be_gpl_compatible(file) && !file.text.starts_with(super::probes::LICENCE) {
        problems.push(problem(
            &file.path,
            1,
            format!("runs in the kernel: begin with `{}`", super::probes::LICENCE),
        ));
    }
    problems
}

/// The first thing that is not a licence line or empty must be `//!`.
fn has_module_doc(text: &str) -> bool {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with("// SPDX-"));
    first.is_some_and(|line| line.starts_with("//!"))
}

fn must_be_gpl_compatible(file: &File) -> bool {
    let kernel_library = file.path.starts_with("crates/sidecar-ebpf/src/") && file.extension() == "rs";
    kernel_library || super::probes::is_kernel_side(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<(usize, String)> {
        let problems = check(&File { path: path.to_owned(), text: text.to_owned() });
        problems.into_iter().map(|problem| (problem.line, problem.message)).collect()
    }

    #[test]
    fn a_good_file_has_no_problem() {
        assert!(messages("a/b.rs", "//! Why.\nfn f() {}\n").is_empty());
        assert!(messages("a/b.bin", "anything  \n").is_empty());
    }

    #[test]
    fn trailing_space_is_found_at_its_line() {
        assert_eq!(messages("a.md", "one\ntwo \n")[0].0, 2);
        assert!(messages("a.md", "one")[0].1.contains("newline"));
    }

    #[test]
    fn a_rust_file_must_say_why_it_exists_before_anything_else() {
        assert!(messages("a.rs", "#![no_std]\n//! Late.\n")[0].1.contains("module documentation"));
        assert!(messages("a.rs", "// SPDX-License-Identifier: MIT\n\n//! Why.\n").is_empty());
    }

    #[test]
    fn a_file_may_have_800_lines_and_not_one_more() {
        let text = |lines: usize| format!("//! Why.\n{}", "x\n".repeat(lines - 1));
        assert!(messages("a.rs", &text(800)).is_empty());
        assert_eq!(messages("a.rs", &text(801))[0].0, 801);
    }

    #[test]
    fn what_runs_in_the_kernel_names_its_licence() {
        assert_eq!(messages("probes/x/kernel.rs", "//! Why.\n").len(), 1);
        assert!(
            messages("probes/x/kernel.rs", "// SPDX-License-Identifier: MIT OR GPL-2.0\n//! Why.\n")
                .is_empty()
        );
    }
}
