//! Numbers of a running agent, over HTTP. Two threads read, so that a slow answer never holds up the keys.

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use serde::Deserialize;
use sidecar_core::{Event, Listener as _, Probe, Snapshot};
use ureq::Agent;

use super::{Feed, app::App, parse};

/// Messages that may wait for the screen; the agent counts what its reader is too slow for.
const WAITING: usize = 4096;
/// For the agent to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before the next try.
const AGAIN: Duration = Duration::from_secs(1);
/// An answer larger than this is not read: 100,000 connections make some 150 MB.
const MOST_BYTES: u64 = 512 << 20;
/// A line of events is never as long.
const MOST_LINE: usize = 1 << 20;

enum Message {
    Snapshot(Box<Snapshot>),
    Event(Box<Event>),
    States(HashMap<String, (bool, String)>),
    Trouble(String),
}

/// A running agent.
pub(super) struct Remote {
    pub(super) address: String,
    states: HashMap<String, (bool, String)>,
    inbox: Receiver<Message>,
    done: Arc<AtomicBool>,
}

impl Remote {
    /// Asks the agent for its probes and, from then on, for its numbers.
    pub(super) fn connect(url: &str, interval: Duration) -> Result<Self, String> {
        let address = base(url)?;
        let agent = client(Some(PATIENCE));
        let states = states(&agent, &address)?;
        let (outbox, inbox) = sync_channel(WAITING);
        let done = Arc::new(AtomicBool::new(false));
        let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let thread = thread::Builder::new().name(name.to_owned()).spawn(work);
            thread.map(drop).map_err(|error| format!("cannot start a thread: {error}"))
        };
        let (to, out, over) = (address.clone(), outbox.clone(), Arc::clone(&done));
        start("snapshots", Box::new(move || snapshots(&agent, &to, interval, &out, &over)))?;
        let (to, over) = (address.clone(), Arc::clone(&done));
        start("events", Box::new(move || events(&to, &outbox, &over)))?;
        Ok(Self { address, states, inbox, done })
    }

    /// Whether the agent's probe runs, and what is wrong with it.
    pub(super) fn state(&self, probe: &Probe) -> (bool, String) {
        let unknown = || (false, "this agent has no such probe".to_owned());
        self.states.get(probe.name).cloned().unwrap_or_else(unknown)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

impl Feed for Remote {
    fn pump(&mut self, app: &mut App) {
        // No more than there was room for: the keys want their turn.
        for message in self.inbox.try_iter().take(WAITING) {
            match message {
                Message::Snapshot(snapshot) => {
                    app.trouble = None;
                    app.take(*snapshot);
                }
                Message::Event(event) => app.log.event(*event),
                Message::States(states) => self.states = states,
                Message::Trouble(trouble) => app.trouble = Some(trouble),
            }
        }
        app.hear(|probe| self.state(probe));
    }

    fn tick(&mut self, _: &mut App) {}
}

/// The address without what comes after the port.
fn base(url: &str) -> Result<String, String> {
    let address = match url.split_once("://") {
        None => url,
        Some(("http", address)) => address,
        Some((scheme, _)) => return Err(format!("--connect {url}: {scheme} is not spoken here, only http")),
    };
    let address = address.split('/').next().unwrap_or_default();
    if address.is_empty() {
        return Err(format!("--connect {url}: write it as http://127.0.0.1:9090"));
    }
    Ok(format!("http://{address}"))
}

fn client(patience: Option<Duration>) -> Agent {
    let config = Agent::config_builder()
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_global(patience)
        .http_status_as_error(false)
        .proxy(None);
    config.build().into()
}

/// A page, or why there is none.
fn get(agent: &Agent, address: &str, path: &str) -> Result<ureq::Body, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{address} does not answer: {error}");
    let answer = agent.get(format!("{address}{path}")).call().map_err(|error| failed(&error))?;
    let status = answer.status().as_u16();
    let mut body = answer.into_body();
    if status == 200 {
        return Ok(body);
    }
    let said = body.read_to_string().unwrap_or_default();
    Err(format!("{address}{path} answers {status}: {}", said.lines().next().unwrap_or("nothing")))
}

fn text(mut body: ureq::Body) -> Result<String, String> {
    body.with_config().limit(MOST_BYTES).read_to_string().map_err(|error| error.to_string())
}

#[derive(Deserialize)]
struct States {
    probes: Vec<State>,
}

#[derive(Deserialize)]
struct State {
    probe: String,
    #[serde(rename = "state")]
    word: String,
    reason: String,
}

fn states(agent: &Agent, address: &str) -> Result<HashMap<String, (bool, String)>, String> {
    let page = text(get(agent, address, "/api/v1/probes")?)?;
    let states: States = serde_json::from_str(&page)
        .map_err(|error| format!("{address} is not an agent of this version: {error}"))?;
    let state = |state: State| {
        let runs = matches!(state.word.as_str(), "active" | "degraded");
        let reason = match (state.word.as_str(), state.reason.as_str()) {
            ("off", _) => format!("off; start the agent with --probe {}", state.probe),
            (_, reason) => reason.to_owned(),
        };
        (state.probe, (runs, reason))
    };
    Ok(states.probes.into_iter().map(state).collect())
}

fn snapshots(
    agent: &Agent,
    address: &str,
    interval: Duration,
    outbox: &SyncSender<Message>,
    done: &AtomicBool,
) {
    while !done.load(Ordering::Relaxed) {
        let read =
            get(agent, address, "/api/v1/snapshot").and_then(text).and_then(|page| parse::snapshot(&page));
        let message = match read {
            Ok(snapshot) => Message::Snapshot(Box::new(snapshot)),
            Err(error) => Message::Trouble(error),
        };
        let told = outbox.send(message).is_ok();
        if !told || states(agent, address).is_ok_and(|states| outbox.send(Message::States(states)).is_err()) {
            return;
        }
        thread::sleep(interval);
    }
}

fn events(address: &str, outbox: &SyncSender<Message>, done: &AtomicBool) {
    let agent = client(None);
    while !done.load(Ordering::Relaxed) {
        if let Ok(body) = get(&agent, address, "/api/v1/events") {
            let mut reader = BufReader::new(body.into_reader());
            let mut line = Vec::new();
            // A line that never ends is none of an agent.
            while line.len() < MOST_LINE && reader.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
                // Types this version does not know are left out.
                let event = std::str::from_utf8(&line).ok().and_then(parse::event);
                if event.is_some_and(|event| outbox.send(Message::Event(Box::new(event))).is_err()) {
                    return;
                }
                line.clear();
            }
        }
        thread::sleep(AGAIN);
    }
}
