//! One thing looked at: how it is, what was found, what to do if it is not good.

use serde::Serialize;
use serde_json::Value;

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// Cannot be seen from here.
    Unknown,
    /// Something is less exact, slower or not seen.
    Warn,
    /// Something asked for cannot work like this.
    Fail,
}

/// The result of looking at one thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Check {
    /// What was looked at; programs find it by this name.
    #[serde(rename = "check")]
    pub(super) name: &'static str,
    pub(super) level: Level,
    /// In words.
    pub(super) found: String,
    /// What to do about it; empty when there is nothing to do.
    pub(super) advice: String,
    /// The bare facts, for programs; each check has its own.
    pub(super) facts: Value,
}

impl Check {
    /// A check that needs no advice.
    pub(super) fn new(name: &'static str, level: Level, found: impl Into<String>, facts: Value) -> Self {
        Self { name, level, found: found.into(), advice: String::new(), facts }
    }

    /// The same with what to do.
    pub(super) fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: advice.into(), ..self }
    }
}
