//! The order in which everything is measured.

use std::io::{IsTerminal, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use omnirelay_loadgen::latency_histogram;

use super::args::Args;
use super::device;
use super::echo::{self, ECHO_ROWS};
use super::figures::Measured;
use super::fixed_rate::{self, RATE_SHARE};
use super::floor;
use super::long_queue;
use super::machine::Machine;
use super::programs::{Found, PROGRAMS, Program};
use super::results::{
    Backlog, EchoResults, Installed, OpenLoop, Results, RowResults, SideResults, TwoCores,
};
use super::rows::{ROWS, Row, Timing, WIDEST};
use super::sides::{SIDES, Side};
use super::two_cores;

/// How long the device is measured before each round.
const SYNC_TIME: Duration = Duration::from_millis(200);

/// What is also measured at a fixed rate.
const AT_FIXED_RATE: [Side; 2] = [Side::Quic, Side::QuicSingle];

/// Measures all that is asked for, row by row.
///
/// # Errors
/// If something besides a side fails.
pub(crate) async fn all(args: &Args) -> anyhow::Result<Results> {
    let mut results = Results {
        command: args.command(),
        machine: Machine::of(&args.dir),
        programs: find(args),
        body_bytes: args.size,
        run_seconds: args.duration.as_secs_f64(),
        rows: Vec::new(),
        open_loop: Vec::new(),
        floor: Vec::new(),
        echo: Vec::new(),
        two_cores: None,
        backlog: None,
        other_failures: Vec::new(),
    };
    if results.programs.iter().all(|it| it.found.is_none()) {
        bail!("none of the programs is installed");
    }
    let rows = match args.rows.as_slice() {
        [] => &ROWS[..],
        rows => rows,
    };
    for &row in rows {
        let measured = measure_row(args, &results.programs, row).await?;
        results.rows.push(measured);
    }
    match at_fixed_rates(args, &results).await {
        Ok(open_loop) => results.open_loop = open_loop,
        Err(error) => results.other_failures.push(format!("{error:#}")),
    }
    if has_ours(&results) {
        match floors(args, rows).await {
            Ok(floor) => results.floor = floor,
            Err(error) => results.other_failures.push(format!("{error:#}")),
        }
        match echoes(args, rows).await {
            Ok(echo) => results.echo = echo,
            Err(error) => results.other_failures.push(format!("{error:#}")),
        }
        match on_two_cores(args, &results).await {
            Ok(two_cores) => results.two_cores = two_cores,
            Err(error) => results.other_failures.push(format!("{error:#}")),
        }
    }
    match beside_backlog(args, &results).await {
        Ok(backlog) => results.backlog = backlog,
        Err(error) => results.other_failures.push(format!("{error:#}")),
    }
    show("");
    Ok(results)
}

/// Looks for the programs, and names those that are missing.
fn find(args: &Args) -> Vec<Installed> {
    let wanted = |program: &Program| args.only.is_empty() || args.only.contains(program);
    let programs = PROGRAMS.into_iter().filter(wanted);
    programs
        .map(|program| {
            let found = program.find();
            match &found {
                Some(found) => eprintln!("{program} {}: {}", found.version, found.path.display()),
                None => eprintln!("{program} is not installed; to get it: {}", program.help()),
            }
            if let Some(found) = found.as_ref().filter(|found| !found.can_sync(program)) {
                let (version, help) = (&found.version, program.help());
                eprintln!(
                    "{program} {version} cannot sync before it replies; for one that can: {help}"
                );
            }
            let version = found.as_ref().map(|found| found.version.clone());
            Installed {
                program,
                version,
                found,
            }
        })
        .collect()
}

/// All sides in turns. One that fails has no figures, and takes no more turns.
async fn measure_row(args: &Args, programs: &[Installed], row: Row) -> anyhow::Result<RowResults> {
    let timing = Timing::of(args.duration);
    let found = |side: &Side| -> Option<&Installed> {
        programs.iter().find(|it| it.program == side.program())
    };
    let sides = SIDES.into_iter().filter(|side| side.takes_part(row));
    let sides = sides.filter(|side| found(side).is_some());
    let mut sides: Vec<_> = sides
        .map(|side| SideResults {
            side,
            runs: Vec::new(),
            failure: None,
        })
        .collect();
    let mut sync_us = latency_histogram();
    for round in 1..=args.runs {
        let syncs = device::sync_times(&args.dir, SYNC_TIME.min(args.duration))?;
        sync_us.add(syncs).expect("all have the same bounds");
        for results in sides.iter_mut().filter(|side| side.failure.is_none()) {
            let side = results.side;
            let installed: Option<&Found> = found(&side).and_then(|it| it.found.as_ref());
            let Some(installed) = installed.filter(|found| side.is_possible(found)) else {
                continue;
            };
            show(&format!(
                "{row}, run {round} of {}: {}",
                args.runs,
                side.name()
            ));
            let size = args.size as usize;
            match side.run(installed, &args.dir, row, size, timing).await {
                Ok(figures) => results.runs.push(figures),
                Err(error) => {
                    let failure = format!("{error:#}");
                    show("");
                    eprintln!("failed: {failure}");
                    results.runs.clear();
                    results.failure = Some(failure);
                }
            }
        }
    }
    Ok(RowResults {
        row,
        sides,
        sync_us,
    })
}

/// OmniRelay at a share of what the widest row came to.
async fn at_fixed_rates(args: &Args, results: &Results) -> anyhow::Result<Vec<OpenLoop>> {
    let timing = Timing::of(args.duration);
    let (row, dir, size) = (WIDEST, Path::new(&args.dir), args.size as usize);
    let mut loops = Vec::new();
    for side in AT_FIXED_RATE {
        let measured = results.row(row).and_then(|row| row.side(side));
        let peak = measured.and_then(|side| side.spread(|run| run.cycles_per_s()));
        loops.extend(peak.map(|peak| OpenLoop {
            side,
            rate: RATE_SHARE * peak.median,
            runs: Vec::new(),
        }));
    }
    for round in 1..=args.runs {
        for open in &mut loops {
            let (side, rate) = (open.side, open.rate);
            let runs = args.runs;
            show(&format!(
                "{rate:.0} items/s, run {round} of {runs}: {}",
                side.name()
            ));
            let run = fixed_rate::run(side, dir, row, size, timing, rate);
            open.runs.push(run.await?);
        }
    }
    Ok(loops)
}

/// Whether OmniRelay is measured.
fn has_ours(results: &Results) -> bool {
    let mut programs = results.programs.iter();
    programs.any(|it| it.program == Program::OmniRelay && it.found.is_some())
}

/// What a cycle costs with hardly a queue, where the widest row is asked for.
async fn floors(args: &Args, rows: &[Row]) -> anyhow::Result<Vec<Measured>> {
    let mut runs = Vec::new();
    if rows.contains(&WIDEST) {
        for round in 1..=args.runs {
            show(&format!("the floor, run {round} of {}", args.runs));
            let (timing, size) = (Timing::of(args.duration), args.size as usize);
            runs.push(floor::run(&args.dir, WIDEST, size, timing).await?);
        }
    }
    Ok(runs)
}

/// The smallest calls, where their rows are asked for.
async fn echoes(args: &Args, rows: &[Row]) -> anyhow::Result<Vec<EchoResults>> {
    let timing = Timing::of(args.duration);
    let rows = ECHO_ROWS.into_iter().filter(|row| rows.contains(row));
    let runs = Vec::new;
    let mut results: Vec<_> = rows.map(|row| EchoResults { row, runs: runs() }).collect();
    for round in 1..=args.runs {
        for EchoResults { row, runs } in &mut results {
            show(&format!("echo, {row}, run {round} of {}", args.runs));
            runs.push(echo::run(&args.dir, *row, timing).await?);
        }
    }
    Ok(results)
}

/// OmniRelay on one core and on two, at a share of what one came to.
async fn on_two_cores(args: &Args, results: &Results) -> anyhow::Result<Option<TwoCores>> {
    let (row, side, size) = (WIDEST, Side::Quic, args.size as usize);
    let measured = results.row(row).and_then(|row| row.side(side));
    let Some(peak) = measured.and_then(|side| side.spread(|run| run.cycles_per_s())) else {
        return Ok(None);
    };
    let mut results = TwoCores {
        rate: two_cores::RATE_SHARE * peak.median,
        runs: Vec::new(),
    };
    for round in 1..=args.runs {
        let rate = results.rate;
        show(&format!(
            "two cores, {rate:.0} items/s, run {round} of {}",
            args.runs
        ));
        let timing = Timing::of(args.duration);
        let run = two_cores::run(side, &args.dir, row, size, timing, rate);
        results.runs.push(run.await?);
    }
    Ok(Some(results))
}

/// OmniRelay with many items waiting, where that is asked for.
async fn beside_backlog(args: &Args, results: &Results) -> anyhow::Result<Option<Backlog>> {
    let Some(items) = args.backlog().filter(|_| has_ours(results)) else {
        return Ok(None);
    };
    let timing = Timing::of(args.duration);
    let (row, size, side) = (WIDEST, args.size as usize, Side::Quic);
    let mut backlog = Backlog {
        items,
        empty_cycles_per_s: Vec::new(),
        full_cycles_per_s: Vec::new(),
    };
    for round in 1..=args.runs {
        let runs = args.runs;
        show(&format!(
            "{items} items waiting, run {round} of {runs}: {}",
            side.name()
        ));
        let run = long_queue::run(side, &args.dir, row, size, timing, items);
        let [empty, full] = run.await?;
        backlog.empty_cycles_per_s.push(empty);
        backlog.full_cycles_per_s.push(full);
    }
    Ok(Some(backlog))
}

/// A line that is written over, on terminals only.
fn show(line: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        // What cannot be shown does not matter.
        let _ = write!(stderr, "\r\x1b[K{line}").and_then(|()| stderr.flush());
    }
}
