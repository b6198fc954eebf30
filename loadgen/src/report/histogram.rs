//! Latencies in HdrHistogram's text form of percentiles, which its plotters read.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;

use super::{FileError, Step};

/// Lines for each halving of the distance to 100 %: what HdrHistogram's own tools use.
const TICKS_PER_HALF: u32 = 5;

/// Microseconds to the unit in which values are written: plotters take ms unless told otherwise.
const US_PER_UNIT: f64 = 1_000.0;

/// The files of all steps, by the name that they have in common.
#[derive(Debug)]
pub(crate) struct HistogramFiles {
    path: PathBuf,
}

impl HistogramFiles {
    /// Sees that there can be such files.
    pub(super) fn open(path: &Path) -> Result<Self, FileError> {
        let files = Self {
            path: path.to_owned(),
        };
        let probe = files.of_step("probe");
        let made = OpenOptions::new().append(true).create(true).open(&probe);
        made.and_then(|_| fs::remove_file(&probe))
            .map_err(|cause| error(path.to_owned(), cause))?;
        Ok(files)
    }

    pub(super) fn write(&self, steps: &[Step]) -> Result<(), FileError> {
        for step in steps {
            let path = self.of_step(step.name);
            fs::write(&path, percentiles(&step.histogram)).map_err(|cause| error(path, cause))?;
        }
        Ok(())
    }

    /// `run.hgrm` is `run-lease.hgrm` for leases.
    fn of_step(&self, step: &str) -> PathBuf {
        let stem = match self.path.extension() {
            Some(extension) if extension == "hgrm" => self.path.with_extension(""),
            _ => self.path.clone(),
        };
        let mut name = stem.into_os_string();
        name.push(format!("-{}.hgrm", step.replace(' ', "-")));
        name.into()
    }
}

fn error(path: PathBuf, cause: std::io::Error) -> FileError {
    FileError {
        option: "--histogram",
        path,
        cause,
    }
}

/// As HdrHistogram's `outputPercentileDistribution` writes it.
fn percentiles(histogram: &Histogram<u64>) -> String {
    let mut out = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut line = |value: u64, quantile: f64, count: u64| {
        let value = value as f64 / US_PER_UNIT;
        let beyond = match quantile < 1.0 {
            true => format!(" {:14.2}", 1.0 / (1.0 - quantile)),
            false => String::new(),
        };
        writeln!(out, "{value:12.3} {quantile:2.12} {count:10}{beyond}")
    };
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF) {
        count += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        line(step.value_iterated_to(), quantile, count).expect("strings take all that is written");
    }
    let digits = histogram.sigfig();
    let bucket = |value: f64| value / US_PER_UNIT;
    let sub_buckets = (2 * 10_u64.pow(digits.into())).next_power_of_two();
    let buckets = u64::from((histogram.high() / sub_buckets).max(1).ilog2()) + 2;
    writeln!(
        out,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]\n\
         #[Max     = {:12.3}, Total count    = {:12}]\n\
         #[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]",
        bucket(histogram.mean()),
        bucket(histogram.stdev()),
        bucket(histogram.max() as f64),
        histogram.len(),
    )
    .expect("strings take all that is written");
    out
}

#[cfg(test)]
mod tests {
    use omnirelay_loadgen::latency_histogram;

    use super::*;

    #[test]
    fn percentiles_are_written_as_hdrhistogram_does() {
        let mut histogram = latency_histogram();
        for us in [100, 200, 300, 400] {
            histogram.record(us).unwrap();
        }
        let text = percentiles(&histogram);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "       Value     Percentile TotalCount 1/(1-Percentile)"
        );
        assert_eq!(lines[1], "");
        assert_eq!(
            lines[2],
            "       0.100 0.000000000000          1           1.00"
        );
        let last = lines.iter().rposition(|line| !line.starts_with('#'));
        assert_eq!(
            lines[last.unwrap()],
            "       0.400 1.000000000000          4"
        );
        assert_eq!(
            lines[lines.len() - 3..],
            [
                "#[Mean    =        0.250, StdDeviation   =        0.112]",
                "#[Max     =        0.400, Total count    =            4]",
                "#[Buckets =           20, SubBuckets     =         2048]",
            ]
        );
    }

    #[test]
    fn a_file_of_a_step_is_named_after_it() {
        let name = |path: &str, step| {
            let path = PathBuf::from(path);
            HistogramFiles { path }.of_step(step).display().to_string()
        };
        assert_eq!(name("a/run.hgrm", "lease"), "a/run-lease.hgrm");
        assert_eq!(name("run.1", "empty lease"), "run.1-empty-lease.hgrm");
    }
}
