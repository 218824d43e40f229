//! Counts as text: a table that is drawn anew on a terminal, lines elsewhere, JSON for programs, and the summary.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};
use sidecar_core::{CountSpec, Snapshot};

use super::tally::{Group, Tally};
use crate::cli::{CountArgs, CountFormat};

/// Groups shown each interval unless told otherwise.
const TOP: usize = 20;
/// Cursor to the upper left corner, and the rest of the screen cleared.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Writing to a String cannot fail.
macro_rules! line {
    ($text:expr, $($arguments:tt)*) => { let _ = writeln!($text, $($arguments)*); };
}

/// How to show it.
pub(super) struct Show {
    spec: &'static CountSpec,
    by: &'static str,
    top: Option<usize>,
    json: bool,
    terminal: bool,
}

impl Show {
    pub(super) fn new(args: &CountArgs, spec: &'static CountSpec, by: &'static str, terminal: bool) -> Self {
        let top = args.top.map(|top| usize::try_from(top).unwrap_or(usize::MAX));
        Self { spec, by, top, json: args.format == CountFormat::Json, terminal }
    }

    /// The sums of a snapshot.
    pub(super) fn tally(&self, snapshot: &Snapshot) -> Tally {
        Tally::of(snapshot, self.spec, self.by)
    }

    /// What was added in an interval of this length; `begun` is how long ago the first one began.
    pub(super) fn interval(&self, added: &Tally, length: Duration, begun: Duration) -> String {
        if self.json {
            return self.json("interval", added, length, self.top);
        }
        let mut text = String::new();
        if self.terminal {
            text.push_str(CLEAR);
        }
        let total = added.total();
        let rate = total.count as f64 / length.as_secs_f64();
        line!(text, "{:.1} s: {} {}, {rate:.0}/s", begun.as_secs_f64(), total.count, self.spec.noun);
        text.push_str(&self.table(added, Some(self.top.unwrap_or(TOP))));
        if !self.terminal {
            text.push('\n');
        }
        text
    }

    /// Everything, at the end.
    pub(super) fn summary(&self, all: &Tally, length: Duration) -> String {
        if self.json {
            return self.json("summary", all, length, self.top);
        }
        let mut text = String::new();
        if self.terminal {
            text.push_str(CLEAR);
        }
        text.push_str(&self.table(all, self.top));
        let total = all.total();
        text.push_str(&self.rule(all));
        text.push_str(&self.row(all, 100.0, "total", total));
        line!(text, "{} {} in {:.1} s", total.count, self.spec.noun, length.as_secs_f64());
        text
    }

    fn table(&self, tally: &Tally, top: Option<usize>) -> String {
        let total = tally.total();
        let groups = tally.largest();
        let mut text = self.head(tally);
        let shown = groups.len().min(top.unwrap_or(usize::MAX));
        for (name, group) in &groups[..shown] {
            let share = group.count as f64 * 100.0 / total.count.max(1) as f64;
            text.push_str(&self.row(tally, share, &printable(name), *group));
        }
        if shown < groups.len() {
            line!(text, "… and {} more", groups.len() - shown);
        }
        text
    }

    fn head(&self, tally: &Tally) -> String {
        let mut text = format!("{:>6} {:>12}", "%", "count");
        if self.spec.errors.is_some() {
            let _ = write!(text, " {:>10}", "errors");
        }
        if has_seconds(tally) {
            let _ = write!(text, " {:>12} {:>10}", "seconds", "usecs/call");
        }
        line!(text, " {}", self.by);
        text + &self.rule(tally)
    }

    fn rule(&self, tally: &Tally) -> String {
        let mut text = format!("{:->6} {:->12}", "", "");
        if self.spec.errors.is_some() {
            let _ = write!(text, " {:->10}", "");
        }
        if has_seconds(tally) {
            let _ = write!(text, " {:->12} {:->10}", "", "");
        }
        line!(text, " {:->24}", "");
        text
    }

    fn row(&self, tally: &Tally, share: f64, name: &str, group: Group) -> String {
        let mut text = format!("{share:>6.2} {:>12}", group.count);
        if self.spec.errors.is_some() {
            let errors = if group.errors == 0 { String::new() } else { group.errors.to_string() };
            let _ = write!(text, " {errors:>10}");
        }
        if has_seconds(tally) {
            let each = group.seconds * 1e6 / group.count.max(1) as f64;
            let _ = write!(text, " {:>12.6} {each:>10.0}", group.seconds);
        }
        line!(text, " {name}");
        text
    }

    fn json(&self, kind: &str, tally: &Tally, length: Duration, top: Option<usize>) -> String {
        let with_seconds = has_seconds(tally);
        let object = |group: Group| {
            let mut object = json!({ "count": group.count });
            if self.spec.errors.is_some() {
                object["errors"] = group.errors.into();
            }
            if with_seconds {
                object["seconds"] = group.seconds.into();
            }
            object
        };
        let groups = tally.largest().into_iter().take(top.unwrap_or(usize::MAX)).map(|(name, group)| {
            let mut object = object(group);
            object[self.by] = name.into();
            object
        });
        let line = json!({
            "kind": kind,
            "noun": self.spec.noun,
            "elapsed_seconds": length.as_secs_f64(),
            "total": object(tally.total()),
            "groups": groups.collect::<Vec<Value>>(),
        });
        format!("{line}\n")
    }
}

fn has_seconds(tally: &Tally) -> bool {
    tally.0.values().any(|group| group.seconds > 0.0)
}

/// A name that does nothing to a terminal.
fn printable(name: &str) -> String {
    name.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}
