//! Configuration keys as data: one declaration gives parsing, ranges, error texts, `--help` and the reference page.

use std::collections::BTreeMap;

/// What a key accepts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptionKind {
    /// `true` or `false`.
    Bool,
    /// A whole number within the range.
    Integer {
        /// Smallest accepted.
        min: u64,
        /// Largest accepted.
        max: u64,
    },
    /// Text.
    Text,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of whole numbers within the range.
    Integers {
        /// Smallest accepted.
        min: u64,
        /// Largest accepted.
        max: u64,
    },
    /// A list of texts.
    Texts,
    /// A list of distinct words out of these.
    Choices(&'static [&'static str]),
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptionSpec {
    /// Name: a full dotted path for the agent's own keys, the last part for a probe's.
    pub name: &'static str,
    /// What it accepts.
    pub kind: OptionKind,
    /// Default in YAML notation (`true`, `15`, `[a, b]`, `""`).
    pub default: &'static str,
    /// One sentence without a full stop at its end.
    pub help: &'static str,
}

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub enum OptionValue {
    /// For [`OptionKind::Bool`].
    Bool(bool),
    /// For [`OptionKind::Integer`].
    Integer(u64),
    /// For [`OptionKind::Text`] and [`OptionKind::Choice`].
    Text(String),
    /// For [`OptionKind::Integers`].
    Integers(Vec<u64>),
    /// For [`OptionKind::Texts`] and [`OptionKind::Choices`].
    Texts(Vec<String>),
}

/// The checked values of a probe's keys; every declared key is present.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options(pub BTreeMap<&'static str, OptionValue>);

impl Options {
    /// A `Bool` key's value; false if it is not declared.
    pub fn bool(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(OptionValue::Bool(true)))
    }

    /// An `Integer` key's value; 0 if it is not declared.
    pub fn integer(&self, name: &str) -> u64 {
        match self.0.get(name) {
            Some(OptionValue::Integer(value)) => *value,
            _ => 0,
        }
    }

    /// A `Text` or `Choice` key's value; empty if it is not declared.
    pub fn text(&self, name: &str) -> &str {
        match self.0.get(name) {
            Some(OptionValue::Text(value)) => value,
            _ => "",
        }
    }

    /// An `Integers` key's value; empty if it is not declared.
    pub fn integers(&self, name: &str) -> &[u64] {
        match self.0.get(name) {
            Some(OptionValue::Integers(value)) => value,
            _ => &[],
        }
    }

    /// A `Texts` or `Choices` key's value; empty if it is not declared.
    pub fn texts(&self, name: &str) -> &[String] {
        match self.0.get(name) {
            Some(OptionValue::Texts(value)) => value,
            _ => &[],
        }
    }
}
