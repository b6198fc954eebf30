//! A report as a table.

use std::fmt::{self, Display};

use omnirelay_loadgen::Latency;

use super::{Figure, Number, Report};

/// Characters of a figure's name and of its number.
const LABEL_WIDTH: usize = 36;
const NUMBER_WIDTH: usize = 12;

impl Display for Number {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => out.pad(&count.to_string()),
            Self::Real(value, decimals) => out.pad(&format!("{value:.decimals$}")),
        }
    }
}

impl Display for Figure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { label, number, .. } = self;
        writeln!(out, "{label:<LABEL_WIDTH$} {number:>NUMBER_WIDTH$}")
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rates.iter().try_for_each(|rate| rate.fmt(out))?;
        writeln!(
            out,
            "\n{:<16} {:>8} {:>8} {:>8} {:>8} {:>8}",
            "latency µs", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for step in &self.steps {
            let Latency {
                p50,
                p90,
                p99,
                p999,
                max,
            } = Latency::from(&step.histogram);
            writeln!(
                out,
                "{:<16} {p50:>8} {p90:>8} {p99:>8} {p999:>8} {max:>8}",
                step.name
            )?;
        }
        writeln!(out)?;
        let counts = self.verdict.figures();
        counts
            .iter()
            .chain(&self.costs)
            .try_for_each(|figure| figure.fmt(out))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;

    #[test]
    fn a_table_is_lined_up() {
        let expected = "\
cycles/s                                     1234

latency µs            p50      p90      p99    p99.9      max
enqueue                 3        5        5        5        5
lease                   3        5        5        5        5
complete                3        5        5        5        5

acknowledged items                          12345
errors                                          0
duplicates                                      0
lost                                            0
client CPU s / million cycles                6.50
";
        assert_eq!(report().to_string(), expected);
    }
}
