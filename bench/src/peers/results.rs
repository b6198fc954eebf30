//! All that a comparison measured.

use hdrhistogram::Histogram;
use omnirelay_loadgen::{Latencies, Latency, latency_histogram};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::figures::{Figures, Measured, Spread};
use super::machine::Machine;
use super::programs::{Found, Program};
use super::rows::Row;
use super::sides::{BASELINE, Side};

/// A whole comparison.
#[derive(Debug, Serialize)]
pub(crate) struct Results {
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) programs: Vec<Installed>,
    pub(crate) body_bytes: u32,
    pub(crate) run_seconds: f64,
    pub(crate) rows: Vec<RowResults>,
    pub(crate) open_loop: Vec<OpenLoop>,
    /// Of the widest row: what its cycles cost with hardly a queue behind QUIC.
    pub(crate) floor: Vec<Measured>,
    pub(crate) echo: Vec<EchoResults>,
    pub(crate) two_cores: Option<TwoCores>,
    pub(crate) backlog: Option<Backlog>,
    /// What went wrong besides the rows.
    pub(crate) other_failures: Vec<String>,
}

/// A program, and the one that was found of it.
#[derive(Debug, Serialize)]
pub(crate) struct Installed {
    #[serde(serialize_with = "by_name")]
    pub(crate) program: Program,
    pub(crate) version: Option<String>,
    #[serde(skip)]
    pub(crate) found: Option<Found>,
}

/// A row of all sides.
#[derive(Debug)]
pub(crate) struct RowResults {
    pub(crate) row: Row,
    pub(crate) sides: Vec<SideResults>,
    /// Of the device, beside each run of all sides, µs.
    pub(crate) sync_us: Histogram<u64>,
}

/// A side's runs, one for each round.
#[derive(Debug)]
pub(crate) struct SideResults {
    pub(crate) side: Side,
    pub(crate) runs: Vec<Figures>,
    /// Why it has no figures: it failed, or was wrong.
    pub(crate) failure: Option<String>,
}

/// Calls at a fixed rate, and the device beside them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OpenLoop {
    #[serde(serialize_with = "side_by_name")]
    pub(crate) side: Side,
    /// Of what the row came to.
    pub(crate) rate: f64,
    pub(crate) runs: Vec<OpenRun>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct OpenRun {
    pub(crate) cycles_per_s: f64,
    pub(crate) enqueue_us: Latency,
    pub(crate) sync_us: Latency,
}

/// The smallest calls, `cycles` of them.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EchoResults {
    #[serde(serialize_with = "row_by_key")]
    pub(crate) row: Row,
    pub(crate) runs: Vec<EchoRun>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct EchoRun {
    pub(crate) ours: Measured,
    /// OmniRelay's driver of QUIC, with nothing behind it.
    pub(crate) driver: Measured,
    /// QUIC with nothing behind it and a driver of no comfort.
    pub(crate) bare: Measured,
}

/// Cycles at a rate that one core carries easily.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TwoCores {
    /// Of what one core came to.
    pub(crate) rate: f64,
    pub(crate) runs: Vec<TwoCoresRun>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct TwoCoresRun {
    pub(crate) one: Measured,
    pub(crate) two: Measured,
}

/// Cycles beside many waiting items.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Backlog {
    pub(crate) items: u64,
    pub(crate) empty_cycles_per_s: Vec<f64>,
    pub(crate) full_cycles_per_s: Vec<f64>,
}

impl Results {
    pub(crate) fn row(&self, row: Row) -> Option<&RowResults> {
        self.rows.iter().find(|results| results.row == row)
    }

    /// All that went wrong.
    pub(crate) fn failures(&self) -> Vec<String> {
        let sides = self.rows.iter().flat_map(|row| &row.sides);
        let failures = sides.filter_map(|side| side.failure.clone());
        failures.chain(self.other_failures.clone()).collect()
    }
}

impl RowResults {
    pub(crate) fn side(&self, side: Side) -> Option<&SideResults> {
        self.sides.iter().find(|results| results.side == side)
    }

    /// How many times the baseline's cycles a side did, round by round.
    pub(crate) fn ratio(&self, side: Side) -> Option<Spread> {
        let (side, baseline) = (self.side(side)?, self.side(BASELINE)?);
        let rounds = side.runs.iter().zip(&baseline.runs);
        Spread::of(rounds.map(|(side, baseline)| {
            side.measured.cycles_per_s() / baseline.measured.cycles_per_s()
        }))
    }
}

impl SideResults {
    pub(crate) fn spread(&self, figure: impl Fn(&Measured) -> f64) -> Option<Spread> {
        Spread::of(self.runs.iter().map(|run| figure(&run.measured)))
    }

    /// The latencies of all its runs together.
    pub(crate) fn latencies(&self) -> Latencies {
        let together = |of: fn(&Latencies) -> &Histogram<u64>| {
            let mut sum = latency_histogram();
            for run in &self.runs {
                sum.add(of(&run.latencies))
                    .expect("all have the same bounds");
            }
            sum
        };
        Latencies {
            enqueue: together(|latencies| &latencies.enqueue),
            lease: together(|latencies| &latencies.lease),
            complete: together(|latencies| &latencies.complete),
        }
    }
}

impl Serialize for RowResults {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_struct("row", 3)?;
        row.serialize_field("row", &self.row.key())?;
        row.serialize_field("sync_us", &Latency::from(&self.sync_us))?;
        row.serialize_field("sides", &self.sides)?;
        row.end()
    }
}

impl Serialize for SideResults {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let latencies = self.latencies();
        let runs: Vec<_> = self.runs.iter().map(|run| run.measured).collect();
        let mut side = serializer.serialize_struct("side", 6)?;
        side.serialize_field("side", self.side.name())?;
        side.serialize_field("runs", &runs)?;
        side.serialize_field("failure", &self.failure)?;
        side.serialize_field("enqueue_us", &Latency::from(&latencies.enqueue))?;
        side.serialize_field("lease_us", &Latency::from(&latencies.lease))?;
        side.serialize_field("complete_us", &Latency::from(&latencies.complete))?;
        side.end()
    }
}

fn by_name<S: Serializer>(program: &Program, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(program.name())
}

fn row_by_key<S: Serializer>(row: &Row, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&row.key())
}

fn side_by_name<S: Serializer>(side: &Side, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(side.name())
}
