//! What can be wrong with BTF, split in two: the file itself cannot be used ([`BtfError`]), or it is sound but does
//! not hold what was asked for ([`PathError`], [`MissingField`]), which only turns one probe off.

use std::path::PathBuf;

/// Why no BTF could be had.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// The running kernel publishes none.
    #[error(
        "no kernel BTF at {0}: run on a kernel built with CONFIG_DEBUG_INFO_BTF=y and with /sys mounted, or give a BTF \
         file made for exactly this kernel"
    )]
    NoKernelBtf(PathBuf),
    /// The file is there but cannot be read.
    #[error("cannot read BTF from {path}: {source}")]
    Read {
        /// The file asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than any kernel's BTF.
    #[error("BTF of more than {0} bytes: not a kernel's BTF")]
    TooLarge(usize),
    /// The bytes do not start like BTF of this machine's byte order.
    #[error("not BTF: {0}")]
    NotBtf(&'static str),
    /// A part reaches beyond its section.
    #[error("damaged BTF: {what} (at byte {at})")]
    Damaged {
        /// The part.
        what: &'static str,
        /// Where it starts, in bytes from the start of the file.
        at: usize,
    },
    /// A kind of type this walker has no size for, so nothing after it can be read.
    #[error("type {id} is of BTF kind {kind}, which this version does not know: a newer version is needed")]
    UnknownKind {
        /// The type's id.
        id: u32,
        /// The kind's number in the file.
        kind: u32,
    },
}

/// Why a path such as `tcp_sock.srtt_us` leads to no offset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not `struct.member` or `struct.member.member`: a mistake of the caller.
    #[error("malformed, write `struct.member` or `struct.member.member`")]
    Malformed,
    /// No struct or union of that name.
    #[error("no struct or union `{0}`")]
    NoType(String),
    /// The struct is there, the member is not.
    #[error("`{container}` has no member `{member}`")]
    NoMember {
        /// The part of the path that was found.
        container: String,
        /// The part that was not.
        member: String,
    },
    /// The path goes on behind a member that holds no members itself, for example a pointer.
    #[error("`{0}` is not an embedded struct or union: follow pointers in the program, one path each")]
    NotAggregate(String),
    /// A bitfield has no byte offset.
    #[error("`{0}` is a bitfield")]
    Bitfield(String),
    /// Types of the same name give different answers; taking one would read the wrong memory.
    #[error("several types `{0}` disagree")]
    Ambiguous(String),
    /// The type information contradicts itself.
    #[error("damaged BTF: {0}")]
    Damaged(&'static str),
}

/// A required field none of whose paths exists in this kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingField {
    /// The field's name in the probe's table.
    pub name: &'static str,
    /// Every path tried, in order, and why it gave nothing.
    pub tried: Vec<(&'static str, PathError)>,
}

impl std::error::Error for MissingField {}

impl std::fmt::Display for MissingField {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "kernel field `{}` not found; tried ", self.name)?;
        for (index, (path, why)) in self.tried.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{path}: {why}")?;
        }
        Ok(())
    }
}
