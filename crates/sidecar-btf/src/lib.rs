//! The running kernel's layout, from its BTF: member offsets, prototypes, enumerators.
//!
//! rustc emits no CO-RE relocations, so the agent looks up what its programs need and writes it into them before they
//! are loaded. Own code rather than a crate, because those we tried either hide member offsets (aya), take 150 ms and
//! more for a kernel (btf) or have a licence that does not fit (btf-rs); this takes some milliseconds and 7 MB, given
//! back when [`Btf`] is dropped.
//!
//! Invariant: whatever the bytes, nothing here panics, recurses without bound or answers with a guess. Where types of
//! the same name disagree, there is no answer.

mod error;
mod names;
mod record;
#[cfg(feature = "reduce")]
mod reduce;
mod walk;

pub use error::{BtfError, MissingField, PathError};
pub use record::Kind;
#[cfg(feature = "reduce")]
pub use reduce::reduce;
use sidecar_common::field::{FieldSpec, MISSING};
use std::io::Read;
use std::path::Path;
pub use walk::Member;

/// Where the kernel publishes its BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Enumerators taken from one enum; the longest in kernels have some hundred.
const MAX_ENUMERATORS: usize = 10_000;

/// A kernel's type information, indexed by name.
pub struct Btf {
    records: record::Records,
    names: names::Names,
}

impl Btf {
    /// Checks and indexes a raw `.BTF` section.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let records = record::Records::parse(bytes)?;
        let names = names::Names::index(&records);
        Ok(Self { records, names })
    }

    /// Reads the running kernel's BTF.
    pub fn from_kernel() -> Result<Self, BtfError> {
        Self::from_file(KERNEL_BTF).map_err(|error| match error {
            BtfError::Read { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
                BtfError::NoKernelBtf(path)
            }
            other => other,
        })
    }

    /// Reads a file that holds a raw `.BTF` section.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, BtfError> {
        let path = path.as_ref();
        let read = || {
            let file = std::fs::File::open(path)?;
            let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
            let mut bytes = Vec::with_capacity(length.saturating_add(1).min(record::MAX_BYTES));
            file.take(record::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        Self::parse(read().map_err(|source| BtfError::Read { path: path.to_owned(), source })?)
    }

    /// Offset and size of the member `path` names, such as `sock.__sk_common.skc_dport`.
    pub fn member(&self, path: &str) -> Result<Member, PathError> {
        let is_whole = path.split('.').all(|segment| !segment.is_empty());
        let (root, rest) = path.split_once('.').filter(|_| is_whole).ok_or(PathError::Malformed)?;
        let mut left = walk::MAX_MEMBERS;
        let mut answers = self
            .aggregates(root)
            .map(|aggregate| walk::member(&self.records, &aggregate, root, rest, &mut left));
        let first = answers.next().ok_or_else(|| PathError::NoType(root.to_owned()))?;
        if answers.all(|answer| answer == first) { first } else { Err(PathError::Ambiguous(root.to_owned())) }
    }

    /// Byte offsets for a probe's table, in its order; [`MISSING`] for optional fields this kernel does not have.
    pub fn resolve(&self, specs: &[FieldSpec]) -> Result<Vec<u32>, MissingField> {
        specs.iter().map(|spec| self.resolve_one(spec)).collect()
    }

    fn resolve_one(&self, spec: &FieldSpec) -> Result<u32, MissingField> {
        let mut tried = Vec::new();
        for &path in spec.paths {
            match self.member(path) {
                Ok(member) => return Ok(member.offset),
                Err(why) => tried.push((path, why)),
            }
        }
        // A path no kernel could have is a mistake in the probe, not a lack of this kernel.
        let is_absent = tried.iter().all(|(_, why)| *why != PathError::Malformed);
        if spec.optional && is_absent { Ok(MISSING) } else { Err(MissingField { name: spec.name, tried }) }
    }

    /// Size in bytes of a struct or union; `None` when absent or when several of that name differ in size.
    pub fn struct_size(&self, name: &str) -> Option<u32> {
        agreed(self.aggregates(name).map(|aggregate| Some(aggregate.size_or_type)))
    }

    /// Whether the kernel has a function of that name (it may still not be attachable).
    pub fn has_function(&self, name: &str) -> bool {
        self.of_kind(Kind::Func, name).next().is_some()
    }

    /// Number of parameters of a function, a final `...` not counted; `None` when absent or when several functions of
    /// that name differ in it.
    pub fn parameters(&self, function: &str) -> Option<u32> {
        let functions = self.of_kind(Kind::Func, function);
        agreed(functions.map(|(_, function)| self.prototype_parameters(function.size_or_type)))
    }

    /// Number of arguments a program on the raw or BTF tracepoint `name` gets; `None` when there is no such tracepoint.
    pub fn tracepoint_parameters(&self, name: &str) -> Option<u32> {
        let typedef = format!("btf_trace_{name}");
        let typedefs = self.of_kind(Kind::Typedef, &typedef);
        agreed(typedefs.map(|(_, typedef)| {
            let pointer =
                self.records.get(typedef.size_or_type).filter(|pointer| pointer.kind == Kind::Ptr)?;
            // The first parameter is the kernel's own (`void *__data`).
            self.prototype_parameters(pointer.size_or_type)?.checked_sub(1)
        }))
    }

    /// Names and values of an enum, in declaration order; `None` when absent or when several of that name differ.
    /// Kernels before 6.0 do not record the sign: their negative values appear as unsigned 32-bit ones. 64-bit values
    /// above `i64::MAX` wrap.
    pub fn enum_values(&self, name: &str) -> Option<Vec<(String, i64)>> {
        let enums = self.of_kind(Kind::Enum, name).chain(self.of_kind(Kind::Enum64, name));
        // An enum without values is a forward declaration.
        agreed(enums.filter(|(_, r)| r.count > 0).map(|(_, r)| self.enumerators(&r)))
    }

    /// The id of the type called `name`, as `attach_btf_id` takes it; `None` when absent or when there are several.
    pub fn type_id(&self, kind: Kind, name: &str) -> Option<u32> {
        let mut ids = self.of_kind(kind, name).map(|(id, _)| id);
        ids.next().filter(|_| ids.next().is_none())
    }

    fn of_kind<'a>(&'a self, kind: Kind, name: &'a str) -> impl Iterator<Item = (u32, record::Record)> + 'a {
        self.named(name).filter(move |(_, record)| record.kind == kind)
    }

    fn aggregates<'a>(&'a self, name: &'a str) -> impl Iterator<Item = record::Record> + 'a {
        self.named(name).map(|(_, record)| record).filter(|record| record.kind.is_aggregate())
    }

    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (u32, record::Record)> + 'a {
        self.names.find(&self.records, name).filter_map(|id| Some((id, self.records.get(id)?)))
    }

    fn prototype_parameters(&self, id: u32) -> Option<u32> {
        let prototype = self.records.get(id).filter(|record| record.kind == Kind::FuncProto)?;
        let count = prototype.count as u32;
        // `...` is a last parameter without a type.
        let is_variadic = count > 0 && self.records.word(prototype.tail + 8 * (prototype.count - 1) + 4) == 0;
        Some(count - u32::from(is_variadic))
    }

    fn enumerators(&self, record: &record::Record) -> Option<Vec<(String, i64)>> {
        if record.count > MAX_ENUMERATORS {
            return None;
        }
        let is_wide = record.kind == Kind::Enum64;
        let size = if is_wide { 12 } else { 8 };
        let values = (0..record.count).map(|index| record.tail + size * index);
        let named = values.map(|at| {
            let name = String::from_utf8_lossy(self.records.string(self.records.word(at))).into_owned();
            let low = self.records.word(at + 4);
            let value = if is_wide {
                (u64::from(self.records.word(at + 8)) << 32 | u64::from(low)) as i64
            } else if record.flag {
                i64::from(low as i32)
            } else {
                i64::from(low)
            };
            (name, value)
        });
        Some(named.collect())
    }
}

/// The answer all types of one name give.
fn agreed<T: PartialEq>(mut answers: impl Iterator<Item = Option<T>>) -> Option<T> {
    let first = answers.next()??;
    answers.all(|answer| answer.as_ref() == Some(&first)).then_some(first)
}
