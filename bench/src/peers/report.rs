//! A comparison as people read it.

use std::fmt::Write as _;

use omnirelay_loadgen::{Latencies, Latency, grouped};

use super::figures::{CLIENT_SHARE_MAX, Measured, Spread};
use super::goals::goals;
use super::numbers::{cost, duration, percentiles, range, rounded};
use super::results::{EchoRun, Results, RowResults, SideResults};
use super::rows::{Row, WIDEST};
use super::sides::{BASELINE, Side};

/// What the figures are of, and why the sides can be compared.
const METHOD: &str = "\
Server and all that it starts on CPU 0, client on CPU 1, over TCP on loopback (OmniRelay also over QUIC, with TLS). \
Bodies of {size} bytes. A row `N × D` has N producer and N worker connections, D items in flight on \
each, and at most 4 × N × D items that are stored and not yet removed. One cycle is enqueue → lease → \
complete; `XADD` → `XREADGROUP COUNT D` → `XACK` and `XDEL`; put → reserve → delete; publish, \
acknowledged → pull of D → acknowledgement, confirmed; publish, confirmed → \
delivery, D at most → acknowledgement, to which RabbitMQ says nothing. A worker asks for more once what it has is \
removed. Where OmniRelay has batches, they are of D items; the clients of the others send what they \
can together. Each run starts its server with empty data; the sides take turns, so that whatever \
else the machine does falls on all. Every item that a server acknowledged came and went exactly once \
in each run, and nothing was left, or the side has no figures here. Figures are medians of {runs} runs \
of {seconds} s, with the range; ratios are taken round by round.";

/// The whole section, in Markdown. Pictures are under `plots/`, where `has_pictures`.
pub(crate) fn markdown(results: &Results, has_pictures: bool) -> String {
    let mut out = String::new();
    write(&mut out, results, has_pictures).expect("strings take all that is written");
    out
}

fn write(out: &mut String, results: &Results, has_pictures: bool) -> std::fmt::Result {
    writeln!(
        out,
        "## Beside other queues\n\n```sh\n{}\n```\n",
        results.command
    )?;
    let runs = results.rows.iter().flat_map(|row| &row.sides);
    let runs = runs.map(|side| side.runs.len()).max().unwrap_or(0);
    let method = METHOD
        .replace("{size}", &results.body_bytes.to_string())
        .replace("{runs}", &runs.to_string())
        .replace("{seconds}", &results.run_seconds.to_string());
    writeln!(out, "{method}\n")?;
    writeln!(
        out,
        "{}. {}.{}\n",
        results.machine.words(),
        versions(results),
        device(results)
    )?;
    write_goals(out, results)?;
    write_floor(out, results)?;
    for row in &results.rows {
        write_row(out, results, row)?;
        if has_pictures {
            let (row, file) = (row.row, picture_name(row.row));
            writeln!(
                out,
                "![Enqueue latency by percentile, {row}](plots/{file})\n"
            )?;
        }
    }
    write_open_loop(out, results)?;
    write_echo(out, results)?;
    write_two_cores(out, results)?;
    write_backlog(out, results)
}

/// The file of a row's picture.
pub(crate) fn picture_name(row: Row) -> String {
    format!("peers-{}.svg", row.key())
}

fn versions(results: &Results) -> String {
    let versions = results.programs.iter().map(|installed| {
        let version = installed.version.as_deref().unwrap_or("not installed");
        format!("{} {version}", installed.program)
    });
    versions.collect::<Vec<_>>().join(", ")
}

fn device(results: &Results) -> String {
    let syncs = results.rows.iter().map(|row| Latency::from(&row.sync_us));
    let p50 = Spread::of(syncs.clone().map(|sync| sync.p50 as f64));
    let p99 = Spread::of(syncs.map(|sync| sync.p99 as f64));
    let (Some(p50), Some(p99)) = (p50, p99) else {
        return String::new();
    };
    format!(
        " `fdatasync` after a 4 KiB write took {:.0} µs at the median and {:.0} µs at p99, measured \
         before each round",
        p50.median, p99.median
    ) + "."
}

fn write_goals(out: &mut String, results: &Results) -> std::fmt::Result {
    writeln!(out, "| | goal | measured | met |\n|---|---|---|---|")?;
    for goal in goals(results) {
        let measured = goal.measured.map_or("not measured".to_owned(), |spread| {
            let digits = if spread.median < 10.0 { 2 } else { 1 };
            range(spread, |value| format!("{value:.digits$}"))
        });
        let met = match goal.is_met() {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "",
        };
        writeln!(
            out,
            "| {} | {} | {measured} | {met} |",
            goal.what,
            goal.words()
        )?;
    }
    writeln!(out)
}

fn write_floor(out: &mut String, results: &Results) -> std::fmt::Result {
    let spread = |of: fn(&Measured) -> f64| Spread::of(results.floor.iter().map(of));
    let (Some(cost), Some(rate)) = (
        spread(Measured::server_cost),
        spread(Measured::cycles_per_s),
    ) else {
        return Ok(());
    };
    writeln!(
        out,
        "**The floor** of {WIDEST}: {} server CPU s per million cycles, at {} cycles/s. So much takes \
         a server of one thread (`bench bare-quic --queue`) that has QUIC, TLS, the kernel and the \
         device to deal with and hardly a queue: it reads the same calls, gives items out of a list \
         in memory, and writes replies as long as OmniRelay's, once a write of as many bytes as a \
         cycle has in OmniRelay's log and one `fdatasync` are done, for all calls of a turn together. It \
         recovers nothing.\n",
        range(cost, |value| format!("{value:.2}")),
        range(rate, rounded),
    )
}

fn write_row(out: &mut String, results: &Results, row: &RowResults) -> std::fmt::Result {
    writeln!(
        out,
        "**{}**\n\n\
         | | cycles/s | × {} | server CPU s per million | client CPU s per million | \
         enqueue p50 / p99 | lease p50 / p99 | complete p50 / p99 |\n\
         |---|---|---|---|---|---|---|---|",
        row.row,
        BASELINE.name()
    )?;
    let mut limited = Vec::new();
    for side in &row.sides {
        let name = side.side.name();
        let Some(rate) = side.spread(|run| run.cycles_per_s()) else {
            let why = why_not(results, side);
            writeln!(out, "| {name} | {why} | | | | | | |")?;
            continue;
        };
        let ratio = row.ratio(side.side);
        let ratio = ratio.map_or(String::new(), |it| range(it, |value| format!("{value:.2}")));
        let server = cost(side.spread(|run| run.server_cost()));
        let client = cost(side.spread(|run| run.client_cost()));
        let share = side.spread(|run| run.client_share());
        let share = share.map_or(0.0, |share| share.median);
        let Latencies {
            enqueue,
            lease,
            complete,
        } = &side.latencies();
        writeln!(
            out,
            "| {name} | {} | {ratio} | {server} | {client} ({:.0} % of a CPU) | {} | {} | {} |",
            range(rate, rounded),
            share * 100.0,
            percentiles(enqueue),
            percentiles(lease),
            percentiles(complete),
        )?;
        if share > CLIENT_SHARE_MAX {
            let possible = side.spread(|run| 1e6 / run.server_cost());
            limited.extend(possible.map(|it| (side.side.name(), it.median)));
        }
    }
    writeln!(out)?;
    for (name, possible) in limited {
        writeln!(
            out,
            "{name}: the client took its whole CPU and may be what held the rate down; by its CPU \
             time the server has room for {} cycles/s.\n",
            rounded(possible)
        )?;
    }
    Ok(())
}

/// Why a side has no figures.
fn why_not(results: &Results, side: &SideResults) -> String {
    let program = side.side.program();
    let mut installed = results.programs.iter();
    let installed = installed.find(|installed| installed.program == program);
    let found = installed.and_then(|installed| installed.found.as_ref());
    match found {
        _ if side.failure.is_some() => "failed".to_owned(),
        None => "not installed".to_owned(),
        Some(found) => format!("{} has no such setting", found.version),
    }
}

fn write_open_loop(out: &mut String, results: &Results) -> std::fmt::Result {
    if results.open_loop.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "**At a fixed rate**, 30 % of what the widest row came to; latencies count from when a call \
         was meant to begin, the device was measured just before and just behind.\n\n\
         | | cycles/s | enqueue p50 / p99 | `fdatasync` p50 / p99 | p50 to p50 | p99 to p99 |\n\
         |---|---|---|---|---|---|"
    )?;
    for open in &results.open_loop {
        let middle = |value: fn(&super::results::OpenRun) -> u64| {
            let spread = Spread::of(open.runs.iter().map(|run| value(run) as f64));
            spread.map_or(0, |spread| spread.median as u64)
        };
        let rate = Spread::of(open.runs.iter().map(|run| run.cycles_per_s));
        let times = |spread: Option<Spread>| {
            spread.map_or(String::new(), |it| range(it, |value| format!("{value:.1}")))
        };
        writeln!(
            out,
            "| {} | {} | {} / {} | {} / {} | {} | {} |",
            open.side.name(),
            rate.map_or(String::new(), |rate| rounded(rate.median)),
            duration(middle(|run| run.enqueue_us.p50)),
            duration(middle(|run| run.enqueue_us.p99)),
            duration(middle(|run| run.sync_us.p50)),
            duration(middle(|run| run.sync_us.p99)),
            times(open.p50()),
            times(open.p99()),
        )?;
    }
    writeln!(out)
}

fn write_echo(out: &mut String, results: &Results) -> std::fmt::Result {
    if results.echo.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "**Echo**, the smallest call there and back (`stats`) over QUIC, N connections and D calls in \
         flight on each. Beside OmniRelay two servers of one thread with no queue, admission or \
         telemetry behind them: the driver of its cores (`bench bare-quic --own-driver`), which \
         bounds, counts and undoes what comes over QUIC, and a bare one (`bench bare-quic`): the same \
         TLS, frames, transport settings and system calls for many datagrams over quinn's state \
         machines. They take turns on CPU 0, each started anew.\n\n\
         | | bare, calls/s | server CPU s per million calls: OmniRelay | driver | bare | driver to bare |\n\
         |---|---|---|---|---|---|"
    )?;
    for echo in &results.echo {
        let spread = |of: &dyn Fn(&EchoRun) -> f64| Spread::of(echo.runs.iter().map(of));
        let rate =
            |spread: Option<Spread>| spread.map_or(String::new(), |spread| range(spread, rounded));
        let times = echo.cost();
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} |",
            echo.row,
            rate(spread(&|run| run.bare.cycles_per_s())),
            cost(spread(&|run| run.ours.server_cost())),
            cost(spread(&|run| run.driver.server_cost())),
            cost(spread(&|run| run.bare.server_cost())),
            times.map_or(String::new(), |it| range(it, |value| format!("{value:.2}"))),
        )?;
    }
    writeln!(out)
}

fn write_two_cores(out: &mut String, results: &Results) -> std::fmt::Result {
    let Some(two_cores) = &results.two_cores else {
        return Ok(());
    };
    writeln!(
        out,
        "**Two cores**, {WIDEST}, {}, at {} items/s, a third of what one core came to. All CPU time \
         of the server's process counts, idle cores' too. One core is on CPU 0 and the client on CPU \
         1; two cores are on CPUs 0 and 1, and the client shares CPU 1 with the second. The rate \
         leaves both CPUs idle for part of the time, so that nobody waits long for one; that client \
         and server use the same caches of CPU 1 is in the figure of two. Rounds in which either did \
         not keep up with the rate do not count for the goal.\n\n\
         | | cycles/s | server CPU s per million | client CPU s per million |\n\
         |---|---|---|---|",
        Side::Quic.name(),
        rounded(two_cores.rate)
    )?;
    let one: Vec<_> = two_cores.runs.iter().map(|run| run.one).collect();
    let two: Vec<_> = two_cores.runs.iter().map(|run| run.two).collect();
    for (name, runs) in [("one core", one), ("two cores", two)] {
        let spread = |of: fn(&Measured) -> f64| Spread::of(runs.iter().map(of));
        writeln!(
            out,
            "| {name} | {} | {} | {} |",
            spread(Measured::cycles_per_s).map_or(String::new(), |rate| range(rate, rounded)),
            cost(spread(Measured::server_cost)),
            cost(spread(Measured::client_cost)),
        )?;
    }
    writeln!(out)
}

fn write_backlog(out: &mut String, results: &Results) -> std::fmt::Result {
    let Some(backlog) = &results.backlog else {
        return Ok(());
    };
    let rate = |rates: &[f64]| {
        let spread = Spread::of(rates.iter().copied());
        spread.map_or(String::new(), |spread| range(spread, rounded))
    };
    writeln!(
        out,
        "**With {} items waiting**: {} cycles/s, with none {}.",
        grouped(backlog.items),
        rate(&backlog.full_cycles_per_s),
        rate(&backlog.empty_cycles_per_s)
    )
}

#[cfg(test)]
mod tests {
    use omnirelay_loadgen::latency_histogram;

    use super::*;
    use crate::peers::figures::{Figures, Measured};
    use crate::peers::machine::Machine;
    use crate::peers::programs::{Found, Program};
    use crate::peers::results::{EchoResults, Installed, TwoCores, TwoCoresRun};
    use crate::peers::rows::WIDEST;
    use crate::peers::sides::{Durability, Side};

    fn runs(rates: &[f64], client_cpu_s: f64) -> Vec<Figures> {
        let run = |rate: &f64| {
            let mut enqueue = latency_histogram();
            enqueue.record(1_500).unwrap();
            let latencies = Latencies {
                enqueue,
                lease: latency_histogram(),
                complete: latency_histogram(),
            };
            let measured = Measured {
                seconds: 1.0,
                cycles: *rate as u64,
                server_cpu_s: 0.5,
                client_cpu_s,
            };
            measured.with(latencies)
        };
        rates.iter().map(run).collect()
    }

    fn costing(server_cpu_s: f64) -> Measured {
        Measured {
            seconds: 2.0,
            cycles: 1_000_000,
            server_cpu_s,
            client_cpu_s: 0.8,
        }
    }

    fn results() -> Results {
        let side = |side, runs| SideResults {
            side,
            runs,
            failure: None,
        };
        let installed = |program, version: Option<&str>| Installed {
            program,
            version: version.map(str::to_owned),
            found: version.map(|version| Found {
                path: "nowhere".into(),
                version: version.to_owned(),
            }),
        };
        let mut sync_us = latency_histogram();
        sync_us.record(144).unwrap();
        Results {
            command: "bench peers".to_owned(),
            machine: Machine::of(std::path::Path::new("/")),
            programs: vec![
                installed(Program::Redis, Some("7.0.15")),
                installed(Program::Nats, Some("2.9.10")),
                installed(Program::Beanstalkd, None),
            ],
            body_bytes: 256,
            run_seconds: 1.0,
            rows: vec![RowResults {
                row: WIDEST,
                sides: vec![
                    side(Side::Quic, runs(&[500_000.0, 400_000.0, 300_000.0], 0.95)),
                    side(BASELINE, runs(&[100_000.0; 3], 0.2)),
                    side(Side::Beanstalkd(Durability::None), Vec::new()),
                    side(Side::Nats(Durability::EachReply), Vec::new()),
                    side(Side::Nats(Durability::None), runs(&[900.0], 0.1)),
                ],
                sync_us,
            }],
            open_loop: Vec::new(),
            floor: vec![costing(1.25)],
            echo: vec![EchoResults {
                row: WIDEST,
                runs: vec![EchoRun {
                    ours: costing(2.0),
                    driver: costing(0.66),
                    bare: costing(0.6),
                }],
            }],
            two_cores: Some(TwoCores {
                rate: 500_000.0,
                runs: vec![TwoCoresRun {
                    one: costing(1.0),
                    two: costing(1.5),
                }],
            }),
            backlog: None,
            other_failures: Vec::new(),
        }
    }

    #[test]
    fn a_section_has_figures_ratios_goals_and_what_is_missing() {
        let section = markdown(&results(), true);
        for mention in [
            "bench peers",
            "medians of 3 runs of 1 s",
            "Redis 7.0.15, NATS 2.9.10, beanstalkd not installed",
            "144 µs at the median",
            "| 16 × 64, OmniRelay, QUIC, batches | ≥ 4 × Redis, `appendfsync always` | 4.00 (3.00–5.00) | yes |",
            "| 16 × 64, echo over the QUIC driver: server CPU per call | ≤ 1.1 × bare `quinn-proto` | 1.10 | yes |",
            "| 16 × 64 | 500,000 | 2.00 | 0.66 | 0.60 | 1.10 |",
            "two cores: server CPU per cycle | ≤ 1.1 × one core's | 1.50 | **no** |",
            "at 500,000 items/s, a third of what one core came to",
            "**The floor** of 16 × 64: 1.25 server CPU s per million cycles, at 500,000 cycles/s.",
            "| two cores | 500,000 | 1.50 | 0.80 |",
            "| 8 × 1, OmniRelay, QUIC, batches | ≥ 2 × Redis, `appendfsync always` | not measured |  |",
            "| OmniRelay, QUIC, batches | 400,000 (300,000–500,000) | 4.00 (3.00–5.00) | 1.25 |",
            "(95 % of a CPU) | 1.5 ms / 1.5 ms | – | – |",
            "OmniRelay, QUIC, batches: the client took its whole CPU",
            "room for 800,000 cycles/s",
            "| beanstalkd, in memory | not installed |",
            "| NATS, `sync_interval: always` | 2.9.10 has no such setting |",
            "| NATS, files without sync | 900 |",
            "![Enqueue latency by percentile, 16 × 64](plots/peers-16x64.svg)",
        ] {
            assert!(section.contains(mention), "{mention} in\n{section}");
        }
    }

    #[test]
    fn a_side_that_failed_has_no_figures() {
        let mut results = results();
        let side = &mut results.rows[0].sides[0];
        side.runs.clear();
        side.failure = Some("an item came twice".to_owned());
        let section = markdown(&results, false);
        assert!(
            section.contains("| OmniRelay, QUIC, batches | failed |"),
            "{section}"
        );
        assert_eq!(results.failures(), ["an item came twice"]);
        assert!(!section.contains("plots/"));
    }
}
