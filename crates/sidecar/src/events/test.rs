//! Events from hand to hand: who gets what, what becomes of the rest, and that a line of JSON follows its schema.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use axum::body::HttpBody as _;
use proptest::prelude::*;
use serde_json::Value as Json;
use sidecar_core::{Event, EventField, EventSpec, EventValue, FieldKind, Listener as _, Rows, Value};

use super::{Filter, Hub, Subscription, filter::FilterError, hub::SubscribeError, json, queue};

const fn field(name: &'static str, kind: FieldKind, optional: bool) -> EventField {
    EventField { name, kind, optional, width: 1, help: "Test" }
}

static DONE: EventSpec = EventSpec {
    kind: "done",
    summary: "Something was done",
    fields: &[
        field("pid", FieldKind::Number, false),
        field("comm", FieldKind::Text, false),
        field("cgroup", FieldKind::Text, true),
        field("took_seconds", FieldKind::Seconds, true),
        field("well", FieldKind::Bool, false),
        field("how", FieldKind::Choice(&["fast", "slowly"]), true),
        field("arguments", FieldKind::List, false),
    ],
};
static OTHER: EventSpec =
    EventSpec { kind: "other", summary: "Something else", fields: &[field("pid", FieldKind::Number, false)] };

static EVENTS: &[&EventSpec] = &[&OTHER, &DONE];

fn done(pid: i64, comm: &str) -> Event {
    let values = vec![
        EventValue::Number(pid),
        EventValue::Text(comm.to_owned()),
        EventValue::Text("/a/b".to_owned()),
        EventValue::Unknown,
        EventValue::Bool(true),
        EventValue::Word("fast"),
        EventValue::List(vec!["x".to_owned()]),
    ];
    Event { spec: &DONE, monotonic: Duration::from_secs(1), wall: SystemTime::UNIX_EPOCH, values }
}

fn other(pid: i64) -> Event {
    let values = vec![EventValue::Number(pid)];
    Event { spec: &OTHER, monotonic: Duration::ZERO, wall: SystemTime::UNIX_EPOCH, values }
}

fn hub() -> Arc<Hub> {
    Arc::new(Hub::new(vec![&DONE, &OTHER], || ()))
}

fn filter(query: &[(&str, &str)]) -> Result<Filter, FilterError> {
    Filter::parse(query.iter().copied(), &[&DONE, &OTHER])
}

fn subscribe(hub: &Arc<Hub>, query: &[(&str, &str)]) -> Subscription {
    hub.subscribe(filter(query).unwrap()).unwrap().0
}

/// What waits for the subscriber now; `None` at the end of the stream.
fn read(subscription: &mut Subscription) -> Option<Vec<Json>> {
    let mut context = Context::from_waker(Waker::noop());
    let mut lines = Vec::new();
    loop {
        match Pin::new(&mut *subscription).poll_frame(&mut context) {
            Poll::Ready(Some(Ok(frame))) => lines.extend(frame.into_data().unwrap()),
            Poll::Ready(Some(Err(never))) => match never {},
            Poll::Ready(None) if lines.is_empty() => return None,
            Poll::Ready(None) | Poll::Pending => break,
        }
    }
    let text = String::from_utf8(lines).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// The hub's own counter of an event type.
fn counted(hub: &Hub, metric: &str, event: &str, reason: Option<&str>) -> u64 {
    let mut rows = Rows::default();
    hub.collect(&mut rows);
    let snapshot = rows.finish(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH);
    let family = snapshot.family(&format!("sidecar_events_{metric}_total")).unwrap();
    let mut rows = family.rows.iter().filter(|row| {
        row.labels.get("event") == Some(event) && row.extra.map(|(_, reason)| reason) == reason
    });
    let Some(Value::Counter(count)) = rows.next().map(|row| row.value.clone()) else { panic!("{metric}") };
    count
}

#[test]
fn each_subscriber_gets_what_its_filter_lets_pass() {
    let hub = hub();
    let mut all = subscribe(&hub, &[]);
    let mut one = subscribe(&hub, &[("types", "done"), ("pid", "1,2"), ("comm", "a")]);
    let mut below = subscribe(&hub, &[("cgroup", "/a/")]);
    let mut beside = subscribe(&hub, &[("cgroup", "/a/bc"), ("comm", "a")]);
    for event in [done(1, "a"), done(1, "b"), done(3, "a"), other(1)] {
        hub.receive().event(event);
    }
    let pids = |lines: Vec<Json>| lines.iter().map(|line| line["pid"].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!(pids(read(&mut all).unwrap()), [1, 1, 3, 1]);
    let lines = read(&mut one).unwrap();
    assert_eq!((lines.len(), &lines[0]["comm"]), (1, &Json::from("a")));
    assert_eq!(pids(read(&mut below).unwrap()), [1, 1, 3]);
    assert!(read(&mut beside).unwrap().is_empty());
}

#[test]
fn every_event_is_counted_once_by_what_became_of_it() {
    let hub = hub();
    let mut tenth = subscribe(&hub, &[("comm", "a"), ("sample", "10")]);
    (0..25).for_each(|pid| hub.receive().event(done(pid, "a")));
    (0..5).for_each(|pid| hub.receive().event(done(pid, "b")));
    hub.receive().lost(&DONE, 7);
    let lines = read(&mut tenth).unwrap();
    let delivered: Vec<_> = lines.iter().filter(|line| line["event"] == "done").collect();
    assert_eq!(delivered.iter().map(|line| line["pid"].as_i64().unwrap()).collect::<Vec<_>>(), [0, 10, 20]);
    let count = |metric, reason| counted(&hub, metric, "done", reason);
    assert_eq!(count("delivered", None), 3);
    assert_eq!(count("sampled_out", None), 22);
    assert_eq!(count("filtered", None), 5);
    assert_eq!(count("lost", Some("ring_full")), 7);
    assert_eq!(count("lost", Some("slow_reader")), 0);
    assert_eq!(count("seen", None), 37);
    assert_eq!(counted(&hub, "seen", "other", None), 0);
}

#[test]
fn who_does_not_read_loses_events_and_is_told_how_many_while_the_others_get_all() {
    let hub = hub();
    let (mut idle, mut busy) = (subscribe(&hub, &[]), subscribe(&hub, &[]));
    let made = 20_000;
    let mut got = 0;
    for pid in 0..made {
        hub.receive().event(done(pid, "a"));
        got += read(&mut busy).unwrap().len();
    }
    assert_eq!(got, made as usize);
    // The loss is told where it happened: after what came before, and before what comes after.
    let lines = read(&mut idle).unwrap();
    let (told, events) = lines.split_last().unwrap();
    assert!(!events.is_empty() && events.iter().enumerate().all(|(at, line)| line["pid"] == at));
    assert_eq!(
        (&told["event"], &told["lost"], &told["reason"]),
        (&"lost".into(), &"done".into(), &"slow_reader".into())
    );
    let lost = told["count"].as_u64().unwrap();
    assert_eq!(events.len() as u64 + lost, made as u64);
    assert_eq!(counted(&hub, "lost", "done", Some("slow_reader")), lost);
    assert_eq!(counted(&hub, "seen", "done", None), made as u64);
    hub.receive().event(done(-1, "a"));
    assert_eq!(read(&mut idle).unwrap().len(), 1);
}

#[test]
fn what_the_kernel_lost_is_told_to_those_who_wanted_it() {
    let hub = hub();
    let (mut one, mut another) =
        (subscribe(&hub, &[("types", "done")]), subscribe(&hub, &[("types", "other")]));
    hub.receive().lost(&DONE, 3);
    hub.receive().lost(&DONE, 4);
    let lines = read(&mut one).unwrap();
    assert_eq!(lines.len(), 1);
    assert_eq!((&lines[0]["count"], &lines[0]["reason"]), (&7.into(), &"ring_full".into()));
    assert!(read(&mut another).unwrap().is_empty());
}

#[test]
fn probes_are_wanted_from_the_first_subscriber_to_the_last() {
    let woken = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&woken);
    let hub = Arc::new(Hub::new(vec![&DONE, &OTHER], move || {
        count.fetch_add(1, SeqCst);
    }));
    assert_eq!(hub.wanted(EVENTS), 0);
    let first = subscribe(&hub, &[("types", "done")]);
    assert_eq!(hub.wanted(EVENTS), 0b10);
    let second = subscribe(&hub, &[("type", "other")]);
    assert_eq!(hub.wanted(EVENTS), 0b11);
    drop(first);
    assert_eq!(hub.wanted(EVENTS), 0b01);
    drop(second);
    assert_eq!((hub.wanted(EVENTS), woken.load(SeqCst)), (0, 4));
}

#[test]
fn a_subscription_begins_when_the_probes_have_followed() {
    let hub = hub();
    let (_stream, mut switched) = hub.subscribe(filter(&[]).unwrap()).unwrap();
    assert!(switched.try_recv().is_err());
    hub.switched(hub.version() - 1);
    assert!(switched.try_recv().is_err());
    hub.switched(hub.version());
    assert!(switched.try_recv().is_ok());
}

#[test]
fn subscriptions_are_limited_and_end_with_the_agent() {
    let hub = hub();
    let mut streams: Vec<_> = (0..8).map(|_| subscribe(&hub, &[])).collect();
    assert_eq!(hub.subscribe(filter(&[]).unwrap()).err(), Some(SubscribeError::Full));
    streams.pop();
    streams.push(subscribe(&hub, &[]));
    hub.receive().event(other(1));
    hub.close();
    for mut stream in streams {
        assert_eq!(read(&mut stream).unwrap().len(), 1);
        assert_eq!(read(&mut stream), None);
    }
    assert_eq!(hub.subscribe(filter(&[]).unwrap()).err(), Some(SubscribeError::Closed));
}

#[test]
fn a_query_that_cannot_be_meant_is_refused_with_what_there_is() {
    let told = |query: &[(&str, &str)]| filter(query).unwrap_err().to_string();
    assert_eq!(told(&[("types", "doen")]), "there is no event type `doen`; there are: done, other");
    assert_eq!(told(&[("pdi", "1")]), "`pdi` is no filter; there are: types, pid, comm, cgroup, sample");
    for wrong in ["0", "-1", "1.5", "x", "99999999999999999999"] {
        assert_eq!(told(&[("pid", wrong)]), format!("pid: `{wrong}` is not a whole number above 0"));
    }
    assert_eq!(told(&[("pid", &"1,".repeat(65))]), "pid: more than 64 values");
    assert_eq!(filter(&[("types", " done ,")]).unwrap().types, ["done"]);
    assert_eq!(filter(&[]).unwrap().types, ["done", "other"]);
}

fn validator(spec: &EventSpec) -> jsonschema::Validator {
    jsonschema::options().should_validate_formats(true).build(&json::schema(spec)).unwrap()
}

/// Values a field may have, by its kind; the unknown one only where it may be.
fn value(field: &'static EventField) -> BoxedStrategy<EventValue> {
    let known = match field.kind {
        FieldKind::Text => any::<String>().prop_map(EventValue::Text).boxed(),
        FieldKind::Choice(words) => proptest::sample::select(words).prop_map(EventValue::Word).boxed(),
        FieldKind::Number => any::<i64>().prop_map(EventValue::Number).boxed(),
        FieldKind::Seconds => any::<u64>().prop_map(|n| EventValue::Seconds(Duration::from_nanos(n))).boxed(),
        FieldKind::Bool => any::<bool>().prop_map(EventValue::Bool).boxed(),
        FieldKind::List => any::<Vec<String>>().prop_map(EventValue::List).boxed(),
    };
    if field.optional { prop_oneof![known, Just(EventValue::Unknown)].boxed() } else { known }
}

proptest! {
    #[test]
    fn any_event_is_one_line_of_json_that_follows_its_schema(
        values in DONE.fields.iter().map(value).collect::<Vec<_>>(),
        nanos in any::<u64>(),
    ) {
        let monotonic = Duration::from_nanos(nanos);
        let event = Event { spec: &DONE, monotonic, wall: SystemTime::UNIX_EPOCH + monotonic / 10, values };
        let line = String::from_utf8(json::line(&event)).unwrap();
        prop_assert_eq!(line.matches('\n').count(), 1);
        let read: Json = serde_json::from_str(&line).unwrap();
        let validator = validator(&DONE);
        prop_assert!(validator.is_valid(&read), "{}", line);
        prop_assert_eq!(read["monotonic_ns"].as_u64(), Some(nanos));
        let EventValue::Text(comm) = event.value("comm").unwrap() else { panic!() };
        prop_assert_eq!(read["comm"].as_str(), Some(comm.as_str()));
    }
}

#[test]
fn a_schema_refuses_what_the_event_type_does_not_say() {
    let validator = validator(&DONE);
    let good: Json = serde_json::from_slice(&json::line(&done(1, "a"))).unwrap();
    assert!(validator.is_valid(&good));
    for (name, wrong) in
        [("pid", Json::Null), ("how", "well".into()), ("time", "today".into()), ("event", "other".into())]
    {
        let mut bad = good.clone();
        bad[name] = wrong;
        assert!(!validator.is_valid(&bad), "{name}");
    }
    let mut more = good.clone();
    more["more"] = 1.into();
    assert!(!validator.is_valid(&more));
    let mut less = good;
    less.as_object_mut().unwrap().remove("pid");
    assert!(!validator.is_valid(&less));
}

#[test]
fn a_line_about_losses_follows_its_schema_too() {
    let line = json::line(&queue::lost("done", super::RING_FULL, u64::MAX));
    assert!(validator(&super::LOST).is_valid(&serde_json::from_slice(&line).unwrap()));
}

#[test]
fn times_are_exact_to_the_nanosecond() {
    let mut event = done(1, "a");
    event.wall = SystemTime::UNIX_EPOCH + Duration::new(1_763_657_280, 123_456_789);
    let read: Json = serde_json::from_slice(&json::line(&event)).unwrap();
    assert_eq!(read["time"], "2025-11-20T16:48:00.123456789Z");
}
