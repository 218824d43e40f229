//! What a running agent says, back in the words of this program. Metrics, labels and event types that this version does
//! not know are left out.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use humantime::parse_rfc3339;
use serde::Deserialize;
use serde_json::Value as Json;
use sidecar_core::{
    Event, EventField, EventSpec, EventValue, FieldKind, HistogramValue, Kind, Labels, Metric, Rows,
    Snapshot, Value,
};
use sidecar_probes::PROBES;

use crate::events;

/// Labels any metric of processes can have.
const OF_PROCESSES: [&str; 3] = ["pid", "comm", "cgroup"];

#[derive(Deserialize)]
struct Document {
    taken: String,
    started: String,
    rows: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    metric: String,
    labels: BTreeMap<String, String>,
    value: Json,
}

/// The document of `/api/v1/snapshot`.
pub(super) fn snapshot(text: &str) -> Result<Snapshot, String> {
    let document: Document =
        serde_json::from_str(text).map_err(|error| format!("a snapshot that makes no sense: {error}"))?;
    let time = |text: &str| parse_rfc3339(text).map_err(|error| format!("{text}: {error}"));
    let known: BTreeMap<&str, &'static Metric> =
        PROBES.iter().flat_map(|probe| probe.metrics).map(|metric| (metric.name, *metric)).collect();
    let mut rows = Rows::default();
    for line in document.rows {
        let Some(metric) = known.get(line.metric.as_str()) else { continue };
        let names = metric.labels.iter().chain(&OF_PROCESSES).copied().collect::<Vec<_>>();
        let name = |label: &String| names.iter().find(|name| *name == label).copied();
        let labels = line.labels.iter().filter_map(|(label, value)| Some((name(label)?, value.as_str())));
        if let Some(value) = value(metric, &line.value) {
            rows.push(metric, &Labels::new(labels), value);
        }
    }
    Ok(rows.finish(time(&document.taken)?, time(&document.started)?))
}

fn value(metric: &Metric, json: &Json) -> Option<Value> {
    Some(match (metric.kind, json) {
        (Kind::Histogram, json) => {
            let (count, sum) = (json["count"].as_u64()?, json["sum"].as_f64()?);
            // The buckets are not shown.
            Value::Histogram(HistogramValue { bounds: &[], counts: vec![count].into(), sum })
        }
        (Kind::Counter, json) => match json.as_u64() {
            Some(count) => Value::Counter(count),
            None => Value::CounterF64(json.as_f64()?),
        },
        (Kind::Gauge | Kind::Info, json) => Value::Gauge(json.as_f64()?),
    })
}

/// A line of `/api/v1/events`; none if its type is not known.
pub(super) fn event(line: &str) -> Option<Event> {
    let json: Json = serde_json::from_str(line).ok()?;
    let kind = json["event"].as_str()?;
    let mut specs = PROBES.iter().flat_map(|probe| probe.events).copied().chain([&events::LOST]);
    let spec: &'static EventSpec = specs.find(|spec| spec.kind == kind)?;
    let monotonic = Duration::from_nanos(json["monotonic_ns"].as_u64()?);
    let wall = parse_rfc3339(json["time"].as_str()?).unwrap_or(SystemTime::UNIX_EPOCH);
    let values = spec.fields.iter().map(|field| field_value(field, &json[field.name])).collect();
    Some(Event { spec, monotonic, wall, values })
}

fn field_value(field: &EventField, json: &Json) -> EventValue {
    let text = || json.as_str().map(|text| EventValue::Text(text.to_owned()));
    let value = match field.kind {
        FieldKind::Text | FieldKind::Choice(_) => text(),
        FieldKind::Number => json.as_i64().map(EventValue::Number),
        FieldKind::Seconds => {
            json.as_f64().and_then(|time| Duration::try_from_secs_f64(time).ok()).map(EventValue::Seconds)
        }
        FieldKind::Bool => json.as_bool().map(EventValue::Bool),
        FieldKind::List => json.as_array().map(|list| {
            EventValue::List(list.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect())
        }),
    };
    value.unwrap_or(EventValue::Unknown)
}
