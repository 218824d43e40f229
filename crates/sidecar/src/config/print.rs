//! `sidecar config print`: the configuration in effect with the source of each value, and the commented reference file.
//! What it prints can be read back.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sidecar_core::{OptionValue, Probe};

use super::{Config, DEFAULT_FILES, error::printable, keys, layers, value};

/// Column the comments stand at, where the value leaves room.
const COMMENT_COLUMN: usize = 40;

/// The configuration in effect as YAML, each value with a comment of where it came from.
pub(crate) fn yaml(config: &Config) -> String {
    let mut out = match &config.file {
        Some(file) => format!("# {}, then environment, then flags\n", printable(&file.to_string_lossy())),
        None => "# No file; defaults, then environment, then flags\n".to_owned(),
    };
    let mut sections = Sections::default();
    for (path, value, source) in config.values() {
        let line = sections.enter(&mut out, path, render(value));
        let _ = writeln!(out, "{line:<COMMENT_COLUMN$} # {source}");
    }
    out
}

/// What `sidecar config check` says when all is well.
pub(crate) fn verdict(config: &Config) -> String {
    match &config.file {
        Some(file) => format!("OK: {}\n", printable(&file.to_string_lossy())),
        None => format!("OK: no file ({}), only defaults, environment and flags\n", DEFAULT_FILES.join(", ")),
    }
}

/// The configuration in effect as JSON: `file`, `config` (nested as in the file) and `sources` (by full key).
pub(crate) fn json(config: &Config) -> String {
    let (mut nested, mut sources) = (Map::new(), Map::new());
    for (path, value, source) in config.values() {
        insert(&mut nested, path, to_json(value));
        sources.insert(path.to_owned(), json!(source.to_string()));
    }
    let file = config.file.as_ref().map(|file| file.display().to_string());
    let mut text = format!("{:#}", json!({ "file": file, "config": nested, "sources": sources }));
    text.push('\n');
    text
}

/// Every key with its default, its help and what it accepts, as a file to start from.
pub(crate) fn defaults(probes: &[&'static Probe]) -> String {
    let mut out =
        "# Every key with its default. Flags override the environment (SIDECAR_METRICS__INTERVAL_SECS=5), \
                   which\n# overrides this file.\n"
            .to_owned();
    let mut sections = Sections::default();
    for entry in keys::schema(probes) {
        let value =
            layers::default_value(&entry).map_or_else(|_| entry.default.to_owned(), |value| render(&value));
        let line = sections.enter(&mut out, &entry.path, value);
        let indent = " ".repeat(line.len() - line.trim_start().len());
        let _ = writeln!(out, "{indent}# {}: {}.\n{line}", entry.help, value::accepts(entry.kind));
    }
    out
}

/// Keeps track of which sections are open while keys are written in order.
#[derive(Default)]
struct Sections {
    open: Vec<String>,
}

impl Sections {
    /// Writes the headings `path` needs and returns its line.
    fn enter(&mut self, out: &mut String, path: &str, value: String) -> String {
        let parts: Vec<&str> = path.split('.').collect();
        let Some((last, sections)) = parts.split_last() else { return value };
        let same = self.open.iter().zip(sections).take_while(|(open, wanted)| open == *wanted).count();
        self.open.truncate(same);
        for section in sections.iter().skip(same) {
            let _ = writeln!(out, "{:width$}{section}:", "", width = self.open.len() * 2);
            self.open.push((*section).to_owned());
        }
        format!("{:width$}{last}: {value}", "", width = self.open.len() * 2)
    }
}

/// A value as YAML on one line.
pub(super) fn render(value: &OptionValue) -> String {
    match value {
        OptionValue::Bool(value) => value.to_string(),
        OptionValue::Integer(value) => value.to_string(),
        OptionValue::Text(value) => text(value),
        OptionValue::Integers(values) => {
            format!("[{}]", values.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
        }
        OptionValue::Texts(values) => {
            format!("[{}]", values.iter().map(|value| text(value)).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Words and paths stay bare; whatever YAML could read as something else is quoted. JSON's quoting is YAML's too, but
/// for the characters only YAML wants escaped.
fn text(value: &str) -> String {
    let first = value.chars().next().is_some_and(|first| first.is_ascii_alphabetic() || first == '/');
    let rest = value.chars().all(|c| c.is_ascii_alphanumeric() || "/_-.".contains(c));
    if first && rest && !READ_AS_OTHER.contains(&value.to_lowercase().as_str()) {
        return value.to_owned();
    }
    let mut out = String::with_capacity(value.len() + 2);
    for c in Value::from(value).to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out
}

/// Words some YAML readers take for a truth value or for nothing.
const READ_AS_OTHER: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];

fn to_json(value: &OptionValue) -> Value {
    match value {
        OptionValue::Bool(value) => json!(value),
        OptionValue::Integer(value) => json!(value),
        OptionValue::Text(value) => json!(value),
        OptionValue::Integers(values) => json!(values),
        OptionValue::Texts(values) => json!(values),
    }
}

fn insert(map: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(map.insert(path.to_owned(), value)),
        Some((section, rest)) => {
            let below = map.entry(section).or_insert_with(|| json!({}));
            if let Value::Object(below) = below {
                insert(below, rest, value);
            }
        }
    }
}
