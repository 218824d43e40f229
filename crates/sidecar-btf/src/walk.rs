//! From `struct.member.member` to a byte offset: through anonymous structs and unions, nested structs, typedefs and
//! qualifiers. Depth and work are bounded, because a damaged file can hold types that contain themselves.

use crate::error::PathError;
use crate::record::{Kind, Record, Records};

/// Typedefs, qualifiers or array dimensions in a row; kernels have fewer than ten.
const MAX_CHAIN: usize = 32;
/// Anonymous structs and unions inside each other; kernels have about five.
const MAX_DEPTH: usize = 16;
/// Members looked at for one path in all structs of its name; `struct net`, the largest, has a few hundred.
pub(crate) const MAX_MEMBERS: u32 = 100_000;

/// Where a member lies in its struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the struct the path begins with.
    pub offset: u32,
    /// Bytes the member takes; 0 for a flexible array.
    pub size: u32,
}

/// One member of a struct or union.
pub(crate) struct Field {
    pub(crate) name: u32,
    pub(crate) type_id: u32,
    pub(crate) bits: u32,
    is_bitfield: bool,
}

/// A member and its distance in bits from the start of the struct that was searched.
struct Found {
    bits: u64,
    type_id: u32,
    is_bitfield: bool,
}

/// Strips typedefs, qualifiers and type tags. `None` at `void`, an unknown id or an endless chain.
pub(crate) fn strip(records: &Records, mut id: u32) -> Option<Record> {
    for _ in 0..MAX_CHAIN {
        let record = records.get(id)?;
        if !record.kind.is_transparent() {
            return Some(record);
        }
        id = record.size_or_type;
    }
    None
}

pub(crate) fn fields<'a>(records: &'a Records, aggregate: &Record) -> impl Iterator<Item = Field> + 'a {
    let (tail, with_bitfields) = (aggregate.tail, aggregate.flag);
    (0..aggregate.count).map(move |index| {
        let at = tail + 12 * index;
        let place = records.word(at + 8);
        let (bits, is_bitfield) =
            if with_bitfields { (place & 0x00ff_ffff, place >> 24 != 0) } else { (place, false) };
        Field { name: records.word(at), type_id: records.word(at + 4), bits, is_bitfield }
    })
}

/// The size in bytes of a value of type `id`.
pub(crate) fn size_of(records: &Records, id: u32) -> Option<u32> {
    let mut elements = 1_u32;
    let mut id = id;
    for _ in 0..MAX_CHAIN {
        let record = strip(records, id)?;
        let size = match record.kind {
            Kind::Int | Kind::Struct | Kind::Union | Kind::Enum | Kind::Enum64 | Kind::Float => {
                record.size_or_type
            }
            Kind::Ptr => 8,
            Kind::Array => {
                elements = elements.checked_mul(records.word(record.tail + 8))?;
                id = records.word(record.tail);
                continue;
            }
            _ => return None,
        };
        return elements.checked_mul(size);
    }
    None
}

/// The member that `path` names inside the aggregate `root`; `name` is what the caller calls the aggregate, `left` how
/// many members may still be looked at.
pub(crate) fn member(
    records: &Records,
    root: &Record,
    name: &str,
    path: &str,
    left: &mut u32,
) -> Result<Member, PathError> {
    let mut walk = Walk { records, left };
    let mut container = *root;
    let mut walked = name.to_owned();
    let mut bits = 0;
    let mut segments = path.split('.').peekable();
    loop {
        let segment = segments.next().ok_or(PathError::Malformed)?;
        let Some(found) = walk.find(&container, segment.as_bytes(), 0)? else {
            return Err(PathError::NoMember { container: walked, member: segment.to_owned() });
        };
        walked = format!("{walked}.{segment}");
        bits += found.bits;
        let inner = strip(records, found.type_id);
        if segments.peek().is_some() {
            container =
                inner.filter(|r| r.kind.is_aggregate()).ok_or(PathError::NotAggregate(walked.clone()))?;
            continue;
        }
        if found.is_bitfield || bits % 8 != 0 || inner.is_some_and(|inner| is_partial_int(records, &inner)) {
            return Err(PathError::Bitfield(walked));
        }
        let size =
            size_of(records, found.type_id).ok_or(PathError::Damaged("a member's type has no size"))?;
        // Also rules out `sidecar_common::field::MISSING` as an offset.
        let fits =
            bits / 8 + u64::from(size) <= u64::from(root.size_or_type) && bits / 8 < u64::from(u32::MAX);
        return if fits {
            Ok(Member { offset: (bits / 8) as u32, size })
        } else {
            Err(PathError::Damaged("a member lies outside of its struct"))
        };
    }
}

/// How compilers before `kind_flag` described bitfields: by an integer narrower than its storage.
fn is_partial_int(records: &Records, record: &Record) -> bool {
    let encoding = records.word(record.tail);
    let (bits, shift) = (encoding & 0xff, encoding >> 16 & 0xff);
    record.kind == Kind::Int && (shift != 0 || bits != record.size_or_type.saturating_mul(8))
}

struct Walk<'a> {
    records: &'a Records,
    left: &'a mut u32,
}

impl Walk<'_> {
    fn find(&mut self, aggregate: &Record, name: &[u8], depth: usize) -> Result<Option<Found>, PathError> {
        if depth > MAX_DEPTH {
            return Err(PathError::Damaged("anonymous members nest without end"));
        }
        let records = self.records;
        for field in fields(records, aggregate) {
            *self.left =
                self.left.checked_sub(1).ok_or(PathError::Damaged("a struct has too many members"))?;
            if field.name != 0 {
                if records.string_is(field.name, name) {
                    let (bits, is_bitfield) = (u64::from(field.bits), field.is_bitfield);
                    return Ok(Some(Found { bits, type_id: field.type_id, is_bitfield }));
                }
                continue;
            }
            let Some(inner) = strip(records, field.type_id).filter(|inner| inner.kind.is_aggregate()) else {
                continue;
            };
            if let Some(found) = self.find(&inner, name, depth + 1)? {
                return Ok(Some(Found { bits: found.bits + u64::from(field.bits), ..found }));
            }
        }
        Ok(None)
    }
}
