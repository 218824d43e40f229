//! YAML text to a tree in which every key and value knows its line and column. Serde loses the positions, stops at the
//! first problem and lets the last of two equal keys win; a configuration file deserves better.
//!
//! Accepted is the part of YAML people write by hand: mappings, lists, scalars, comments. Anchors, aliases, tags and
//! several documents are refused by name, and nesting is bounded.

use std::fmt;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::error::escape;

/// Deepest nesting the schema has is four; the rest is room for a clear "unknown key" instead of a refusal.
const MAX_DEPTH: usize = 16;

/// Line and column, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Position {
    /// Line.
    pub(crate) line: usize,
    /// Column.
    pub(crate) column: usize,
}

impl From<&Marker> for Position {
    fn from(marker: &Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A value and where it starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// Where it starts.
    pub(crate) at: Position,
    /// What it is.
    pub(crate) kind: NodeKind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum NodeKind {
    /// Nothing, `~` or `null`.
    Null,
    /// A scalar; `quoted` makes `"15"` a text.
    Scalar {
        /// Its text.
        text: String,
        /// Whether it was quoted or a block.
        quoted: bool,
    },
    /// A list.
    List(Vec<Node>),
    /// Keys and values in the order of the file, equal keys included.
    Map(Vec<(MapKey, Node)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MapKey {
    /// Where it starts.
    pub(crate) at: Position,
    /// Its text.
    pub(crate) text: String,
}

/// Reads a document; an empty one is an empty mapping. Also returns everything that is wrong with it as YAML.
pub(crate) fn parse(text: &str) -> (Node, Vec<(Position, String)>) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { text, parser: Parser::new_from_str(text), problems: Vec::new() };
    let root = reader.document().unwrap_or_else(|problem| {
        reader.problems.push(problem);
        None
    });
    let empty = Node { at: Position { line: 1, column: 1 }, kind: NodeKind::Map(Vec::new()) };
    (root.unwrap_or(empty), reader.problems)
}

type Fault = (Position, String);

struct Reader<'a> {
    text: &'a str,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// What is wrong but does not stop the reading.
    problems: Vec<Fault>,
}

impl<'a> Reader<'a> {
    fn document(&mut self) -> Result<Option<Node>, Fault> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(_) if root.is_some() => {
                    return Err((
                        at(&span),
                        "a second document; one file holds one configuration".to_owned(),
                    ));
                }
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                value => root = Some(self.value(value, &span, 0)?),
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The parser's own words, unless a line there is indented with a tab: that is what it then stumbles over.
    fn syntax(&self, error: &saphyr_parser::ScanError) -> Fault {
        let position = Position::from(error.marker());
        let tabbed =
            self.text.lines().enumerate().take(position.line + 1).skip(position.line.saturating_sub(2));
        for (index, line) in tabbed {
            let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
            if let Some(column) = line.get(..indent).and_then(|blank| blank.find('\t')) {
                let position = Position { line: index + 1, column: column + 1 };
                return (position, "a tab; YAML is indented with spaces".to_owned());
            }
        }
        (position, format!("not YAML: {}", error.info()))
    }

    fn value(&mut self, event: Event<'a>, span: &Span, depth: usize) -> Result<Node, Fault> {
        let at = at(span);
        if depth > MAX_DEPTH {
            return Err((at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let kind = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.plain_only(at, anchor, tag.as_deref());
                let quoted = style != ScalarStyle::Plain;
                if !quoted && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    NodeKind::Null
                } else {
                    NodeKind::Scalar { text: text.into_owned(), quoted }
                }
            }
            Event::SequenceStart(anchor, tag) => {
                self.plain_only(at, anchor, tag.as_deref());
                self.list(depth)?
            }
            Event::MappingStart(anchor, tag) => {
                self.plain_only(at, anchor, tag.as_deref());
                self.map(depth)?
            }
            Event::Alias(_) => {
                self.problems.push((at, "an alias (`*name`); write the value out".to_owned()));
                NodeKind::Null
            }
            _ => NodeKind::Null,
        };
        Ok(Node { at, kind })
    }

    fn plain_only(&mut self, at: Position, anchor: usize, tag: Option<&saphyr_parser::Tag>) {
        if anchor != 0 {
            self.problems
                .push((at, "an anchor (`&name`); write the value out where it is needed".to_owned()));
        }
        if let Some(tag) = tag {
            let handle = if tag.is_yaml_core_schema() { "!!" } else { &tag.handle };
            let tag = escape(&format!("{handle}{}", tag.suffix));
            self.problems
                .push((at, format!("a tag (`{tag}`); leave it out, the key says what the value is")));
        }
    }

    fn list(&mut self, depth: usize) -> Result<NodeKind, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::SequenceEnd | Event::StreamEnd => return Ok(NodeKind::List(items)),
                value => items.push(self.value(value, &span, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<NodeKind, Fault> {
        let mut entries = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd | Event::StreamEnd) {
                return Ok(NodeKind::Map(entries));
            }
            let key = self.value(event, &span, depth + 1)?;
            let (event, span) = self.next()?;
            let mut value = self.value(event, &span, depth + 1)?;
            if value.kind == NodeKind::Null {
                value.at = key.at;
            }
            match key.kind {
                NodeKind::Scalar { text, quoted: false } if text == "<<" => {
                    self.problems.push((key.at, "a merge key (`<<`); write the keys out".to_owned()));
                }
                NodeKind::Scalar { text, .. } => entries.push((MapKey { at: key.at, text }, value)),
                _ => self.problems.push((key.at, "a key must be a word".to_owned())),
            }
        }
    }
}

fn at(span: &Span) -> Position {
    Position::from(&span.start)
}
