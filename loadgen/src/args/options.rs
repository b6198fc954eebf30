//! Options that several scenarios have.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use omnirelay_loadgen::{Shape, parse_duration};
use omnirelay_net::messages::BATCH_ITEMS_MAX;
use omnirelay_net::rpc;

/// The most connections of each kind.
const CONNECTIONS_MAX: usize = 4_096;

/// The most items in flight on a connection.
const PIPELINE_MAX: usize = 65_536;

/// The highest rate, a second: one a nanosecond is beyond any clock.
pub(super) const RATE_MAX: f64 = 1e9;

/// The longest wait at the end.
const DRAIN_MAX: Duration = Duration::from_secs(3_600);

/// How much is in flight, and what.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ShapeArgs {
    /// Producer connections, and as many worker connections
    #[arg(long, default_value_t = 1)]
    pub(crate) connections: usize,

    /// Items each connection keeps in flight, a multiple of --batch
    #[arg(long, default_value_t = 1)]
    pub(crate) pipeline: usize,

    /// Items to a call; 1 uses enqueue, lease and complete, more their batch forms
    #[arg(long, default_value_t = 1)]
    pub(crate) batch: usize,

    /// Bytes of an item's body
    #[arg(long, default_value_t = 256)]
    pub(crate) size: usize,
}

impl ShapeArgs {
    pub(super) fn check(&self) -> Result<(), String> {
        check_concurrency(self.connections, self.pipeline)?;
        within("batch", self.batch, 1..=BATCH_ITEMS_MAX)?;
        within("size", self.size, 0..=rpc::BODY_BYTES_MAX)?;
        if !self.pipeline.is_multiple_of(self.batch) {
            return Err(format!(
                "--pipeline {} is not a multiple of --batch {}",
                self.pipeline, self.batch
            ));
        }
        // An item's body and, with ample room, its names.
        if (self.size + 256) * self.batch > rpc::BATCH_BYTES_MAX {
            return Err(format!(
                "--batch {} of --size {} is above {} bytes to a call",
                self.batch,
                self.size,
                rpc::BATCH_BYTES_MAX
            ));
        }
        Ok(())
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape {
            connections: self.connections,
            calls_in_flight: self.pipeline / self.batch,
            batch: self.batch,
            size: self.size,
            slow_after: Duration::MAX,
        }
    }

    /// As it is said in a picture's title.
    pub(crate) fn words(&self) -> String {
        format!(
            "{} × {} in flight, {} to a call, {} B",
            self.connections, self.pipeline, self.batch, self.size
        )
    }
}

/// How the end of a run waits.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DrainArgs {
    /// How long to wait at the end for what is unfinished, while none of it gets done
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub(crate) drain: Duration,
}

impl DrainArgs {
    pub(super) fn check(&self) -> Result<(), String> {
        match self.drain > DRAIN_MAX {
            true => Err("--drain: allowed is up to 1h".into()),
            false => Ok(()),
        }
    }
}

/// The processes on both sides.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProcessArgs {
    /// The server's process id, to report what it takes
    #[arg(long)]
    pub(crate) server_pid: Option<i32>,

    /// The CPU to pin this process to
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
}

/// What comes of a run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OutputArgs {
    /// Print one JSON document instead of a table
    #[arg(long)]
    pub(crate) json: bool,

    /// Write the latencies as HdrHistogram's plotters read them, in ms, a file for each step:
    /// FILE with -STEP before its .hgrm
    #[arg(long, value_name = "FILE")]
    pub(crate) histogram: Option<PathBuf>,

    /// Draw the latencies by percentile
    #[arg(long, value_name = "FILE.svg")]
    pub(crate) plot: Option<PathBuf>,

    /// Show no line about how it goes, which only a terminal gets
    #[arg(long)]
    pub(crate) no_progress: bool,
}

impl OutputArgs {
    pub(super) fn check(&self) -> Result<(), String> {
        match &self.plot {
            Some(path) if path.extension().is_none_or(|extension| extension != "svg") => {
                Err(format!(
                    "--plot {}: the picture is SVG: name a file that ends in .svg",
                    path.display()
                ))
            }
            _ => Ok(()),
        }
    }
}

pub(super) fn check_concurrency(connections: usize, pipeline: usize) -> Result<(), String> {
    within("connections", connections, 1..=CONNECTIONS_MAX)?;
    within("pipeline", pipeline, 1..=PIPELINE_MAX)
}

pub(super) fn within<N: PartialOrd + Display>(
    option: &str,
    value: N,
    allowed: RangeInclusive<N>,
) -> Result<(), String> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let (low, high) = allowed.into_inner();
    Err(format!("--{option} {value}: allowed are {low} to {high}"))
}
