//! Numbers as the two formats want them: short, exact on the way back, and the same text for the same bucket forever.

use std::time::{SystemTime, UNIX_EPOCH};

/// Whole floats below this are written without a fraction, exactly.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Writes a whole number.
pub(super) fn whole(value: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Writes the shortest text that reads back as `value`.
pub(super) fn float(value: f64, out: &mut Vec<u8>) {
    if value.fract() == 0.0 && value.abs() < EXACT {
        out.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else if value.is_nan() {
        out.extend_from_slice(b"NaN");
    } else {
        out.extend_from_slice(if value > 0.0 { b"+Inf" } else { b"-Inf" });
    }
}

/// A bucket bound as OpenMetrics wants it: Go's `%g`, with `.0` where that looks like a whole number.
///
/// Text 0.0.4 leaves the choice open; the same text in both keeps a bucket the same series whichever is scraped.
pub(super) fn canonical(bound: f64) -> String {
    if !bound.is_finite() {
        return if bound.is_nan() {
            "NaN"
        } else if bound > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .into();
    }
    let scientific = format!("{bound:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent = exponent.parse::<i32>().unwrap_or(0);
    if bound != 0.0 && !(-4..6).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    format!("{bound:?}")
}

/// Seconds since 1970, to the millisecond; 0 before that.
pub(super) fn unix_seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The patterns OpenMetrics 1.0 gives under "Canonical Numbers", which are what Go's `%g` prints.
    #[test]
    fn bounds_are_written_as_go_writes_them() {
        for (bound, text) in [
            (0.0, "0.0"),
            (1e-10, "1e-10"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (0.005, "0.005"),
            (0.25, "0.25"),
            (1.0, "1.0"),
            (2.5, "2.5"),
            (16384.0, "16384.0"),
            (100_000.0, "100000.0"),
            (1e6, "1e+06"),
            (1_048_576.0, "1.048576e+06"),
            (1e10, "1e+10"),
            (1e100, "1e+100"),
            (2f64.powi(-10), "0.0009765625"),
            (2f64.powi(-20), "9.5367431640625e-07"),
            (-0.5, "-0.5"),
            (f64::INFINITY, "+Inf"),
        ] {
            assert_eq!(canonical(bound), text);
        }
    }

    #[test]
    fn a_float_reads_back_as_itself() {
        for value in [0.1, 1.0 / 3.0, 5e-324, f64::MAX, -2.5, 1e15, EXACT, EXACT * 2.0, 123_456_789.125] {
            let mut out = Vec::new();
            float(value, &mut out);
            let text = String::from_utf8(out).unwrap();
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{text}");
        }
    }

    #[test]
    fn whole_floats_have_no_fraction_and_the_rest_have_their_own_words() {
        let text = |value| {
            let mut out = Vec::new();
            float(value, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(3.0), "3");
        assert_eq!(text(-12.0), "-12");
        assert_eq!(text(f64::NAN), "NaN");
        assert_eq!(text(f64::INFINITY), "+Inf");
        assert_eq!(text(f64::NEG_INFINITY), "-Inf");
    }
}
