//! Label sets, shared by all rows of one series group so that 100,000 series do not hold their labels a dozen times.

use std::sync::Arc;

/// An immutable label set: names from code, values from the world (any UTF-8; exporters escape).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Labels(Arc<[(&'static str, Box<str>)]>);

impl Labels {
    /// A label set in the given order.
    pub fn new<V: Into<Box<str>>>(pairs: impl IntoIterator<Item = (&'static str, V)>) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name, value.into())).collect())
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, &**value))
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Whether two sets are the same allocation; encoders use it to write a shared set once.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
