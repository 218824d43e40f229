//! From each interface's per-CPU counters to rows. What is exported for a name only grows: interfaces come and go under it,
//! and each begins at zero.

use std::collections::BTreeMap;

use sidecar_core::{CollectError, Collector, Interface, Kernel, Labels, Rows, Start, Value};

use super::{
    metrics::{BYTES, EXTENDED, FRAGMENTS, INTERFACE, MALFORMED, RECEIVED, UNREAD, VLAN},
    shared::{
        ARP, Counters, EXTENDED as EXTENDED_BIT, FIRST_MARK, FRAGMENT4, FRAGMENT6, ICMP, IPV4, IPV6,
        MALFORMED as MALFORMED_BIT, OTHER, OTHER4, OTHER6, STACKED, TAGGED, TCP, UDP, UNREAD as UNREAD_BIT,
    },
};
use crate::plain::{Plain, view};

// SAFETY: integers of one size only, `#[repr(C)]`.
unsafe impl Plain for Counters {}

/// Rows of [`RECEIVED`] and [`BYTES`]: class, protocol, IP version.
const CLASSES: [(u32, &str, &str); 10] = [
    (IPV4 + TCP, "tcp", "4"),
    (IPV4 + UDP, "udp", "4"),
    (IPV4 + ICMP, "icmp", "4"),
    (OTHER4, "other", "4"),
    (IPV6 + TCP, "tcp", "6"),
    (IPV6 + UDP, "udp", "6"),
    (IPV6 + ICMP, "icmpv6", "6"),
    (OTHER6, "other", "6"),
    (ARP, "arp", "none"),
    (OTHER, "other", "none"),
];
/// Names kept beside those that are there. Each is some twenty rows.
const MAX_PAST: usize = 64;

/// What is known of one interface name.
#[derive(Default)]
struct Name {
    /// Counted under this name so far.
    total: Counters,
    /// How it is counted now; none if no interface has the name.
    mode: Option<&'static str>,
    /// The tick in which it was last there.
    seen: u64,
}

/// The collector.
pub(super) struct Frames {
    names: BTreeMap<String, Name>,
    /// Values last read, by attachment.
    last: BTreeMap<u64, Counters>,
    max_series: usize,
    tick: u64,
}

impl Frames {
    /// One that has seen nothing yet.
    pub(super) fn new(start: &Start) -> Self {
        Self { names: BTreeMap::new(), last: BTreeMap::new(), max_series: start.max_series, tick: 0 }
    }

    /// Adds what an interface has counted since the last time.
    fn add(&mut self, interface: &Interface, counters: &Counters) {
        let last = self.last.insert(interface.attachment, *counters).unwrap_or_default();
        let name = self.names.entry(interface.name.clone()).or_default();
        for ((total, now), last) in name.total.classes.iter_mut().zip(&counters.classes).zip(&last.classes) {
            // Two loads that a processor makes while it counts may see frames before bytes; never less than before.
            total.frames += now.frames.saturating_sub(last.frames);
            total.bytes += now.bytes.saturating_sub(last.bytes);
        }
        for ((total, now), last) in name.total.marks.iter_mut().zip(counters.marks).zip(last.marks) {
            *total += now.saturating_sub(last);
        }
        name.seen = self.tick;
        name.mode = (!interface.gone).then_some(interface.mode.as_str());
        if interface.gone {
            self.last.remove(&interface.attachment);
        }
    }

    /// Forgets the names that have been without an interface longest. Their series end; nothing is moved to another row,
    /// where it would look like traffic of this moment.
    fn prune(&mut self) {
        let room = MAX_PAST.min(self.max_series);
        let mut past: Vec<(u64, String)> = self
            .names
            .iter()
            .filter(|(_, name)| name.mode.is_none())
            .map(|(text, name)| (name.seen, text.clone()))
            .collect();
        past.sort();
        for (_, text) in past.iter().take(past.len().saturating_sub(room)) {
            self.names.remove(text);
        }
    }
}

/// All CPUs' counters added up.
fn sum(values: &[u8]) -> Result<Counters, CollectError> {
    let mut sum = Counters::default();
    for value in values.chunks(size_of::<Counters>()) {
        // A vector of bytes may lie anywhere.
        let words: Vec<u64> =
            value.chunks_exact(8).filter_map(|word| word.try_into().ok()).map(u64::from_ne_bytes).collect();
        // SAFETY: the bytes of a live vector of integers.
        let bytes = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), words.len() * 8) };
        let Some(counters) = view::<Counters>(bytes) else {
            return Err(CollectError::Malformed(format!("{} bytes of counters", value.len())));
        };
        for (sum, one) in sum.classes.iter_mut().zip(&counters.classes) {
            sum.frames = sum.frames.wrapping_add(one.frames);
            sum.bytes = sum.bytes.wrapping_add(one.bytes);
        }
        for (sum, one) in sum.marks.iter_mut().zip(counters.marks) {
            *sum = sum.wrapping_add(one);
        }
    }
    Ok(sum)
}

impl Collector for Frames {
    fn attached(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }

    fn rescoped(&mut self, _: &mut dyn Kernel, _: bool) -> Result<(), CollectError> {
        // A frame belongs to no process.
        Ok(())
    }

    fn drain(&mut self, _: &mut dyn Kernel) -> Result<(), CollectError> {
        Ok(())
    }

    fn fill(&self) -> Vec<(&'static str, u64)> {
        // An array has all its entries from the start.
        Vec::new()
    }

    fn collect(&mut self, kernel: &mut dyn Kernel, rows: &mut Rows) -> Result<(), CollectError> {
        self.tick += 1;
        // A name that another tick has not met belongs to no interface.
        self.names.values_mut().for_each(|name| name.mode = None);
        let mut wrong = None;
        kernel.interfaces("COUNTERS", &mut |interface, values| match sum(values) {
            Ok(counters) => self.add(interface, &counters),
            Err(error) => wrong = Some(error),
        })?;
        self.prune();
        for (text, name) in &self.names {
            push(text, name, rows);
        }
        wrong.map_or(Ok(()), Err)
    }
}

fn push(text: &str, name: &Name, rows: &mut Rows) {
    let total = &name.total;
    for (class, protocol, version) in CLASSES {
        let labels = Labels::new([("interface", text), ("protocol", protocol), ("ip_version", version)]);
        let count = total.classes[class as usize];
        rows.push(&RECEIVED, &labels, Value::Counter(count.frames));
        rows.push(&BYTES, &labels, Value::Counter(count.bytes));
    }
    let marked = |mark: u32| Value::Counter(total.marks[(mark.trailing_zeros() - FIRST_MARK) as usize]);
    let labels = Labels::new([("interface", text)]);
    rows.push_with(&VLAN, &labels, Some(("tags", "1")), marked(TAGGED));
    rows.push_with(&VLAN, &labels, Some(("tags", "2+")), marked(STACKED));
    rows.push_with(&FRAGMENTS, &labels, Some(("ip_version", "4")), marked(FRAGMENT4));
    rows.push_with(&FRAGMENTS, &labels, Some(("ip_version", "6")), marked(FRAGMENT6));
    rows.push(&EXTENDED, &labels, marked(EXTENDED_BIT));
    rows.push(&MALFORMED, &labels, marked(MALFORMED_BIT));
    rows.push(&UNREAD, &labels, marked(UNREAD_BIT));
    if let Some(mode) = name.mode {
        let labels = Labels::new([("interface", text), ("mode", mode)]);
        rows.push(&INTERFACE, &labels, Value::Gauge(1.0));
    }
}
