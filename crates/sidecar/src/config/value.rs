//! One value, checked against what its key accepts. File, environment and flags all end here, so that the same mistake
//! gets the same words wherever it was made.

use sidecar_core::{OptionKind, OptionValue};

use super::{
    error::{nearest, quote},
    keys::Entry,
    tree::{Node, NodeKind, Position},
};

/// What is wrong and where.
pub(crate) type Faults = Vec<(Position, String)>;

/// The checked value, or everything that is wrong with it.
pub(crate) fn check(entry: &Entry, node: &Node) -> Result<OptionValue, Faults> {
    match entry.kind {
        OptionKind::Bool => scalar(entry, node, boolean).map(OptionValue::Bool),
        OptionKind::Integer { .. } => scalar(entry, node, integer).map(OptionValue::Integer),
        OptionKind::Text | OptionKind::Choice(_) => scalar(entry, node, text).map(OptionValue::Text),
        OptionKind::Integers { .. } => list(entry, node, integer).map(OptionValue::Integers),
        OptionKind::Texts | OptionKind::Choices(_) => list(entry, node, text).map(OptionValue::Texts),
    }
}

/// Whether the key holds a list.
pub(crate) const fn is_list(kind: OptionKind) -> bool {
    matches!(kind, OptionKind::Integers { .. } | OptionKind::Texts | OptionKind::Choices(_))
}

/// The value of a variable or flag as a tree: comma lists for lists (`80,443`, also `[80, 443]`), else one scalar.
pub(crate) fn from_text(kind: OptionKind, texts: &[&str]) -> Node {
    let node = |kind| Node { at: Position::default(), kind };
    let scalar = |text: &str| node(NodeKind::Scalar { text: text.to_owned(), quoted: false });
    if !is_list(kind) {
        return scalar(texts.last().map_or("", |text| text.trim()));
    }
    let mut items = Vec::new();
    for text in texts {
        let text = text.trim();
        match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) if inner.trim().is_empty() => {}
            Some(inner) => items.extend(inner.split(',').map(|item| scalar(item.trim()))),
            None => items.extend(text.split(',').map(|item| scalar(item.trim()))),
        }
    }
    node(NodeKind::List(items))
}

/// What a key accepts, in words.
pub(crate) fn accepts(kind: OptionKind) -> String {
    match kind {
        OptionKind::Bool => "true or false".to_owned(),
        OptionKind::Integer { min, max } => format!("a whole number from {min} to {max}"),
        OptionKind::Text => "text".to_owned(),
        OptionKind::Choice(words) => format!("one of {}", words.join(", ")),
        OptionKind::Integers { min, max } => format!("a list of whole numbers from {min} to {max}"),
        OptionKind::Texts => "a list of texts".to_owned(),
        OptionKind::Choices(words) => format!("a list out of {}", words.join(", ")),
    }
}

type Read<T> = fn(OptionKind, &str, bool) -> Result<T, Option<String>>;

/// One scalar through `read`, which says no with an optional hint.
fn scalar<T>(entry: &Entry, node: &Node, read: Read<T>) -> Result<T, Faults> {
    let hint = match &node.kind {
        NodeKind::Scalar { text, quoted } => match read(entry.kind, text, *quoted) {
            Ok(value) => return Ok(value),
            Err(hint) => hint,
        },
        _ => None,
    };
    Err(vec![(node.at, refusal(entry, node, hint))])
}

fn list<T: PartialEq>(entry: &Entry, node: &Node, read: Read<T>) -> Result<Vec<T>, Faults> {
    let items = match &node.kind {
        NodeKind::List(items) => items.as_slice(),
        NodeKind::Scalar { .. } => std::slice::from_ref(node),
        NodeKind::Null => {
            let hint = Some("write [] for an empty list".to_owned());
            return Err(vec![(node.at, refusal(entry, node, hint))]);
        }
        NodeKind::Map(_) => return Err(vec![(node.at, refusal(entry, node, None))]),
    };
    if items.len() > entry.max_items {
        let text = format!("{}: {} entries, at most {} fit", entry.path, items.len(), entry.max_items);
        return Err(vec![(node.at, text)]);
    }
    let (mut values, mut faults) = (Vec::with_capacity(items.len()), Faults::new());
    for item in items {
        match scalar(entry, item, read) {
            Ok(value) if values.contains(&value) => {
                faults.push((item.at, format!("{}: {} stands twice", entry.path, found(item))));
            }
            Ok(value) => values.push(value),
            Err(fault) => faults.extend(fault),
        }
    }
    if faults.is_empty() { Ok(values) } else { Err(faults) }
}

/// What is wrong with a value. An entry of a list is told apart from the list itself by being a scalar.
fn refusal(entry: &Entry, node: &Node, hint: Option<String>) -> String {
    let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
    let accepts = accepts(entry.kind);
    let accepts = match &node.kind {
        NodeKind::Scalar { .. } => {
            accepts.trim_start_matches("a list of ").replace("a list out of", "words out of")
        }
        _ => accepts,
    };
    format!("{}: expected {accepts}, found {}{hint}", entry.path, found(node))
}

fn found(node: &Node) -> String {
    match &node.kind {
        NodeKind::Null => "nothing".to_owned(),
        NodeKind::Scalar { text, .. } if text.is_empty() => "an empty text".to_owned(),
        NodeKind::Scalar { text, quoted: false } if text.parse::<f64>().is_ok() => text.clone(),
        NodeKind::Scalar { text, .. } => quote(text),
        NodeKind::List(_) => "a list".to_owned(),
        NodeKind::Map(_) => "keys".to_owned(),
    }
}

fn boolean(_: OptionKind, text: &str, quoted: bool) -> Result<bool, Option<String>> {
    match (text, quoted) {
        ("true", false) => Ok(true),
        ("false", false) => Ok(false),
        ("true" | "false", true) => Err(Some(UNQUOTE.to_owned())),
        _ => Err(match text.to_lowercase().as_str() {
            "yes" | "on" | "y" | "1" | "true" => Some("write true".to_owned()),
            "no" | "off" | "n" | "0" | "false" => Some("write false".to_owned()),
            _ => None,
        }),
    }
}

const UNQUOTE: &str = "leave the quotes out";

/// Plain decimal digits only: `0x10`, `1e3`, `1_000` and `010` mean different numbers to different YAML readers.
fn integer(kind: OptionKind, text: &str, quoted: bool) -> Result<u64, Option<String>> {
    let (OptionKind::Integer { min, max } | OptionKind::Integers { min, max }) = kind else {
        return Err(None);
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        let list = text.contains(',') && text.bytes().all(|b| b.is_ascii_digit() || b", ".contains(&b));
        return Err((list && is_list(kind)).then(|| format!("write [{text}]")));
    }
    if quoted {
        return Err(Some(UNQUOTE.to_owned()));
    }
    if text.starts_with('0') && text.len() > 1 {
        return Err(Some("leave the leading zeros out".to_owned()));
    }
    text.parse().ok().filter(|value| (min..=max).contains(value)).ok_or(None)
}

fn text(kind: OptionKind, text: &str, _: bool) -> Result<String, Option<String>> {
    match kind {
        OptionKind::Choice(words) | OptionKind::Choices(words) if !words.contains(&text) => {
            Err(nearest(text, words.iter().copied()).map(|word| format!("did you mean {word}?")))
        }
        OptionKind::Texts if text.is_empty() => Err(None),
        _ => Ok(text.to_owned()),
    }
}
