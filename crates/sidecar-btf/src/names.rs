//! From a name to its types. A kernel has some 100,000 named types and the agent asks for a few hundred of them, so
//! comparing strings along the whole list each time would cost more than everything else at start.

use crate::record::Records;

/// A chained hash table over type ids: the names stay in the file.
pub(crate) struct Names {
    /// Newest id of each bucket, 0 for none. The length is a power of two.
    heads: Vec<u32>,
    /// The next older id in the same bucket, by id.
    next: Vec<u32>,
}

impl Names {
    pub(crate) fn index(records: &Records) -> Self {
        let buckets = (records.len() as usize / 2).next_power_of_two();
        let mut names = Self { heads: vec![0; buckets], next: vec![0; records.len() as usize] };
        for id in 1..records.len() {
            let name = records.name_of(id);
            if name != 0 {
                let bucket = names.bucket(hash(records.strings_from(name)));
                names.next[id as usize] = std::mem::replace(&mut names.heads[bucket], id);
            }
        }
        names
    }

    /// All types called `name`, of whatever kind.
    pub(crate) fn find<'a>(&'a self, records: &'a Records, name: &'a str) -> impl Iterator<Item = u32> + 'a {
        let bucket = self.bucket(hash(name.as_bytes()));
        let chain = std::iter::successors(Some(self.heads[bucket]), |&id| Some(self.next[id as usize]));
        chain
            .take_while(|&id| id != 0)
            .filter(move |&id| records.string_is(records.name_of(id), name.as_bytes()))
    }

    fn bucket(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.heads.len() - 1)
    }
}

/// Hashes up to the first NUL or the end, eight bytes at a time: a loop over bytes would take three times as long.
fn hash(text: &[u8]) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut hash = 0_u64;
    let mut rest = text;
    loop {
        let word = if let Some((word, after)) = rest.split_first_chunk() {
            rest = after;
            u64::from_le_bytes(*word)
        } else {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            u64::from_le_bytes(last)
        };
        // The lowest set bit marks the first zero byte.
        let zero = word.wrapping_sub(LOW) & !word & HIGH;
        let kept = if zero == 0 { word } else { word & ((1 << (zero.trailing_zeros() & !7)) - 1) };
        if kept != 0 {
            hash = (hash.rotate_left(5) ^ kept).wrapping_mul(0x517c_c1b7_2722_0a95);
        }
        if zero != 0 {
            return hash;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_hashes_the_same_alone_and_followed_by_other_strings() {
        for length in 0..40 {
            let name = &b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEF"[..length];
            for tail in [&b"\0"[..], b"\0x", b"\0another_string\0"] {
                assert_eq!(hash(name), hash(&[name, tail].concat()), "length {length}");
            }
        }
    }

    #[test]
    fn names_that_differ_only_in_the_last_byte_hash_differently() {
        for length in 1..20 {
            let name = vec![b'a'; length];
            let mut other = name.clone();
            other[length - 1] = b'b';
            assert_ne!(hash(&name), hash(&other), "length {length}");
        }
    }
}
