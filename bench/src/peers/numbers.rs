//! Numbers as people read them.

use hdrhistogram::Histogram;
use omnirelay_loadgen::{Latency, grouped};

use super::figures::Spread;

/// To two decimals.
pub(crate) fn cost(spread: Option<Spread>) -> String {
    spread.map_or(String::new(), |spread| format!("{:.2}", spread.median))
}

/// The median, and the range in brackets where there is one.
pub(crate) fn range(spread: Spread, shown: impl Fn(f64) -> String) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(shown);
    match min == max {
        true => median,
        false => format!("{median} ({min}–{max})"),
    }
}

/// Of what the protocol has no reply to there is nothing.
pub(crate) fn percentiles(histogram: &Histogram<u64>) -> String {
    if histogram.is_empty() {
        return "–".to_owned();
    }
    let latency = Latency::from(histogram);
    format!("{} / {}", duration(latency.p50), duration(latency.p99))
}

/// With its unit.
pub(crate) fn duration(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.1} ms", us as f64 / 1e3),
        10_000..1_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

/// To three digits, in groups.
pub(crate) fn rounded(value: f64) -> String {
    let digits = value.abs().max(1.0).log10().floor() as i32;
    let step = 10_f64.powi((digits - 2).max(0));
    grouped(((value / step).round() * step) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_groups() {
        assert_eq!(rounded(138_348.4), "138,000");
        assert_eq!(rounded(999.6), "1,000");
        assert_eq!(rounded(563.2), "563");
        assert_eq!(rounded(4_912.0), "4,910");
        assert_eq!(grouped(10_000_000), "10,000,000");
        assert_eq!(duration(999), "999 µs");
        assert_eq!(duration(12_600), "13 ms");
    }
}
