//! The agent's page as numbers. A reader of its own, not the one of the agent's tests: two that agree are worth more.

use std::{collections::BTreeMap, fmt};

/// One line of the page.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    /// Whether it has all of these labels.
    pub(crate) fn has(&self, labels: &[(&str, &str)]) -> bool {
        labels.iter().all(|(name, value)| self.labels.get(*name).is_some_and(|has| has == value))
    }
}

/// What one scrape gave.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) samples: Vec<Sample>,
    pub(crate) text: String,
}

/// Everything counted for one port on one side, whatever the other labels.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Side {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) packets_sent: u64,
    pub(crate) packets_received: u64,
    pub(crate) retransmits: u64,
    pub(crate) opened: u64,
    pub(crate) active: u64,
    pub(crate) closed: BTreeMap<String, u64>,
    pub(crate) failed: BTreeMap<String, u64>,
}

impl Side {
    /// Connections that ended, however they did.
    pub(crate) fn ended(&self) -> u64 {
        self.closed.values().sum()
    }

    /// Connections that ended this way.
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.closed.get(reason).copied().unwrap_or_default()
    }

    /// Attempts that failed this way.
    pub(crate) fn failed(&self, reason: &str) -> u64 {
        self.failed.get(reason).copied().unwrap_or_default()
    }
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            sent,
            received,
            packets_sent,
            packets_received,
            retransmits,
            opened,
            active,
            closed,
            failed,
        } = self;
        write!(
            f,
            "bytes {sent}/{received} packets {packets_sent}/{packets_received} retransmits {retransmits} opened \
             {opened} active {active} closed {closed:?} failed {failed:?}"
        )
    }
}

impl Page {
    /// Reads Prometheus text format 0.0.4; panics on a line that is none.
    pub(crate) fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples =
            lines.map(|line| parse(line).unwrap_or_else(|| panic!("not a sample: {line}"))).collect();
        Self { samples, text: text.to_owned() }
    }

    /// All lines with this name and these labels.
    pub(crate) fn rows<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name && sample.has(labels))
    }

    /// Their sum, which is 0 if there are none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.rows(name, labels).map(|sample| sample.value).sum()
    }

    /// A sum of whole numbers.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels);
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name}{labels:?} is {sum}");
        sum as u64
    }

    /// Everything of the connection probe under these labels.
    pub(crate) fn side(&self, labels: &[(&str, &str)]) -> Side {
        let count = |metric: &str| self.count(&format!("sidecar_connection_{metric}"), labels);
        let by_reason = |metric: &str| {
            let mut sums = BTreeMap::new();
            for sample in self.rows(&format!("sidecar_connection_{metric}"), labels) {
                *sums.entry(sample.labels["reason"].clone()).or_default() += sample.value as u64;
            }
            sums
        };
        Side {
            sent: count("bytes_sent_total"),
            received: count("bytes_received_total"),
            packets_sent: count("packets_sent_total"),
            packets_received: count("packets_received_total"),
            retransmits: count("retransmits_total"),
            opened: count("opened_total"),
            active: count("active"),
            closed: by_reason("closed_total"),
            failed: by_reason("failed_total"),
        }
    }

    /// The sides that connected to and that listen on `port`.
    pub(crate) fn both(&self, port: u16) -> (Side, Side) {
        let port = port.to_string();
        let side = |role| self.side(&[("dst_port", &port), ("role", role)]);
        (side("client"), side("server"))
    }

    /// The values a label takes in the connections of a port and role.
    pub(crate) fn values(&self, label: &str, port: u16, role: &str) -> Vec<String> {
        let port = port.to_string();
        let labels = [("dst_port", port.as_str()), ("role", role)];
        let mut all: Vec<String> = self
            .rows("sidecar_connection_opened_total", &labels)
            .filter_map(|sample| sample.labels.get(label).cloned())
            .collect();
        all.sort();
        all.dedup();
        all
    }

    /// Runs of its programs the kernel left out (a program interrupted by itself on one processor is not run again), after
    /// checking that no more than those are missing from `count` connections. 0 on most machines; an emulated one may be
    /// stopped in the middle of a program and find hundreds of packets waiting when it goes on.
    pub(crate) fn left_out(&self, sides: &(Side, Side), count: u64) -> u64 {
        let missed = self.count("sidecar_bpf_missed_runs_total", &[]);
        for side in [&sides.0, &sides.1] {
            let missing = count.abs_diff(side.opened).max(side.closed("unknown"));
            assert!(missing <= missed, "{missing} missing, {missed} told\n{sides:?}\n{}", self.losses());
        }
        missed
    }

    /// What the agent says it has missed, for messages.
    pub(crate) fn losses(&self) -> String {
        let lines = self.text.lines().filter(|line| {
            ["sidecar_lost_total{", "sidecar_bpf_missed_runs_total{", "sidecar_collect_failures_total{"]
                .iter()
                .any(|name| line.starts_with(name) && !line.ends_with(" 0"))
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The lines that mention a port, for messages.
    pub(crate) fn about(&self, port: u16) -> String {
        let label = format!("dst_port=\"{port}\"");
        let lines = self.text.lines().filter(|line| line.contains(&label) && !line.contains("_bucket"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// `name{label="value",…} number`
fn parse(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    let value = match rest.trim() {
        "+Inf" => f64::INFINITY,
        number => number.parse().ok()?,
    };
    Some(Sample { name: name.to_owned(), labels, value })
}

/// A label's value up to its closing quotation mark, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            other => value.push(other),
        }
    }
    None
}
