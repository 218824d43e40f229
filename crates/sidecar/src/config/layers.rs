//! The four layers of the configuration, lowest first: defaults, file, environment, flags. Each overwrites values of
//! the one below and adds what is wrong with it to the list.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use sidecar_core::{OptionKind, OptionValue};

use super::{
    error::{Problem, Source, escape, nearest},
    keys::{Entry, VARIABLE_PREFIX},
    tree::{self, MapKey, Node, NodeKind, Position},
    value,
};
use crate::cli::CommonArgs;

/// Largest file read: a configuration is a few kilobytes, so a larger one is the wrong file.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A key's value and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setting {
    /// The value.
    pub(crate) value: OptionValue,
    /// Where it came from.
    pub(crate) source: Source,
}

/// Every key's value while the layers are put on each other.
pub(crate) struct Layers<'a> {
    entries: &'a [Entry],
    /// One per entry, in the same order.
    pub(crate) settings: Vec<Setting>,
    /// What is wrong so far.
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Layers<'a> {
    /// The defaults.
    pub(crate) fn new(entries: &'a [Entry]) -> Self {
        let mut problems = Vec::new();
        let settings = entries
            .iter()
            .map(|entry| Setting {
                value: default_value(entry).unwrap_or_else(|text| {
                    problems.push(Problem { source: Source::Default, text });
                    OptionValue::Text(String::new())
                }),
                source: Source::Default,
            })
            .collect();
        Self { entries, settings, problems }
    }

    /// Puts a file on top.
    pub(crate) fn file(&mut self, path: &Path) {
        let path: Arc<Path> = path.into();
        match read(&path) {
            Ok(text) => self.yaml(&path, &text),
            Err((at, text)) => self.problems.push(Problem { source: Source::File { path, at }, text }),
        }
    }

    /// Puts the text of a file on top.
    pub(crate) fn yaml(&mut self, path: &Arc<Path>, text: &str) {
        let (root, faults) = tree::parse(text);
        for (at, text) in faults {
            self.refuse(path, at, text);
        }
        match &root.kind {
            NodeKind::Map(map) => self.section(path, "", map),
            NodeKind::Null => {}
            _ => self.refuse(path, root.at, "expected keys (`listen: …`) at the top level".to_owned()),
        }
    }

    fn refuse(&mut self, path: &Arc<Path>, at: Position, text: String) {
        self.problems.push(Problem { source: Source::File { path: Arc::clone(path), at: Some(at) }, text });
    }

    fn section(&mut self, path: &Arc<Path>, prefix: &str, map: &[(MapKey, Node)]) {
        let mut seen: HashMap<&str, Position> = HashMap::new();
        for (key, node) in map {
            let full = format!("{prefix}{}", escape(&key.text));
            if let Some(first) = seen.get(key.text.as_str()) {
                self.refuse(path, key.at, format!("{full}: set twice, first in line {}", first.line));
                continue;
            }
            seen.insert(&key.text, key.at);
            let entry = self.entries.iter().position(|entry| entry.path == full);
            match (entry, &node.kind) {
                _ if key.text.contains('.') => {
                    let text = format!("{full}: write nested keys instead of dots, one level per line");
                    self.refuse(path, key.at, text);
                }
                (Some(index), _) => self.set(path, index, node),
                (None, _) if !self.is_section(&full) => {
                    let text = unknown(&full, prefix, self.entries);
                    self.refuse(path, key.at, text);
                }
                (None, NodeKind::Map(inner)) => self.section(path, &format!("{full}."), inner),
                (None, NodeKind::Null) => {}
                (None, _) => {
                    let keys = children(self.entries, &format!("{full}.")).join(", ");
                    self.refuse(path, node.at, format!("{full}: expected keys below it ({keys})"));
                }
            }
        }
    }

    fn set(&mut self, path: &Arc<Path>, index: usize, node: &Node) {
        match value::check(&self.entries[index], node) {
            Ok(value) => {
                let source = Source::File { path: Arc::clone(path), at: Some(node.at) };
                self.settings[index] = Setting { value, source };
            }
            Err(faults) => faults.into_iter().for_each(|(at, text)| self.refuse(path, at, text)),
        }
    }

    fn is_section(&self, path: &str) -> bool {
        let prefix = format!("{path}.");
        path == "probes" || self.entries.iter().any(|entry| entry.path.starts_with(&prefix))
    }

    /// Puts the environment on top. An empty variable counts as not set, which is what shells and compose files mean.
    pub(crate) fn environment(&mut self, variables: impl Iterator<Item = (OsString, OsString)>) {
        let mut ours: Vec<(OsString, OsString)> = variables
            .filter(|(name, value)| {
                name.as_encoded_bytes().starts_with(VARIABLE_PREFIX.as_bytes()) && !value.is_empty()
            })
            .collect();
        ours.sort();
        for (name, value) in ours {
            let label = name.to_string_lossy().into_owned();
            match (name.to_str(), value.to_str()) {
                (Some(name), Some(value)) => self.variable(name, value),
                _ => self
                    .problems
                    .push(Problem { source: Source::Variable(label), text: "not UTF-8".to_owned() }),
            }
        }
    }

    fn variable(&mut self, name: &str, text: &str) {
        let source = Source::Variable(name.to_owned());
        match self.entries.iter().position(|entry| entry.variable() == name) {
            Some(index) => self.assign(index, source, &[text]),
            None if is_service_link(name, text) => {}
            None => {
                let names: Vec<String> = self.entries.iter().map(Entry::variable).collect();
                let text = match nearest(name, names.iter().map(String::as_str)) {
                    Some(near) => format!("unknown variable; did you mean {near}?"),
                    None => format!("unknown variable; {VARIABLE_PREFIX}… are the agent's own"),
                };
                self.problems.push(Problem { source, text });
            }
        }
    }

    /// Puts the flags on top.
    pub(crate) fn flags(&mut self, args: &CommonArgs) {
        for flag in &args.flags {
            let Some(index) = self.entries.iter().position(|entry| entry.path == flag.key) else { continue };
            let mut texts: Vec<&str> = flag.texts.iter().map(String::as_str).collect();
            if flag.key.ends_with("_secs") {
                for text in &mut texts {
                    *text = text.strip_suffix('s').unwrap_or(text);
                }
            }
            self.assign(index, Source::Flag(flag.name.clone()), &texts);
        }
        self.switches(args);
    }

    /// `--probe` and `--no-probe`.
    fn switches(&mut self, args: &CommonArgs) {
        let mut set: HashMap<&str, bool> = HashMap::new();
        for (name, on) in &args.probes {
            let source = Source::Flag(format!("--{}probe {name}", if *on { "" } else { "no-" }));
            let path = format!("probes.{name}.{}", super::keys::ENABLED);
            let index = self.entries.iter().position(|entry| entry.path == path);
            let text = match (index, set.insert(name, *on)) {
                (None, _) => unknown_probe(name, self.entries),
                (Some(_), Some(before)) if before != *on => "switched both on and off".to_owned(),
                (Some(index), _) => {
                    self.settings[index] = Setting { value: OptionValue::Bool(*on), source };
                    continue;
                }
            };
            self.problems.push(Problem { source, text });
        }
    }

    fn assign(&mut self, index: usize, source: Source, texts: &[&str]) {
        let entry = &self.entries[index];
        match value::check(entry, &value::from_text(entry.kind, texts)) {
            Ok(value) => self.settings[index] = Setting { value, source },
            Err(faults) => self
                .problems
                .extend(faults.into_iter().map(|(_, text)| Problem { source: source.clone(), text })),
        }
    }
}

/// A declaration's default, checked like any other value.
pub(crate) fn default_value(entry: &Entry) -> Result<OptionValue, String> {
    let node = match entry.kind {
        OptionKind::Text if entry.default == "\"\"" => return Ok(OptionValue::Text(String::new())),
        kind => value::from_text(kind, &[entry.default]),
    };
    value::check(entry, &node).map_err(|faults| faults.into_iter().map(|(_, text)| text).collect())
}

/// Names of the keys and sections right below `prefix`.
fn children(entries: &[Entry], prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for entry in entries {
        let name = entry.path.strip_prefix(prefix).and_then(|rest| rest.split('.').next());
        if let Some(name) = name.filter(|name| !names.iter().any(|known| known == name)) {
            names.push(name.to_owned());
        }
    }
    names
}

fn unknown(full: &str, prefix: &str, entries: &[Entry]) -> String {
    let last = full.rsplit('.').next().unwrap_or(full);
    let siblings = children(entries, prefix);
    if let Some(near) = nearest(last, siblings.iter().map(String::as_str)) {
        return format!("{full}: unknown key; did you mean {prefix}{near}?");
    }
    let elsewhere =
        entries.iter().find(|entry| entry.probe.is_none() && entry.path.rsplit('.').next() == Some(last));
    match elsewhere {
        Some(entry) => format!("{full}: unknown key; did you mean {}?", entry.path),
        None if siblings.is_empty() => format!("{full}: unknown key; there are none here"),
        None => format!("{full}: unknown key; expected one of {}", siblings.join(", ")),
    }
}

fn unknown_probe(name: &str, entries: &[Entry]) -> String {
    let probes = children(entries, "probes.");
    match nearest(name, probes.iter().map(String::as_str)) {
        Some(near) => format!("no such probe; did you mean {near}?"),
        None if probes.is_empty() => "no such probe; there are none".to_owned(),
        None => format!("no such probe; there are {}", probes.join(", ")),
    }
}

/// Variables that Kubernetes puts into every pod for a Service named `sidecar…`; they are not meant for the agent.
fn is_service_link(name: &str, text: &str) -> bool {
    let port = name.rsplit("PORT_").next().is_some_and(|rest| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|part| part.parse::<u16>().is_ok());
        number && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    });
    let url = name.ends_with("_PORT") && text.contains("://");
    url || port || name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT")
}

fn read(path: &Path) -> Result<String, (Option<Position>, String)> {
    let whole = |text: String| (None, text);
    let error = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => whole("no such file".to_owned()),
        io::ErrorKind::IsADirectory => whole("a directory; name the file in it".to_owned()),
        _ => whole(format!("cannot read: {error}")),
    };
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(error)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(whole("larger than 1 MiB; is it a configuration file?".to_owned()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default()).into_owned();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        let at = Position { line: before.matches('\n').count() + 1, column };
        (Some(at), "not UTF-8; save the file as UTF-8".to_owned())
    })
}
