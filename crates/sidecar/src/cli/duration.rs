//! Lengths of time as users write them: `500ms`, `10s`, `5m`, `1h 30m`. One parser, so that every command takes the same.

use std::time::Duration;

/// Parses a length of time greater than zero. The error says what is accepted.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than nothing".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("expected a number with a unit, as in 500ms, 10s, 5m or 1h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_are_lengths_of_time() {
        for (text, millis) in
            [("10s", 10_000), ("5m", 300_000), ("500ms", 500), ("2h", 7_200_000), ("1h 30m", 5_400_000)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_with_what_is_accepted() {
        for text in ["", "10", "s", "-1s", "1e3s", "10S", "five minutes", "99999999999999999999h"] {
            assert!(parse(text).unwrap_err().contains("500ms"), "{text}");
        }
        for text in ["0s", "0"] {
            assert!(parse(text).unwrap_err().contains("longer than nothing"), "{text}");
        }
    }
}
