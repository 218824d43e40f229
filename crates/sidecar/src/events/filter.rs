//! What a subscriber asks for, as the query of a URL: `types=a,b&pid=1,2&comm=x&cgroup=/y&sample=10`.

use sidecar_core::{Event, EventSpec, EventValue};

/// Most values of one kind.
const MOST: usize = 64;

/// Which events a subscriber wants. Kinds are joined by AND, values of one kind by OR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Event types; never empty.
    pub(crate) types: Vec<&'static str>,
    pids: Vec<i64>,
    comms: Vec<String>,
    /// With the cgroups below them.
    cgroups: Vec<String>,
    /// One in so many.
    pub(crate) sample: u64,
}

/// Why a query cannot be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    /// Nobody has it.
    #[error("there is no event type `{0}`; there are: {1}")]
    NoSuchType(String, String),
    /// Not a key.
    #[error("`{0}` is no filter; there are: types, pid, comm, cgroup, sample")]
    NoSuchKey(String),
    /// Not a number.
    #[error("{key}: `{value}` is not a whole number above 0")]
    NotANumber {
        /// Which key.
        key: String,
        /// What stands there.
        value: String,
    },
    /// Too many values.
    #[error("{0}: more than {MOST} values")]
    TooMany(String),
}

impl Filter {
    /// From the pairs of a query. Without `types` all that are `offered`.
    pub(crate) fn parse<'a>(
        pairs: impl Iterator<Item = (&'a str, &'a str)>,
        offered: &[&'static EventSpec],
    ) -> Result<Self, FilterError> {
        let (types, none) = (Vec::new(), Vec::new);
        let mut filter = Self { types, pids: Vec::new(), comms: none(), cgroups: none(), sample: 1 };
        for (key, text) in pairs {
            let values = text.split(',').map(str::trim).filter(|value| !value.is_empty());
            if values.clone().count() > MOST {
                return Err(FilterError::TooMany(key.to_owned()));
            }
            for value in values {
                filter.add(key, value, offered)?;
            }
        }
        if filter.types.is_empty() {
            filter.types = offered.iter().map(|spec| spec.kind).collect();
        }
        Ok(filter)
    }

    fn add(&mut self, key: &str, value: &str, offered: &[&'static EventSpec]) -> Result<(), FilterError> {
        let number = || {
            let number = value.parse().ok().filter(|number: &i64| *number > 0);
            number.ok_or_else(|| FilterError::NotANumber { key: key.to_owned(), value: value.to_owned() })
        };
        match key {
            "types" | "type" => {
                let Some(spec) = offered.iter().find(|spec| spec.kind == value) else {
                    let names: Vec<&str> = offered.iter().map(|spec| spec.kind).collect();
                    return Err(FilterError::NoSuchType(value.to_owned(), names.join(", ")));
                };
                self.types.push(spec.kind);
            }
            "pid" => self.pids.push(number()?),
            "comm" => self.comms.push(value.to_owned()),
            "cgroup" => self.cgroups.push(value.trim_end_matches('/').to_owned()),
            "sample" => self.sample = number()?.unsigned_abs(),
            _ => return Err(FilterError::NoSuchKey(key.to_owned())),
        }
        Ok(())
    }

    /// Whether an event is wanted, sampling aside.
    pub(crate) fn matches(&self, event: &Event) -> bool {
        let text = |name| match event.value(name) {
            Some(EventValue::Text(text)) => text.as_str(),
            _ => "",
        };
        let pid = |pid: &i64| event.value("pid") == Some(&EventValue::Number(*pid));
        let below = |wanted: &String| {
            text("cgroup")
                .strip_prefix(wanted.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.types.contains(&event.spec.kind)
            && (self.pids.is_empty() || self.pids.iter().any(pid))
            && (self.comms.is_empty() || self.comms.iter().any(|comm| comm == text("comm")))
            && (self.cgroups.is_empty() || self.cgroups.iter().any(below))
    }
}
