//! What the user looks at: the last snapshots, and how he wants to see them. Knows nothing of terminals or kernels.

use std::time::{Duration, SystemTime};

use ratatui::layout::Rect;
use sidecar_core::{Column, Event, Family, Probe, Snapshot};

use super::{
    charts::Chart,
    detail::{self, Fact},
    log::{self, Log},
    processes::{self, Key, Line, Sums, Who},
};
use crate::events::text;

/// A column, and why it has no numbers if it has none.
pub(super) struct Shown {
    probe: &'static Probe,
    pub(super) column: &'static Column,
    pub(super) missing: Option<String>,
}

/// A chart, and what is wrong with its probe if anything is.
pub(super) struct Plot {
    probe: &'static Probe,
    pub(super) chart: Chart,
    pub(super) missing: Option<String>,
}

/// What fills the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page {
    Processes,
    Process(Who),
    Help,
}

struct Taken {
    snapshot: Snapshot,
    sums: Sums,
    /// When each column's numbers were read: earlier than the snapshot if its probe could not be read.
    read: Vec<SystemTime>,
}

/// Where things were drawn last, for the mouse and for turning pages.
#[derive(Debug, Default)]
pub(super) struct Areas {
    /// The titles of the columns: from, to and which.
    pub(super) titles: Vec<(u16, u16, Key)>,
    pub(super) title_row: u16,
    /// The lines of processes.
    pub(super) body: Rect,
    /// Lines scrolled over in the table of processes.
    pub(super) offset: usize,
    /// The last position of a page that scrolls.
    pub(super) end: usize,
}

/// Everything.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the user's")]
pub(super) struct App {
    /// Where the numbers come from.
    pub(super) origin: String,
    pub(super) interval: Duration,
    pub(super) colours: bool,
    pub(super) columns: Vec<Shown>,
    pub(super) plots: Vec<Plot>,
    pub(super) log: Log,
    /// Sorted, and only those the filter lets pass.
    pub(super) lines: Vec<Line>,
    pub(super) sort: Key,
    pub(super) descending: bool,
    pub(super) totals: bool,
    pub(super) filter: String,
    /// Whether the filter is being typed.
    pub(super) editing: bool,
    pub(super) paused: bool,
    pub(super) page: Page,
    /// Where `Help` was called from.
    pub(super) behind: Page,
    pub(super) selected: usize,
    /// Who is selected, so that the selection stays with him.
    chosen: Option<Who>,
    pub(super) scroll: usize,
    /// What is wrong at the moment.
    pub(super) trouble: Option<String>,
    pub(super) done: bool,
    pub(super) areas: Areas,
    now: Option<Taken>,
    before: Option<Taken>,
}

impl App {
    /// Of these probes; `state` says of each whether it runs, and what is wrong with it.
    pub(super) fn new(
        origin: String,
        interval: Duration,
        probes: &[&'static Probe],
        state: impl Fn(&Probe) -> (bool, String),
    ) -> Self {
        let columns = probes.iter().flat_map(|&probe| {
            probe.view.columns.iter().map(move |column| Shown { probe, column, missing: None })
        });
        let plots = probes.iter().flat_map(|&probe| {
            let chart = probe.view.rates.iter().map(Chart::new);
            chart.map(move |chart| Plot { probe, chart, missing: None })
        });
        let mut app = Self::empty(origin, interval, columns.collect(), plots.collect());
        app.hear(state);
        // What happens most is counted by the last of them.
        let last = app.columns.iter().rposition(|shown| shown.missing.is_none());
        app.sort = last.map_or(Key::Pid, Key::Column);
        app.descending = last.is_some();
        app
    }

    fn empty(origin: String, interval: Duration, columns: Vec<Shown>, plots: Vec<Plot>) -> Self {
        Self {
            origin,
            interval,
            colours: false,
            columns,
            plots,
            log: Log::default(),
            lines: Vec::new(),
            sort: Key::Pid,
            descending: false,
            totals: false,
            filter: String::new(),
            editing: false,
            paused: false,
            page: Page::Processes,
            behind: Page::Processes,
            selected: 0,
            chosen: None,
            scroll: 0,
            trouble: None,
            done: false,
            areas: Areas::default(),
            now: None,
            before: None,
        }
    }

    /// Takes over how the probes are doing.
    pub(super) fn hear(&mut self, state: impl Fn(&Probe) -> (bool, String)) {
        for shown in &mut self.columns {
            let (runs, reason) = state(shown.probe);
            shown.missing = (!runs).then_some(reason);
        }
        for plot in &mut self.plots {
            let (runs, reason) = state(plot.probe);
            plot.missing = (!runs || !reason.is_empty()).then_some(reason);
        }
    }

    /// Takes over a snapshot, unless the user looks at an older one.
    pub(super) fn take(&mut self, snapshot: Snapshot) {
        if self.paused {
            return;
        }
        // Counters of another run begin at zero: there is nothing to subtract from.
        if self.now.as_ref().is_some_and(|now| now.snapshot.started != snapshot.started) {
            (self.now, self.before) = (None, None);
            self.plots.iter_mut().for_each(|plot| plot.chart.reset());
        }
        if self.now.as_ref().is_some_and(|now| now.snapshot.taken >= snapshot.taken) {
            return;
        }
        self.plots.iter_mut().for_each(|plot| plot.chart.add(&snapshot));
        let (snapshot, kept) = self.complete(snapshot);
        let columns = self.declared();
        let read = columns.iter().enumerate().map(|(at, column)| {
            let is_kept = column.metrics.iter().any(|metric| kept.contains(&metric.name));
            let before = self.now.as_ref().filter(|_| is_kept);
            before.map_or(snapshot.taken, |before| before.read[at])
        });
        let (read, sums) = (read.collect(), processes::sums(&snapshot, &columns));
        self.before = self.now.replace(Taken { snapshot, sums, read });
        self.arrange();
    }

    /// The snapshot with what the one before had and this one has not: a probe that cannot be read at the moment has not
    /// forgotten what it counted. Their names as well.
    fn complete(&self, mut snapshot: Snapshot) -> (Snapshot, Vec<&'static str>) {
        let before = self.now.iter().flat_map(|now| now.snapshot.families.iter());
        let kept: Vec<Family> =
            before.filter(|family| snapshot.family(family.metric.name).is_none()).cloned().collect();
        let names = kept.iter().map(|family| family.metric.name).collect();
        if !kept.is_empty() {
            snapshot.families = snapshot.families.iter().cloned().chain(kept).collect();
        }
        (snapshot, names)
    }

    fn declared(&self) -> Vec<&'static Column> {
        self.columns.iter().map(|shown| shown.column).collect()
    }

    /// Time between the last two snapshots.
    fn passed(&self) -> Option<Duration> {
        let (now, before) = (self.now.as_ref()?, self.before.as_ref()?);
        now.snapshot.taken.duration_since(before.snapshot.taken).ok()
    }

    /// When the snapshot shown was taken.
    pub(super) fn taken(&self) -> Option<SystemTime> {
        Some(self.now.as_ref()?.snapshot.taken)
    }

    /// Makes the lines anew: filtered, sorted, the selection still on the same process.
    pub(super) fn arrange(&mut self) {
        let Some(now) = &self.now else { return };
        let passed: Vec<Duration> =
            self.before.iter().flat_map(|before| since(&now.read, &before.read)).collect();
        let before = self.before.as_ref().map(|before| (&before.sums, passed.as_slice()));
        let mut lines = processes::lines(&now.sums, before, &self.declared());
        lines.retain(|line| self.passes(&line.who));
        processes::sort(&mut lines, self.sort, self.descending, self.totals);
        self.lines = lines;
        let kept = self.chosen.as_ref().and_then(|who| self.lines.iter().position(|line| line.who == *who));
        self.selected = kept.unwrap_or(self.selected).min(self.lines.len().saturating_sub(1));
    }

    fn passes(&self, who: &Who) -> bool {
        let texts = [&who.pid, &who.comm, &who.cgroup];
        self.filter.is_empty() || texts.into_iter().any(|text| contains(text, &self.filter))
    }

    /// The last events: of the process that is looked at, or those the filter lets pass.
    pub(super) fn events(&self, most: usize) -> Vec<&Event> {
        self.log.last(most, |event| match &self.page {
            Page::Process(who) => log::is_of(event, who),
            _ => self.filter.is_empty() || contains(&text::fields(event, |_| true), &self.filter),
        })
    }

    /// Everything known of a process.
    pub(super) fn facts(&self, who: &Who) -> Vec<Fact> {
        let Some(now) = &self.now else { return Vec::new() };
        let before = self.before.as_ref().zip(self.passed());
        detail::facts(who, &now.snapshot, before.map(|(before, passed)| (&before.snapshot, passed)))
    }

    /// Sorts by this; again by the same turns the order round.
    pub(super) fn sort_by(&mut self, key: Key) {
        if self.sort == key {
            self.descending = !self.descending;
        } else {
            (self.sort, self.descending) = (key, matches!(key, Key::Column(_)));
        }
        self.arrange();
    }

    /// Sorts by the column so many to the right.
    pub(super) fn sort_beside(&mut self, by: isize) {
        let keys: Vec<Key> =
            [Key::Pid, Key::Name].into_iter().chain((0..self.columns.len()).map(Key::Column)).collect();
        let at = keys.iter().position(|key| *key == self.sort).unwrap_or(0);
        let next = at.saturating_add_signed(by).min(keys.len() - 1);
        if next != at {
            self.sort_by(keys[next]);
        }
    }

    /// Moves the selection, or what is read, so many lines down.
    pub(super) fn go(&mut self, by: isize) {
        if self.page == Page::Processes {
            let last = self.lines.len().saturating_sub(1);
            self.select(self.selected.saturating_add_signed(by).min(last));
        } else {
            self.scroll = self.scroll.saturating_add_signed(by).min(self.areas.end);
        }
    }

    /// Puts the selection on this line.
    pub(super) fn select(&mut self, at: usize) {
        if let Some(line) = self.lines.get(at) {
            (self.selected, self.chosen) = (at, Some(line.who.clone()));
        }
    }

    /// Looks at the selected process alone.
    pub(super) fn enter(&mut self) {
        if let (Page::Processes, Some(line)) = (&self.page, self.lines.get(self.selected)) {
            self.chosen = Some(line.who.clone());
            (self.page, self.scroll) = (Page::Process(line.who.clone()), 0);
        }
    }

    /// Back to where one came from; without anything to leave, to no filter.
    pub(super) fn back(&mut self) {
        self.scroll = 0;
        match self.page {
            Page::Help => self.page = std::mem::replace(&mut self.behind, Page::Processes),
            Page::Process(_) => self.page = Page::Processes,
            Page::Processes => self.set_filter(String::new()),
        }
    }

    pub(super) fn help(&mut self) {
        if self.page == Page::Help {
            self.back();
        } else {
            self.behind = std::mem::replace(&mut self.page, Page::Help);
            self.scroll = 0;
        }
    }

    pub(super) fn set_filter(&mut self, filter: String) {
        self.filter = filter;
        self.arrange();
    }

    pub(super) fn pause(&mut self) {
        self.paused = !self.paused;
        if self.paused {
            self.log.is_paused = true;
        } else {
            self.log.resume();
        }
    }
}

/// Time from each of the earlier moments to the later one.
fn since(later: &[SystemTime], earlier: &[SystemTime]) -> impl Iterator<Item = Duration> {
    later.iter().zip(earlier).map(|(later, earlier)| later.duration_since(*earlier).unwrap_or_default())
}

/// Whether a text has this in it, in capital letters or not.
fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}
