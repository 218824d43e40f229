//! From records to rows. The sweep tells how far each live connection has come, the ring how it ended; both carry the
//! kernel's running totals, so what a connection adds is the difference to what it was last seen with, and nothing is
//! counted twice or lost whichever comes first.

use std::cmp::Ordering;

use rustc_hash::FxHashMap;
use sidecar_core::{CollectError, Collector, Events, Kernel, Rows, Start};

use super::{
    ending::{Closed, Failed},
    series::Table,
    shared::{
        Conn, Control, Counters, GONE, LISTENER, LISTENERS_OWNER, PREEXISTING, Record, SCAN_CONNECTIONS,
        SCAN_LISTENERS, SCAN_OWNERS, SWEEP_AND_FORGET, UNTRACKED, nursery_slot, nursery_slots, state,
    },
    tell::Teller,
};
use crate::plain::{as_bytes, as_bytes_mut, view};

/// A live socket as the last sweep saw it.
struct Live {
    /// With the socket's address its identity.
    born: u64,
    counters: Counters,
    slot: u32,
    opened: bool,
    listener: bool,
}

/// The collector.
pub(super) struct Connections {
    table: Table,
    live: FxHashMap<u64, Live>,
    /// Connections another one was seen at the address of, until the rings are read to their end.
    displaced: Vec<(u64, Live)>,
    /// Nobody tells who accepts: look for the holders of new connections before counting them.
    must_settle: bool,
    filtered: bool,
    nursery_mask: u32,
    buffer: Vec<u8>,
    teller: Teller,
}

impl Connections {
    pub(super) fn new(start: &Start) -> Self {
        Self {
            table: Table::new(start),
            live: FxHashMap::default(),
            displaced: Vec::new(),
            must_settle: false,
            filtered: start.filtered,
            nursery_mask: nursery_slots(start.max_connections) - 1,
            buffer: Vec::new(),
            teller: Teller::new(start),
        }
    }

    /// Takes stock: listeners first, because they tell which side a connection is.
    fn stock(&mut self, kernel: &mut dyn Kernel) -> Result<(), CollectError> {
        let searched = self.search(kernel);
        self.control(kernel, 0, true)?;
        searched
    }

    fn search(&mut self, kernel: &dyn Kernel) -> Result<(), CollectError> {
        if kernel.has_program("scan_files") {
            for scan in [SCAN_LISTENERS, SCAN_CONNECTIONS, SCAN_OWNERS] {
                self.control(kernel, scan, false)?;
                self.run(kernel, "scan_files")?;
            }
        }
        if kernel.has_program("scan_sockets") {
            self.run(kernel, "scan_sockets")?;
        }
        Ok(())
    }

    fn run(&mut self, kernel: &dyn Kernel, program: &str) -> Result<(), CollectError> {
        self.buffer.clear();
        Ok(kernel.run_iterator(program, &mut self.buffer)?)
    }

    fn control(&self, kernel: &dyn Kernel, scan: u32, stocked: bool) -> Result<(), CollectError> {
        let control = Control {
            scan,
            owner_at_close: u32::from(self.must_settle),
            report_untracked: u32::from(stocked && !self.filtered),
            reserved: 0,
        };
        Ok(kernel.update("CONTROL", as_bytes(&0u32), as_bytes(&control))?)
    }

    /// Reads the counters of all live sockets; the `last` time the kernel forgets them as it reports them.
    fn sweep(&mut self, kernel: &mut dyn Kernel, last: bool) -> Result<(), CollectError> {
        // The nursery last: an entry never moves from there to the table.
        self.buffer.clear();
        for program in ["sweep", "sweep_nursery"] {
            kernel.run_iterator(program, &mut self.buffer)?;
        }
        let buffer = std::mem::take(&mut self.buffer);
        let mut unsettled = Vec::new();
        for bytes in buffer.chunks(size_of::<Record>()) {
            let record = parse(bytes)?;
            if self.must_settle && !last && record.conn.flags & LISTENERS_OWNER != 0 {
                unsettled.push(*record);
            } else {
                self.live_record(kernel, record)?;
            }
        }
        self.buffer = buffer;
        self.settle(kernel, unsettled)
    }

    /// Finds out who holds connections that still carry their listener's owner, then counts them.
    fn settle(&mut self, kernel: &mut dyn Kernel, mut records: Vec<Record>) -> Result<(), CollectError> {
        if records.is_empty() {
            return Ok(());
        }
        self.control(kernel, SCAN_OWNERS, true)?;
        // Without the answer they are counted all the same, under the listener's owner.
        let searched = self.run(kernel, "scan_files");
        self.control(kernel, 0, true)?;
        for record in &mut records {
            // If not there: closed meanwhile, and its last record is in the ring and says everything.
            if let Some(conn) = self.still_tracked(kernel, &record.conn)? {
                // Still unsettled: nobody has accepted it, and the record names the listener's owner.
                if conn.flags & LISTENERS_OWNER == 0 {
                    record.conn = conn;
                }
                self.live_record(kernel, record)?;
            }
        }
        searched
    }

    /// The entry of a connection as it is now, if it still has one.
    fn still_tracked(&self, kernel: &dyn Kernel, known: &Conn) -> Result<Option<Conn>, CollectError> {
        let mut conn = *known;
        let found = if known.claims == 0 {
            kernel.lookup("SOCKETS", as_bytes(&known.sk), as_bytes_mut(&mut conn))?
        } else {
            let slot = nursery_slot(known.sk, self.nursery_mask);
            kernel.lookup("NURSERY", as_bytes(&slot), as_bytes_mut(&mut conn))?
        };
        let same = found && conn.sk == known.sk && conn.born == known.born && conn.flags != 0;
        Ok(same.then_some(conn))
    }

    /// Reads all records of connections that have ended; then whatever was displaced and not among them is lost.
    fn read_ends(&mut self, kernel: &mut dyn Kernel) -> Result<(), CollectError> {
        self.drain(kernel)?;
        let mut malformed = None;
        kernel.for_each("SPILL", true, &mut |_, bytes| match parse(bytes) {
            Ok(record) => self.closed_record(record),
            Err(error) => malformed = Some(error),
        })?;
        for (_, live) in std::mem::take(&mut self.displaced) {
            self.forget(&live);
        }
        malformed.map_or(Ok(()), Err)
    }

    fn live_record(&mut self, kernel: &dyn Kernel, record: &Record) -> Result<(), CollectError> {
        if self.live.get(&record.conn.sk).is_some_and(|live| live.born != record.conn.born) {
            self.displace(record.conn.sk);
        }
        if record.kind == GONE {
            self.displace(record.conn.sk);
            return drop_leftover(kernel, record);
        }
        let listener = record.conn.flags & LISTENER != 0;
        if !listener && !established(&record.conn) {
            return Ok(());
        }
        let slot = self.table.slot(record, listener);
        let live = self.live.entry(record.conn.sk).or_insert_with(|| Live {
            born: record.conn.born,
            counters: record.conn.base,
            slot,
            opened: false,
            listener,
        });
        let delta = forward(&record.counters, &mut live.counters);
        let (is_first, previous) = (!live.opened, live.slot);
        (live.opened, live.slot) = (true, slot);
        if is_first || previous != slot {
            if !is_first {
                self.release(previous, listener);
            }
            let series = self.table.at(slot);
            series.held += 1;
            series.active += u64::from(!listener);
        }
        let series = self.table.at(slot);
        if listener {
            series.overflow(delta.drops);
            return Ok(());
        }
        if is_first && record.conn.flags & PREEXISTING == 0 {
            series.open(record.conn.handshake);
            self.teller.opened(record);
        }
        series.add(&delta);
        if delta.segs_in > 0 {
            series.round_trip(record.srtt);
        }
        Ok(())
    }

    fn closed_record(&mut self, record: &Record) {
        let conn = &record.conn;
        let live = self.take(record.conn.sk, conn.born);
        let listener = conn.flags & LISTENER != 0;
        let slot = self.table.slot(record, listener);
        let mut counters = live.as_ref().map_or(conn.base, |live| live.counters);
        let delta = forward(&record.counters, &mut counters);
        if let Some(live) = &live {
            self.release(live.slot, live.listener);
        }
        let series = self.table.at(slot);
        if listener {
            series.overflow(delta.drops);
            return;
        }
        series.add(&delta);
        if record.state == u16::from(state::SYN_SENT) || !established(conn) {
            let why = Failed::of(record.error, record.counters.segs_out);
            series.fail(why);
            self.teller.failed(record, why);
            return;
        }
        if live.is_none() && conn.flags & PREEXISTING == 0 {
            series.open(conn.handshake);
            self.teller.opened(record);
        }
        let known = conn.flags & (PREEXISTING | UNTRACKED) == 0;
        let duration = known.then(|| record.now.saturating_sub(conn.established));
        let how = Closed::of(record.state, record.error);
        series.close(how, duration);
        series.round_trip(record.srtt);
        self.teller.closed(record, how, duration);
    }

    /// Takes out what is known of the connection that began at `born`.
    fn take(&mut self, sk: u64, born: u64) -> Option<Live> {
        match self.live.get(&sk).map(|live| live.born.cmp(&born)) {
            Some(Ordering::Equal) => return self.live.remove(&sk),
            Some(Ordering::Less) => self.displace(sk),
            Some(Ordering::Greater) | None => {}
        }
        let at = self.displaced.iter().position(|(of, live)| *of == sk && live.born == born)?;
        Some(self.displaced.swap_remove(at).1)
    }

    /// Another connection has been seen at the address: how this one ended is still in the ring, or was missed.
    fn displace(&mut self, sk: u64) {
        self.displaced.extend(self.live.remove(&sk).map(|live| (sk, live)));
    }

    fn forget(&mut self, live: &Live) {
        self.release(live.slot, live.listener);
        if !live.listener {
            self.table.at(live.slot).close(Closed::Unknown, None);
        }
    }

    fn release(&mut self, slot: u32, listener: bool) {
        let series = self.table.at(slot);
        series.held = series.held.saturating_sub(1);
        if !listener {
            series.active = series.active.saturating_sub(1);
        }
    }
}

impl Collector for Connections {
    fn attached(&mut self, kernel: &mut dyn Kernel) -> Result<(), CollectError> {
        self.must_settle = !kernel.has_program("accept_fexit")
            && !kernel.has_program("accept_kretprobe")
            && kernel.has_program("scan_files");
        self.stock(kernel)
    }

    fn rescoped(&mut self, kernel: &mut dyn Kernel, filtered: bool) -> Result<(), CollectError> {
        // What has been done so far counts under the old filter; what passed it may not pass the new one. So begin anew.
        self.control(kernel, SWEEP_AND_FORGET, false)?;
        self.sweep(kernel, true)?;
        self.read_ends(kernel)?;
        self.filtered = filtered;
        for live in std::mem::take(&mut self.live).into_values() {
            self.release(live.slot, live.listener);
        }
        kernel.for_each("LISTENERS", true, &mut |_, _| {})?;
        self.stock(kernel)
    }

    fn drain(&mut self, kernel: &mut dyn Kernel) -> Result<(), CollectError> {
        let mut malformed = None;
        kernel.drain("RECORDS", &mut |bytes| match parse(bytes) {
            Ok(record) => self.closed_record(record),
            Err(error) => malformed = Some(error),
        })?;
        malformed.map_or(Ok(()), Err)
    }

    fn fill(&self) -> Vec<(&'static str, u64)> {
        vec![("SOCKETS", self.live.len() as u64)]
    }

    fn collect(&mut self, kernel: &mut dyn Kernel, rows: &mut Rows) -> Result<(), CollectError> {
        self.table.tick(kernel.monotonic().as_secs().max(1));
        // The sweep before the ring: a connection that ends in between is first seen alive, then closed. Whether or not
        // the sweep succeeds, what is known goes out.
        let swept = self.sweep(kernel, false);
        let read = self.read_ends(kernel);
        self.table.rows(rows);
        swept.and(read)
    }

    fn listening(&mut self, wanted: u32) {
        self.teller.listening(wanted);
    }

    fn events(&mut self, kernel: &mut dyn Kernel, out: &mut Events<'_>) -> Result<(), CollectError> {
        let is_time = self.teller.wants_sweep(kernel.monotonic());
        let swept = if is_time { self.sweep(kernel, false) } else { Ok(()) };
        let read = self.read_ends(kernel);
        self.teller.hand_over(kernel, out);
        swept.and(read)
    }
}

/// Removes the entry of a socket that is gone, unless the address has been taken again meanwhile. A slot of the nursery
/// was left by the sweep itself.
fn drop_leftover(kernel: &dyn Kernel, record: &Record) -> Result<(), CollectError> {
    let mut conn = record.conn;
    if conn.claims == 0
        && kernel.lookup("SOCKETS", as_bytes(&record.conn.sk), as_bytes_mut(&mut conn))?
        && conn.born == record.conn.born
    {
        kernel.delete("SOCKETS", as_bytes(&record.conn.sk))?;
    }
    Ok(())
}

fn parse(bytes: &[u8]) -> Result<&Record, CollectError> {
    let record = view::<Record>(bytes).filter(|record| record.kind <= GONE);
    record.ok_or_else(|| {
        let expected = size_of::<Record>();
        CollectError::Malformed(format!("a record of {} bytes where {expected} were expected", bytes.len()))
    })
}

/// Whether the connection got beyond its handshake.
fn established(conn: &Conn) -> bool {
    conn.established != 0 || conn.flags & UNTRACKED != 0 || conn.flags & PREEXISTING != 0 && conn.ports != 0
}

/// What `now` adds to `last`, and `last` moved there. Bytes never move back: a sweep that read a counter a moment before
/// what is subtracted from it sees a little less than the last one did.
fn forward(now: &Counters, last: &mut Counters) -> Counters {
    let delta = now.since(last);
    *last = Counters { sent: last.sent.max(now.sent), received: last.received.max(now.received), ..*now };
    delta
}
