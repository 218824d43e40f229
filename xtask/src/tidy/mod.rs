//! Rules of the repository that no compiler checks. Each message names the file, the line and what to do.

mod crates;
mod lists;
mod probes;
mod text;

use std::fs;

use anyhow::{Result, bail};

use crate::shell::{repository_files, root, step};

/// A file of the repository.
#[derive(Debug)]
struct File {
    /// Below the repository, with slashes.
    path: String,
    text: String,
}

impl File {
    fn extension(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.rsplit_once('.').map_or("", |(_, extension)| extension)
    }

    /// Whether it is Rust that only tests and benchmarks use.
    fn is_test(&self) -> bool {
        let whole = ["tests", "bench", "benches", "test.rs", "tests.rs", "bench.rs"];
        let named = |part: &str| whole.contains(&part) || part.starts_with("test_");
        self.path.split('/').any(named)
    }
}

/// Something to repair.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    path: String,
    /// 1 for the file as a whole.
    line: usize,
    message: String,
}

fn problem(file: impl Into<String>, line: usize, message: impl Into<String>) -> Problem {
    Problem { path: file.into(), line, message: message.into() }
}

/// Checks everything; an error if there is something to repair.
pub(crate) fn tidy() -> Result<()> {
    step("checking the repository's rules");
    let files = files()?;
    let mut problems: Vec<Problem> = files.iter().flat_map(text::check).collect();
    problems.extend(probes::check(&files));
    problems.extend(lists::check(&files));
    problems.extend(crates::check()?);
    problems.sort();
    for Problem { path, line, message } in &problems {
        println!("{path}:{line}: {message}");
    }
    if !problems.is_empty() {
        bail!("tidy: {} to repair", problems.len());
    }
    println!("  {} files, nothing to repair", files.len());
    Ok(())
}

/// Every text file of the repository.
fn files() -> Result<Vec<File>> {
    let mut files = Vec::new();
    for path in repository_files()? {
        // Deleted but not yet committed, or not text: nothing to check.
        let Ok(bytes) = fs::read(root().join(&path)) else { continue };
        if let Ok(text) = String::from_utf8(bytes) {
            files.push(File { path, text });
        }
    }
    Ok(files)
}
