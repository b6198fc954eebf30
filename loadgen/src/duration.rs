//! Durations as they are written on a command line.

use std::time::Duration;

/// Reads `500ms`, `10s`, `2m`, `1h`.
///
/// # Errors
/// What is expected, for the command line's own message.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let scale_ms = units
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, scale_ms)| *scale_ms);
    let number: Option<u64> = digits.parse().ok();
    match (number, scale_ms) {
        (Some(number), Some(scale_ms)) => {
            Ok(Duration::from_millis(number.saturating_mul(scale_ms)))
        }
        _ => Err("expected a number with its unit, e.g. 500ms, 10s, 2m".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("10").is_err());
        assert!(parse_duration("s").is_err());
        assert!(parse_duration("-1s").is_err());
    }
}
