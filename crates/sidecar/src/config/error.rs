//! What is wrong with a configuration, all of it at once, each problem with the place the user has to look at.

use std::{fmt, path::Path, sync::Arc};

use super::tree::Position;

/// Problems shown before the rest is only counted.
const SHOWN: usize = 50;
/// Characters of a foreign text shown in a message.
const SHOWN_CHARS: usize = 60;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nobody set it.
    Default,
    /// The configuration file.
    File {
        /// The file, as named.
        path: Arc<Path>,
        /// Where in it; none for the file as a whole.
        at: Option<Position>,
    },
    /// This environment variable.
    Variable(String),
    /// This flag.
    Flag(String),
}

impl Source {
    /// Order in which problems are shown.
    pub(super) fn rank(&self) -> (u8, Option<Position>) {
        match self {
            Self::Default => (0, None),
            Self::File { at, .. } => (1, *at),
            Self::Variable(_) => (2, None),
            Self::Flag(_) => (3, None),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, at: Some(at) } => write!(f, "{}:{at}", printable(&path.to_string_lossy())),
            Self::File { path, at: None } => f.write_str(&printable(&path.to_string_lossy())),
            Self::Variable(name) | Self::Flag(name) => f.write_str(&printable(name)),
        }
    }
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where to look.
    pub(crate) source: Source,
    /// What is wrong there and what was expected.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.text)
    }
}

/// Everything wrong with a configuration, one line each.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
pub(crate) struct ConfigErrors {
    /// The problems: file by position, then environment, then flags.
    pub(crate) problems: Vec<Problem>,
    /// A last line for the user, when there is more to know.
    pub(crate) note: Option<String>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(SHOWN).enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        if let Some(more) = self.problems.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            write!(f, "\n… and {more} more")?;
        }
        self.note.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

/// A text from outside as it may stand in a message: on one line, without control characters.
pub(crate) fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' => out.push(c),
            _ => out.extend(c.escape_debug()),
        }
    }
    out
}

/// [`printable`] and cut.
pub(crate) fn escape(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => printable(&text[..end]) + "…",
        None => printable(text),
    }
}

/// [`escape`] in quotes.
pub(crate) fn quote(text: &str) -> String {
    format!("\"{}\"", escape(text))
}

/// The candidate most like `text`, if any is like it at all. Short words need to share most of their letters.
pub(crate) fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&text, &candidate.to_lowercase()), candidate))
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
