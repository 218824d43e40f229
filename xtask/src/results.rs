//! Reads what Rust's test programs print, on this machine and on a virtual one's console.
//!
//! A test that meets a kernel without the feature it needs prints `skipped: REASON` and returns; Rust counts it as
//! passed, we do not.

use std::{collections::BTreeSet, ops::AddAssign};

/// Begins the reason of a test that could not run here.
const SKIPPED: &str = "skipped: ";

/// Numbers of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Left out by themselves or marked `#[ignore]`.
    pub(crate) skipped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Follows the output of test programs line by line.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// Sums of the summaries seen so far.
    pub(crate) counts: Counts,
    /// `test: reason`.
    pub(crate) skips: Vec<String>,
    current: String,
    /// Tests of the running program that said so.
    skipped: BTreeSet<String>,
}

impl Reader {
    /// Takes one line. With `--nocapture` a test's name and its result may be lines apart.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some((name, _)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            name.clone_into(&mut self.current);
        }
        // With `--show-output` a test's own output follows such a heading.
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            name.clone_into(&mut self.current);
        }
        if let Some(reason) = skip_reason(line)
            && self.skipped.insert(self.current.clone())
        {
            self.skips.push(format!("{}: {reason}", self.current));
        }
        if let Some(mut counts) = summary(line) {
            let skipped = (std::mem::take(&mut self.skipped).len() as u64).min(counts.passed);
            counts.passed -= skipped;
            counts.skipped += skipped;
            self.counts += counts;
        }
    }
}

/// At the start of a line, or right after the name of the test with `--nocapture`.
fn skip_reason(line: &str) -> Option<&str> {
    let own = match line.strip_prefix("test ") {
        Some(rest) => rest.split_once(" ... ")?.1,
        None => line,
    };
    own.strip_prefix(SKIPPED).map(str::trim)
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`
fn summary(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        let field = numbers.split(';').find_map(|field| field.trim().strip_suffix(word))?;
        field.trim().parse().ok()
    };
    Some(Counts { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reader {
        let mut reader = Reader::default();
        text.lines().for_each(|line| reader.line(line));
        reader
    }

    #[test]
    fn the_summaries_of_several_programs_are_added() {
        let reader = read(
            "running 4 tests\ntest a ... ok\n\
             test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
             test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n",
        );
        assert_eq!(reader.counts, Counts { passed: 8, failed: 2, skipped: 1 });
    }

    #[test]
    fn a_test_that_says_it_was_skipped_has_not_passed() {
        let reader = read(
            "test exec::counts ... skipped: this kernel has no fentry\nok\ntest other ... ok\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
        );
        assert_eq!(reader.counts, Counts { passed: 1, failed: 0, skipped: 1 });
        assert_eq!(reader.skips, ["exec::counts: this kernel has no fentry"]);
    }

    #[test]
    fn skips_are_found_in_captured_output_too() {
        let reader = read(
            "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nskipped: no BTF\n\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s\n",
        );
        assert_eq!(reader.skips, ["a: no BTF"]);
        assert_eq!(reader.counts.skipped, 1);
    }
}
