//! What OmniRelay is meant to come to beside its peers.

use omnirelay_loadgen::grouped;

use super::figures::Spread;
use super::results::{Backlog, EchoResults, OpenLoop, Results, TwoCores};
use super::rows::{ROWS, Row, WIDEST};
use super::sides::Side;

/// Something that is wanted of a comparison.
#[derive(Debug)]
pub(crate) struct Goal {
    pub(crate) what: String,
    wanted: f64,
    sense: Sense,
    unit: &'static str,
    /// `None` where it was not measured.
    pub(crate) measured: Option<Spread>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sense {
    AtLeast,
    AtMost,
}

/// Multiples of Redis with `appendfsync always`.
const RATIOS: [(Row, Side, f64); 7] = [
    (WIDEST, Side::Quic, 4.0),
    (ROWS[1], Side::Quic, 3.0),
    (ROWS[2], Side::Quic, 2.0),
    (ROWS[3], Side::Quic, 1.0),
    (WIDEST, Side::QuicSingle, 2.0),
    (WIDEST, Side::HttpJson, 1.5),
    (WIDEST, Side::Grpc, 2.0),
];
const TIMES_REDIS: &str = "× Redis, `appendfsync always`";
const TIMES_SYNC: &str = "× the device's `fdatasync`";

/// Server CPU seconds to a million cycles, in the widest row.
const SERVER_COST_MAX: f64 = 1.6;
/// Multiples of the device's `fdatasync`, at a fixed rate.
const OPEN_P50_MAX: f64 = 2.0;
const OPEN_P99_MAX: f64 = 4.0;
/// Share of the empty queue's rate with very many items waiting.
const BACKLOG_SHARE_MIN: f64 = 0.8;
pub(crate) const BACKLOG_ITEMS: u64 = 10_000_000;
/// Server CPU for the smallest call, in multiples of what QUIC takes with nothing behind it.
const ECHO_COST_MAX: f64 = 1.1;
/// What of a rate has to come through for two figures at that rate to be compared.
const RATE_KEPT_MIN: f64 = 0.95;
/// Server CPU of two cores, in multiples of one core's at the same rate.
const TWO_CORES_COST_MAX: f64 = 1.1;

/// All goals, with what was measured of each.
pub(crate) fn goals(results: &Results) -> Vec<Goal> {
    let ratios = RATIOS.into_iter().map(|(row, side, wanted)| Goal {
        what: format!("{row}, {}", side.name()),
        wanted,
        sense: Sense::AtLeast,
        unit: TIMES_REDIS,
        measured: results.row(row).and_then(|results| results.ratio(side)),
    });
    let widest = results.row(WIDEST).and_then(|row| row.side(Side::Quic));
    let cost = Goal {
        what: format!("{WIDEST}, {}", Side::Quic.name()),
        wanted: SERVER_COST_MAX,
        sense: Sense::AtMost,
        unit: "server CPU s per million cycles",
        measured: widest.and_then(|side| side.spread(|measured| measured.server_cost())),
    };
    let mut goals: Vec<_> = ratios.chain([cost]).collect();
    let first = results.open_loop.first();
    goals.extend(open_loop_goals(first));
    let mut echoes = results.echo.iter();
    goals.push(echo_goal(echoes.find(|echo| echo.row == WIDEST)));
    goals.push(two_cores_goal(results.two_cores.as_ref()));
    goals.push(backlog_goal(results.backlog.as_ref()));
    goals
}

fn open_loop_goals(open: Option<&OpenLoop>) -> [Goal; 2] {
    let goal = |percentile, wanted, measured| Goal {
        what: format!("{WIDEST} at 30 % of its rate, enqueue {percentile}"),
        wanted,
        sense: Sense::AtMost,
        unit: TIMES_SYNC,
        measured,
    };
    [
        goal("p50", OPEN_P50_MAX, open.and_then(OpenLoop::p50)),
        goal("p99", OPEN_P99_MAX, open.and_then(OpenLoop::p99)),
    ]
}

impl OpenLoop {
    /// Median latency, in multiples of the device's.
    pub(crate) fn p50(&self) -> Option<Spread> {
        let runs = self.runs.iter();
        Spread::of(runs.map(|run| run.enqueue_us.p50 as f64 / run.sync_us.p50 as f64))
    }

    /// The 99th percentile, in multiples of the device's.
    pub(crate) fn p99(&self) -> Option<Spread> {
        let runs = self.runs.iter();
        Spread::of(runs.map(|run| run.enqueue_us.p99 as f64 / run.sync_us.p99 as f64))
    }
}

fn echo_goal(echo: Option<&EchoResults>) -> Goal {
    Goal {
        what: format!("{WIDEST}, echo over the QUIC driver: server CPU per call"),
        wanted: ECHO_COST_MAX,
        sense: Sense::AtMost,
        unit: "× bare `quinn-proto`",
        measured: echo.and_then(EchoResults::cost),
    }
}

impl EchoResults {
    /// Server CPU of the driver for a call, in multiples of what bare QUIC takes.
    pub(crate) fn cost(&self) -> Option<Spread> {
        let runs = self.runs.iter();
        Spread::of(runs.map(|run| run.driver.server_cost() / run.bare.server_cost()))
    }
}

fn two_cores_goal(two_cores: Option<&TwoCores>) -> Goal {
    Goal {
        what: format!("{WIDEST} at a third of its rate, two cores: server CPU per cycle"),
        wanted: TWO_CORES_COST_MAX,
        sense: Sense::AtMost,
        unit: "× one core's",
        measured: two_cores.and_then(TwoCores::cost),
    }
}

impl TwoCores {
    /// Server CPU for a cycle on two cores, in multiples of that on one, of the rounds in which
    /// both kept up with the rate: a server that is late does more at a time, for less.
    pub(crate) fn cost(&self) -> Option<Spread> {
        let runs = self.runs.iter().filter(|run| {
            let slower = f64::min(run.one.cycles_per_s(), run.two.cycles_per_s());
            slower >= RATE_KEPT_MIN * self.rate
        });
        Spread::of(runs.map(|run| run.two.server_cost() / run.one.server_cost()))
    }
}

fn backlog_goal(backlog: Option<&Backlog>) -> Goal {
    let items = backlog.map_or(BACKLOG_ITEMS, |backlog| backlog.items);
    Goal {
        what: format!("{WIDEST} with {} items waiting", grouped(items)),
        wanted: BACKLOG_SHARE_MIN,
        sense: Sense::AtLeast,
        unit: "× the rate with none",
        measured: backlog.and_then(Backlog::share),
    }
}

impl Backlog {
    /// The rate with the items, in multiples of the one without.
    pub(crate) fn share(&self) -> Option<Spread> {
        let rounds = self.full_cycles_per_s.iter().zip(&self.empty_cycles_per_s);
        Spread::of(rounds.map(|(full, empty)| full / empty))
    }
}

impl Goal {
    /// `None` where it was not measured.
    pub(crate) fn is_met(&self) -> Option<bool> {
        let median = self.measured?.median;
        Some(match self.sense {
            Sense::AtLeast => median >= self.wanted,
            Sense::AtMost => median <= self.wanted,
        })
    }

    /// As it is stated: `≥ 4 × Redis`.
    pub(crate) fn words(&self) -> String {
        let sign = match self.sense {
            Sense::AtLeast => '≥',
            Sense::AtMost => '≤',
        };
        format!("{sign} {} {}", self.wanted, self.unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::figures::Measured;
    use crate::peers::results::{EchoRun, TwoCoresRun};

    fn goal(wanted: f64, sense: Sense, measured: Option<f64>) -> Option<bool> {
        let goal = Goal {
            what: String::new(),
            wanted,
            sense,
            unit: TIMES_REDIS,
            measured: measured.and_then(|measured| Spread::of([measured])),
        };
        goal.is_met()
    }

    #[test]
    fn a_goal_is_met_from_its_figure_on() {
        assert_eq!(goal(4.0, Sense::AtLeast, Some(4.0)), Some(true));
        assert_eq!(goal(4.0, Sense::AtLeast, Some(3.99)), Some(false));
        assert_eq!(goal(1.6, Sense::AtMost, Some(1.6)), Some(true));
        assert_eq!(goal(1.6, Sense::AtMost, Some(1.7)), Some(false));
        assert_eq!(goal(1.6, Sense::AtMost, None), None);
    }

    fn cost(server_cpu_s: f64) -> Measured {
        Measured {
            seconds: 1.0,
            cycles: 1_000_000,
            server_cpu_s,
            client_cpu_s: 0.0,
        }
    }

    #[test]
    fn an_echo_is_judged_by_its_cpu_time_and_not_by_its_rate() {
        let run = |driver, bare| EchoRun {
            ours: cost(9.0),
            driver: cost(driver),
            bare: Measured {
                seconds: 0.5,
                ..cost(bare)
            },
        };
        let echo = EchoResults {
            row: WIDEST,
            runs: vec![run(1.2, 1.0), run(2.1, 2.0), run(1.1, 1.0)],
        };
        let goal = echo_goal(Some(&echo));
        assert_eq!(goal.measured.unwrap().median, 1.1);
        assert_eq!(goal.is_met(), Some(true));
        assert_eq!(goal.words(), "≤ 1.1 × bare `quinn-proto`");
        assert_eq!(echo_goal(None).is_met(), None);
    }

    #[test]
    fn two_cores_are_judged_beside_one_in_the_same_round() {
        let run = |one, two| TwoCoresRun {
            one: cost(one),
            two: cost(two),
        };
        let two_cores = TwoCores {
            rate: 1_000_000.0,
            runs: vec![run(1.0, 1.2), run(2.0, 2.0), run(1.0, 1.3)],
        };
        let goal = two_cores_goal(Some(&two_cores));
        assert_eq!(goal.measured.unwrap().median, 1.2);
        assert_eq!(goal.is_met(), Some(false));
    }

    #[test]
    fn a_round_that_did_not_keep_up_with_its_rate_is_not_compared() {
        let slow = Measured {
            seconds: 1.1,
            ..cost(1.0)
        };
        let (one, two) = (cost(1.0), slow);
        let mut two_cores = TwoCores {
            rate: 1_000_000.0,
            runs: vec![TwoCoresRun { one, two }],
        };
        assert_eq!(two_cores.cost(), None);
        two_cores.rate = 950_000.0;
        assert_eq!(two_cores.cost().unwrap().median, 1.0);
    }

    #[test]
    fn a_backlog_is_judged_round_by_round() {
        let backlog = Backlog {
            items: 10,
            empty_cycles_per_s: vec![100.0, 200.0, 100.0],
            full_cycles_per_s: vec![90.0, 100.0, 80.0],
        };
        assert_eq!(backlog.share().unwrap().median, 0.8);
        assert_eq!(backlog_goal(Some(&backlog)).is_met(), Some(true));
    }
}
