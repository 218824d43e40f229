//! Streams of events: those of the running agent and those of `sidecar trace`, as JSON.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    sync::OnceLock,
    time::Duration,
};

use jsonschema::Validator;
use serde_json::Value;

use super::Agent;

/// A subscription. Ends with the value.
pub(crate) struct Stream(BufReader<TcpStream>);

impl Stream {
    /// Follows the agent's events; when this returns the probes are switched on.
    pub(crate) fn open(agent: &Agent, query: &str) -> Self {
        let mut stream = TcpStream::connect(agent.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        write!(stream, "GET /api/v1/events?{query} HTTP/1.0\r\nHost: test\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.0 200"), "{head}");
        Self(reader)
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> Value {
        self.next_if_any().expect("no event came for a minute")
    }

    /// The next event; none if none comes for a minute.
    pub(crate) fn next_if_any(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
            read => read.map(|_| checked(&line)).ok(),
        }
    }

    /// Events up to and with the first for which `is_last`.
    pub(crate) fn until(&mut self, is_last: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            events.push(self.next());
            if is_last(&events[events.len() - 1]) {
                return events;
            }
        }
    }
}

/// A line as JSON, after comparing it with the published schema of its type.
pub(crate) fn checked(line: &str) -> Value {
    static VALIDATORS: OnceLock<Vec<(&str, Validator)>> = OnceLock::new();
    let validators = VALIDATORS.get_or_init(|| {
        let build = |schema| jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let read = |text| serde_json::from_str(text).unwrap();
        SCHEMAS.iter().map(|(name, text)| (*name, build(read(text)))).collect()
    });
    let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
    let kind = event["event"].as_str().unwrap();
    let (_, validator) =
        validators.iter().find(|(name, _)| *name == kind).unwrap_or_else(|| panic!("no schema for {kind}"));
    if let Err(error) = validator.validate(&event) {
        panic!("{error} in {line}");
    }
    event
}

macro_rules! schemas {
    ($($name:literal),+ $(,)?) => {
        /// The published schemas.
        static SCHEMAS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../../docs/events/", $name, ".schema.json")))),+];
    };
}

schemas!("connection", "exec", "exec_exit", "open", "lost");
