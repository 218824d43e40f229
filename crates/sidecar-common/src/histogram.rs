//! Log-linear histogram layout: each power of two is divided into 16 equal parts, so a value is known to 6.25 %.
//!
//! Bucket `i` holds integers `lower(i) ..= upper(i)`; both ends are inclusive, so turning them into Prometheus' or
//! OTLP's upper-inclusive buckets moves nothing across an edge.

/// Sub-buckets per power of two, as a power of two.
const GRAIN: u32 = 4;
/// Number of buckets that cover all of `u64`.
pub const BUCKETS: usize = ((64 - GRAIN as usize) + 1) << GRAIN;

/// The bucket that holds `value`. Always below [`BUCKETS`].
#[inline(always)]
pub const fn index(value: u64) -> u32 {
    if value < (1 << GRAIN) {
        return value as u32;
    }
    let exponent = value.ilog2();
    let part = (value >> (exponent - GRAIN)) as u32 & ((1 << GRAIN) - 1);
    ((exponent - GRAIN + 1) << GRAIN) | part
}

/// The smallest value of bucket `index`.
pub const fn lower(index: u32) -> u64 {
    if index < (1 << GRAIN) {
        return index as u64;
    }
    let shift = (index >> GRAIN) - 1;
    (((1 << GRAIN) | (index & ((1 << GRAIN) - 1))) as u64) << shift
}

/// The largest value of bucket `index`.
pub const fn upper(index: u32) -> u64 {
    if index + 1 >= BUCKETS as u32 { u64::MAX } else { lower(index + 1) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_starts_one_above_the_end_of_the_last() {
        for i in 1..BUCKETS as u32 {
            assert_eq!(lower(i), upper(i - 1) + 1, "bucket {i}");
            assert_eq!(index(lower(i)), i);
            assert_eq!(index(upper(i)), i);
        }
        assert_eq!(index(u64::MAX), BUCKETS as u32 - 1);
        assert_eq!(index(0), 0);
    }

    #[test]
    fn a_bucket_is_never_wider_than_a_sixteenth_of_its_values() {
        for i in 17..BUCKETS as u32 {
            assert!((upper(i) - lower(i)) as f64 <= lower(i) as f64 / 16.0, "bucket {i}");
        }
    }
}
