//! What waits for one subscriber: lines of JSON, never more than so many bytes. Who does not keep up loses events and is
//! told how many; nobody waits for him.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::SystemTime,
};

use axum::body::{Bytes, HttpBody};
use hyper::body::Frame;
use sidecar_core::{Event, EventSpec, EventValue};

use super::{Hub, LOST, hub::monotonic, json};

/// Bytes that may wait for one subscriber. One reading of a full ring makes less than half of it.
const MOST_BYTES: usize = 2 << 20;

#[derive(Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Event types, reasons and counts of what was lost since the last line.
    lost: Vec<(&'static str, &'static str, u64)>,
    reader: Option<Waker>,
    ended: bool,
}

impl Waiting {
    /// Writes down what was lost, once there is room or nothing else to wait for.
    fn tell_lost(&mut self) {
        for (kind, reason, count) in std::mem::take(&mut self.lost) {
            self.lines.extend(lost_line(kind, reason, count));
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// A line that says what was lost.
fn lost_line(kind: &'static str, reason: &'static str, count: u64) -> Vec<u8> {
    json::line(&lost(kind, reason, count))
}

/// The same as an event.
pub(super) fn lost(kind: &'static str, reason: &'static str, count: u64) -> Event {
    let count = EventValue::Number(i64::try_from(count).unwrap_or(i64::MAX));
    let values = vec![EventValue::Word(kind), count, EventValue::Word(reason)];
    Event { spec: &LOST, monotonic: monotonic(), wall: SystemTime::now(), values }
}

/// The queue, seen by the hub.
#[derive(Default)]
pub(super) struct Queue(Mutex<Waiting>);

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line; false if there was no room, which the subscriber will be told.
    pub(super) fn push(&self, spec: &EventSpec, line: &[u8]) -> bool {
        let mut waiting = self.lock();
        let fits = waiting.lines.len() + line.len() <= MOST_BYTES;
        if fits {
            waiting.tell_lost();
            waiting.lines.extend_from_slice(line);
        } else {
            add_lost(&mut waiting, spec.kind, super::SLOW_READER, 1);
        }
        waiting.wake();
        fits
    }

    /// Tells of events that were lost before they came here.
    pub(super) fn lost(&self, kind: &'static str, count: u64) {
        let mut waiting = self.lock();
        add_lost(&mut waiting, kind, super::RING_FULL, count);
        waiting.wake();
    }

    /// Ends the stream when what waits is read.
    pub(super) fn end(&self) {
        let mut waiting = self.lock();
        waiting.ended = true;
        waiting.wake();
    }
}

fn add_lost(waiting: &mut Waiting, kind: &'static str, reason: &'static str, count: u64) {
    match waiting.lost.iter_mut().find(|(lost, why, _)| (*lost, *why) == (kind, reason)) {
        Some((.., sum)) => *sum += count,
        None => waiting.lost.push((kind, reason, count)),
    }
}

/// A subscriber's end: the body of an answer. Dropping it ends the subscription.
pub(crate) struct Subscription {
    pub(super) queue: Arc<Queue>,
    pub(super) hub: Weak<Hub>,
    pub(super) id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.unsubscribe(self.id);
        }
    }
}

impl HttpBody for Subscription {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut waiting = self.queue.lock();
        waiting.tell_lost();
        if !waiting.lines.is_empty() {
            let lines = std::mem::take(&mut waiting.lines);
            return Poll::Ready(Some(Ok(Frame::data(lines.into()))));
        }
        if waiting.ended {
            return Poll::Ready(None);
        }
        waiting.reader = Some(context.waker().clone());
        Poll::Pending
    }
}
