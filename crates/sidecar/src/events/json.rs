//! An event as one line of JSON, and the schema that line follows.

use std::time::Duration;

use humantime::format_rfc3339_nanos;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};
use sidecar_core::{Event, EventField, EventSpec, EventValue, FieldKind};

/// What every line begins with, besides the fields of its type.
const COMMON: [(&str, &str); 3] = [
    ("event", "Type of the event"),
    ("time", "Wall clock when it happened, RFC 3339 in UTC with nanoseconds"),
    ("monotonic_ns", "CLOCK_MONOTONIC of the machine when it happened, nanoseconds"),
];

/// One line, with its end.
pub(crate) fn line(event: &Event) -> Vec<u8> {
    let mut line = Vec::with_capacity(256);
    // Text, numbers and lists of text into memory: nothing of that can fail.
    let _ = serde_json::to_writer(&mut line, &Line(event));
    line.push(b'\n');
    line
}

struct Line<'a>(&'a Event);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(event) = self;
        let mut map = serializer.serialize_map(Some(COMMON.len() + event.values.len()))?;
        map.serialize_entry("event", event.spec.kind)?;
        map.serialize_entry("time", &format_args!("{}", format_rfc3339_nanos(event.wall)))?;
        map.serialize_entry("monotonic_ns", &nanoseconds(event.monotonic))?;
        for (field, value) in event.spec.fields.iter().zip(&event.values) {
            map.serialize_entry(field.name, &Field(value))?;
        }
        map.end()
    }
}

/// 584 years fit.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

struct Field<'a>(&'a EventValue);

impl Serialize for Field<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            EventValue::Unknown => serializer.serialize_unit(),
            EventValue::Text(text) => serializer.serialize_str(text),
            EventValue::Word(word) => serializer.serialize_str(word),
            EventValue::Number(number) => serializer.serialize_i64(*number),
            EventValue::Seconds(time) => serializer.serialize_f64(time.as_secs_f64()),
            EventValue::Bool(is_so) => serializer.serialize_bool(*is_so),
            EventValue::List(texts) => texts.serialize(serializer),
        }
    }
}

/// The JSON Schema of an event type.
pub(crate) fn schema(spec: &EventSpec) -> Value {
    let mut properties = Map::new();
    for (name, help) in COMMON {
        let mut property = match name {
            "event" => json!({ "const": spec.kind }),
            "time" => json!({ "type": "string", "format": "date-time" }),
            _ => json!({ "type": "integer", "minimum": 0 }),
        };
        property["description"] = help.into();
        properties.insert(name.into(), property);
    }
    for field in spec.fields {
        properties.insert(field.name.into(), property(field));
    }
    let required: Vec<&str> =
        COMMON.iter().map(|(name, _)| *name).chain(spec.fields.iter().map(|field| field.name)).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": spec.kind,
        "description": spec.summary,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn property(field: &EventField) -> Value {
    let kind = match field.kind {
        FieldKind::Text | FieldKind::Choice(_) => "string",
        FieldKind::Number => "integer",
        FieldKind::Seconds => "number",
        FieldKind::Bool => "boolean",
        FieldKind::List => "array",
    };
    let kind = if field.optional { json!([kind, "null"]) } else { kind.into() };
    let mut property = json!({ "type": kind, "description": field.help });
    match field.kind {
        FieldKind::List => property["items"] = json!({ "type": "string" }),
        FieldKind::Seconds => property["minimum"] = 0.into(),
        FieldKind::Choice(words) => {
            let unknown = field.optional.then_some(Value::Null);
            property["enum"] = words.iter().map(|word| (*word).into()).chain(unknown).collect();
        }
        FieldKind::Text | FieldKind::Number | FieldKind::Bool => {}
    }
    property
}
