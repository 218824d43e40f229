//! Who listens to what. Probes are switched on with the first subscriber of one of their event types and off with the
//! last; each event goes to all who want it, and what becomes of it is counted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sidecar_core::{Event, EventSpec, Kind, Labels, Listener, Metric, Rows, Unit, Value};
use tokio::sync::oneshot;

use super::{Filter, RING_FULL, SLOW_READER, Subscription, json, queue::Queue};

/// Subscribers at a time.
const MOST_SUBSCRIBERS: usize = 8;

macro_rules! metrics {
    ($($name:ident = $metric:literal $kind:ident [$($label:literal),*] $help:literal;)+) => {
        $(static $name: Metric = Metric {
            name: $metric,
            help: $help,
            kind: Kind::$kind,
            unit: Unit::None,
            labels: &[$($label),*],
        };)+
        /// What the agent says about its event streams.
        pub(crate) static METRICS: &[&Metric] = &[$(&$name),+];
    };
}

metrics! {
    SUBSCRIBERS = "sidecar_event_subscribers" Gauge [] "Readers of event streams now";
    SEEN = "sidecar_events_seen_total" Counter ["event"] "Events that happened while somebody listened to their type: the sum of delivered, filtered, sampled out and lost";
    DELIVERED = "sidecar_events_delivered_total" Counter ["event"] "Events handed to everybody who wanted them";
    FILTERED = "sidecar_events_filtered_total" Counter ["event"] "Events no reader's filter let pass";
    SAMPLED = "sidecar_events_sampled_out_total" Counter ["event"] "Events that only readers wanted who had asked for one in so many, and for another one";
    LOSSES = "sidecar_events_lost_total" Counter ["event", "reason"] "Events that somebody who wanted them did not get; each reader is told how many he missed";
}

/// What became of the events of one type.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ledger {
    pub(crate) delivered: u64,
    pub(crate) filtered: u64,
    pub(crate) sampled: u64,
    pub(crate) ring_full: u64,
    pub(crate) slow_reader: u64,
}

impl Ledger {
    pub(crate) fn seen(&self) -> u64 {
        self.delivered + self.filtered + self.sampled + self.ring_full + self.slow_reader
    }
}

/// Why somebody cannot listen.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SubscribeError {
    /// The limit is reached.
    #[error("{MOST_SUBSCRIBERS} readers follow events already; end one or wait")]
    Full,
    /// There will be none any more.
    #[error("the agent is stopping")]
    Closed,
}

struct Subscriber {
    id: u64,
    filter: Filter,
    queue: Arc<Queue>,
    /// Events that passed its filter.
    passed: u64,
}

#[derive(Default)]
struct State {
    subscribers: Vec<Subscriber>,
    next_id: u64,
    closed: bool,
    /// Grows with each change of who listens to what.
    version: u64,
    /// Those who wait for the probes to follow a change.
    waiting: Vec<oneshot::Sender<()>>,
    ledger: BTreeMap<&'static str, Ledger>,
}

/// The place where events and subscribers meet.
pub(crate) struct Hub {
    offered: Vec<&'static EventSpec>,
    /// Wakes the thread that owns the probes.
    wake: Box<dyn Fn() + Send + Sync>,
    state: Mutex<State>,
}

impl Hub {
    /// For these event types, those of the probes that run. `wake` is called when the probes must be switched.
    pub(crate) fn new(offered: Vec<&'static EventSpec>, wake: impl Fn() + Send + Sync + 'static) -> Self {
        let ledger = offered.iter().map(|spec| (spec.kind, Ledger::default())).collect();
        let state = State { ledger, ..State::default() };
        Self { offered, wake: Box::new(wake), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The event types there are.
    pub(crate) fn offered(&self) -> &[&'static EventSpec] {
        &self.offered
    }

    /// Begins a subscription. The receiver hears when the probes are switched on.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        filter: Filter,
    ) -> Result<(Subscription, oneshot::Receiver<()>), SubscribeError> {
        let (sender, receiver) = oneshot::channel();
        let queue = Arc::new(Queue::default());
        let mut state = self.lock();
        if state.closed {
            return Err(SubscribeError::Closed);
        }
        if state.subscribers.len() >= MOST_SUBSCRIBERS {
            return Err(SubscribeError::Full);
        }
        let id = state.next_id;
        state.next_id += 1;
        state.version += 1;
        state.subscribers.push(Subscriber { id, filter, queue: Arc::clone(&queue), passed: 0 });
        state.waiting.push(sender);
        drop(state);
        (self.wake)();
        Ok((Subscription { queue, hub: Arc::downgrade(self), id }, receiver))
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        let mut state = self.lock();
        state.subscribers.retain(|subscriber| subscriber.id != id);
        state.version += 1;
        drop(state);
        (self.wake)();
    }

    /// Ends all subscriptions, now that the agent stops.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.subscribers.iter().for_each(|subscriber| subscriber.queue.end());
    }

    /// Which of these event types somebody wants, as bits, and as of which version.
    pub(crate) fn wanted(&self, events: &[&'static EventSpec]) -> u32 {
        let state = self.lock();
        let wants = |spec: &EventSpec| {
            state.subscribers.iter().any(|subscriber| subscriber.filter.types.contains(&spec.kind))
        };
        events.iter().enumerate().filter(|(_, spec)| wants(spec)).fold(0, |bits, (at, _)| bits | 1 << at)
    }

    /// Changes with each change of who listens to what.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Hears that the probes are switched as of `version`.
    pub(crate) fn switched(&self, version: u64) {
        let mut state = self.lock();
        if state.version == version {
            // Whoever waited may have gone away meanwhile.
            for waiting in state.waiting.drain(..) {
                let _ = waiting.send(());
            }
        }
    }

    /// Takes what one reading of a probe brings.
    pub(crate) fn receive(&self) -> impl Listener {
        Receiver { state: self.lock() }
    }

    /// The counters as rows.
    pub(crate) fn collect(&self, rows: &mut Rows) {
        let state = self.lock();
        rows.push(&SUBSCRIBERS, &Labels::default(), Value::Gauge(state.subscribers.len() as f64));
        for (kind, ledger) in &state.ledger {
            let labels = Labels::new([("event", *kind)]);
            for (metric, count) in [
                (&SEEN, ledger.seen()),
                (&DELIVERED, ledger.delivered),
                (&FILTERED, ledger.filtered),
                (&SAMPLED, ledger.sampled),
            ] {
                rows.push(metric, &labels, Value::Counter(count));
            }
            for (reason, count) in [(RING_FULL, ledger.ring_full), (SLOW_READER, ledger.slow_reader)] {
                rows.push_with(&LOSSES, &labels, Some(("reason", reason)), Value::Counter(count));
            }
        }
    }
}

/// What one reading of a probe is handed to.
struct Receiver<'a> {
    state: MutexGuard<'a, State>,
}

/// What became of an event; the worst of what became of it at each subscriber who wanted it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Filtered,
    Sampled,
    Delivered,
    Lost,
}

impl Listener for Receiver<'_> {
    fn event(&mut self, event: Event) {
        let State { subscribers, ledger, .. } = &mut *self.state;
        let (mut fate, mut line) = (Fate::Filtered, None);
        for subscriber in subscribers.iter_mut().filter(|subscriber| subscriber.filter.matches(&event)) {
            subscriber.passed += 1;
            let this = if !(subscriber.passed - 1).is_multiple_of(subscriber.filter.sample) {
                Fate::Sampled
            } else if subscriber.queue.push(event.spec, line.get_or_insert_with(|| json::line(&event))) {
                Fate::Delivered
            } else {
                Fate::Lost
            };
            fate = fate.max(this);
        }
        let ledger = ledger.entry(event.spec.kind).or_default();
        *match fate {
            Fate::Filtered => &mut ledger.filtered,
            Fate::Sampled => &mut ledger.sampled,
            Fate::Delivered => &mut ledger.delivered,
            Fate::Lost => &mut ledger.slow_reader,
        } += 1;
    }

    fn lost(&mut self, spec: &'static EventSpec, count: u64) {
        let State { subscribers, ledger, .. } = &mut *self.state;
        for subscriber in subscribers.iter().filter(|one| one.filter.types.contains(&spec.kind)) {
            subscriber.queue.lost(spec.kind, count);
        }
        ledger.entry(spec.kind).or_default().ring_full += count;
    }
}

/// `CLOCK_MONOTONIC`.
pub(super) fn monotonic() -> Duration {
    clock(libc::CLOCK_MONOTONIC)
}

pub(super) fn clock(clock: libc::clockid_t) -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer; the clocks asked for always exist.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
