//! The file format: header, type records, strings. Everything is bounds-checked once, when the file is parsed, because
//! it may come from a container image or a download; the walker then only follows ids.

use crate::error::BtfError;

const MAGIC: u16 = 0xeb9f;
const HEADER: usize = 24;
/// `struct btf_type`: name, info, size or type.
pub(crate) const RECORD: usize = 12;
/// `KSYM_NAME_LEN`.
const MAX_NAME: usize = 512;
/// About ten times the largest distribution kernel's BTF.
pub(crate) const MAX_BYTES: usize = 64 << 20;

/// What a type record describes, numbered as in the file (`BTF_KIND_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are C's own")]
#[repr(u8)]
pub enum Kind {
    Int = 1,
    Ptr,
    Array,
    Struct,
    Union,
    Enum,
    Fwd,
    Typedef,
    Volatile,
    Const,
    Restrict,
    Func,
    FuncProto,
    Var,
    DataSec,
    Float,
    DeclTag,
    TypeTag,
    Enum64,
}

impl Kind {
    const ALL: [Self; 19] = [
        Self::Int,
        Self::Ptr,
        Self::Array,
        Self::Struct,
        Self::Union,
        Self::Enum,
        Self::Fwd,
        Self::Typedef,
        Self::Volatile,
        Self::Const,
        Self::Restrict,
        Self::Func,
        Self::FuncProto,
        Self::Var,
        Self::DataSec,
        Self::Float,
        Self::DeclTag,
        Self::TypeTag,
        Self::Enum64,
    ];

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get((number as usize).checked_sub(1)?).copied()
    }

    /// Bytes of the elements behind a record with `count` of them.
    pub(crate) fn tail(self, count: usize) -> usize {
        match self {
            Self::Int | Self::Var | Self::DeclTag => 4,
            Self::Array => 12,
            Self::Struct | Self::Union | Self::DataSec | Self::Enum64 => 12 * count,
            Self::Enum | Self::FuncProto => 8 * count,
            _ => 0,
        }
    }

    /// Adds nothing to the layout of the type it refers to.
    pub(crate) fn is_transparent(self) -> bool {
        matches!(self, Self::Typedef | Self::Volatile | Self::Const | Self::Restrict | Self::TypeTag)
    }

    pub(crate) fn is_aggregate(self) -> bool {
        matches!(self, Self::Struct | Self::Union)
    }
}

/// One type record, decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) kind: Kind,
    /// Number of members, parameters or enumerators.
    pub(crate) count: usize,
    /// `kind_flag`: bitfield-style member offsets, signed enum, union forward.
    pub(crate) flag: bool,
    /// Size in bytes or id of the referred type, depending on the kind.
    pub(crate) size_or_type: u32,
    /// Position of the elements behind the record.
    pub(crate) tail: usize,
}

/// The file with the positions of its records.
pub(crate) struct Records {
    bytes: Vec<u8>,
    /// Position of each type, by id; id 0 is `void` and has no record.
    positions: Vec<u32>,
    strings: std::ops::Range<usize>,
}

impl Records {
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        if bytes.len() > MAX_BYTES {
            return Err(BtfError::TooLarge(MAX_BYTES));
        }
        let header = check_magic(&bytes)?;
        let types = section(&bytes, header, 8, "the type section reaches beyond the file")?;
        let strings = section(&bytes, header, 16, "the string section reaches beyond the file")?;
        if bytes.get(strings.start) != Some(&0) || bytes[strings.clone()].last() != Some(&0) {
            return Err(BtfError::Damaged {
                what: "strings do not start and end with NUL",
                at: strings.start,
            });
        }
        let mut records = Self { bytes, positions: vec![0], strings };
        records.find_types(types)?;
        Ok(records)
    }

    fn find_types(&mut self, section: std::ops::Range<usize>) -> Result<(), BtfError> {
        // A record and its elements take 24 bytes on average in every kernel seen.
        self.positions.reserve(section.len() / 24);
        let mut at = section.start;
        while at < section.end {
            if section.end - at < RECORD {
                return Err(BtfError::Damaged { what: "a type record is cut off", at });
            }
            let id = self.positions.len() as u32;
            let info = self.word(at + 4);
            let Some(kind) = Kind::from_number(kind_of(info)) else {
                return Err(BtfError::UnknownKind { id, kind: kind_of(info) });
            };
            let end = at + RECORD + kind.tail(count_of(info));
            if end > section.end {
                return Err(BtfError::Damaged { what: "a type's members reach beyond the type section", at });
            }
            if self.word(at) as usize >= self.strings.len() {
                return Err(BtfError::Damaged { what: "a type's name lies beyond the strings", at });
            }
            self.positions.push(at as u32);
            at = end;
        }
        self.positions.shrink_to_fit();
        Ok(())
    }

    /// One more than the highest type id.
    pub(crate) fn len(&self) -> u32 {
        self.positions.len() as u32
    }

    /// The record of `id`; `None` for `void` and for ids the file does not have.
    pub(crate) fn get(&self, id: u32) -> Option<Record> {
        if id == 0 {
            return None;
        }
        let at = *self.positions.get(id as usize)? as usize;
        let info = self.word(at + 4);
        Some(Record {
            kind: Kind::from_number(kind_of(info))?,
            count: count_of(info),
            flag: info >> 31 == 1,
            size_or_type: self.word(at + 8),
            tail: at + RECORD,
        })
    }

    /// The name's place in the strings, without decoding the rest; 0 for an unnamed type.
    pub(crate) fn name_of(&self, id: u32) -> u32 {
        self.positions.get(id as usize).map_or(0, |&at| self.word(at as usize))
    }

    /// The little-endian word at `at`; 0 outside of the file, which parsing has ruled out for records and their tails.
    pub(crate) fn word(&self, at: usize) -> u32 {
        let word = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        word.map_or(0, |word| u32::from_le_bytes(*word))
    }

    /// The strings from `offset` to the end of the section, so longer than the one string; empty beyond the section.
    pub(crate) fn strings_from(&self, offset: u32) -> &[u8] {
        let start = self.strings.start.saturating_add(offset as usize).min(self.strings.end);
        &self.bytes[start..self.strings.end]
    }

    /// The string at `offset`, cut at the longest name a kernel has.
    pub(crate) fn string(&self, offset: u32) -> &[u8] {
        let rest = self.strings_from(offset);
        let rest = &rest[..rest.len().min(MAX_NAME)];
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Compares without searching for the string's end first.
    pub(crate) fn string_is(&self, offset: u32, name: &[u8]) -> bool {
        self.strings_from(offset).strip_prefix(name).is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// The masks take in the bits that today are unused and zero (16-23, 29, 30): kinds and counts have been proposed to
/// grow into them, and an old file reads the same.
fn kind_of(info: u32) -> u32 {
    info >> 24 & 0x7f
}

fn count_of(info: u32) -> usize {
    (info & 0x00ff_ffff) as usize
}

fn check_magic(bytes: &[u8]) -> Result<usize, BtfError> {
    let Some(header) = bytes.first_chunk::<HEADER>() else {
        return Err(BtfError::NotBtf("shorter than a BTF header"));
    };
    match u16::from_le_bytes([header[0], header[1]]) {
        MAGIC => {}
        other if other == MAGIC.swap_bytes() => {
            return Err(BtfError::NotBtf("made for a machine of the other byte order"));
        }
        _ => {
            return Err(BtfError::NotBtf(
                "it does not start with the BTF magic (a raw .BTF section is needed)",
            ));
        }
    }
    if header[2] != 1 {
        return Err(BtfError::NotBtf("its version is not 1"));
    }
    let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if length < HEADER || length > bytes.len() {
        return Err(BtfError::Damaged { what: "the header's length is wrong", at: 4 });
    }
    Ok(length)
}

/// The section whose offset and length stand at `at` in the header; the offset counts from the header's end.
fn section(
    bytes: &[u8],
    header: usize,
    at: usize,
    what: &'static str,
) -> Result<std::ops::Range<usize>, BtfError> {
    let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word)) as usize;
    let start = header.checked_add(word(at));
    let end = start.and_then(|start| start.checked_add(word(at + 4)));
    match (start, end) {
        (Some(start), Some(end)) if end <= bytes.len() => Ok(start..end),
        _ => Err(BtfError::Damaged { what, at }),
    }
}
