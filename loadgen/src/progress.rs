//! How a run goes, for a person who looks on.

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use omnirelay_loadgen::grouped;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(200);

/// Looks over which the rate is taken: a second.
const LOOKS: usize = 5;

/// Wipes the line; what comes then is cut at the terminal's edge, so that it stays one line.
const BEGIN: &str = "\r\x1b[K\x1b[?7l";
const END: &str = "\x1b[?7h";
const WIPE: &str = "\r\x1b[K";

/// One line on stderr that is written over, where that is a terminal, and gone at the end.
#[derive(Debug)]
pub(crate) struct Progress {
    is_shown: bool,
}

/// What a part of a run does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doing {
    /// A word for it.
    pub(crate) what: &'static str,
    /// What there are ever more of.
    pub(crate) unit: &'static str,
    pub(crate) end: End,
}

/// When it will be done.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    At(Instant),
    /// Once there are so many.
    Goal(u64),
}

/// How things stand.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    pub(crate) done: u64,
    pub(crate) in_flight: u64,
    pub(crate) p99_us: u64,
    pub(crate) errors: u64,
}

impl Progress {
    pub(crate) fn new(is_wanted: bool) -> Self {
        Self {
            is_shown: is_wanted && std::io::stderr().is_terminal(),
        }
    }

    /// Waits for `future`, and shows meanwhile how things stand.
    pub(crate) async fn during<T>(
        &self,
        doing: Doing,
        look: impl Fn() -> Look,
        future: impl Future<Output = T>,
    ) -> T {
        if !self.is_shown {
            return future.await;
        }
        let mut future = std::pin::pin!(future);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looks = VecDeque::with_capacity(LOOKS + 1);
        let result = loop {
            tokio::select! {
                result = &mut future => break result,
                now = ticks.tick() => {
                    let newest = look();
                    looks.push_back((now, newest.done));
                    if looks.len() > LOOKS + 1 {
                        looks.pop_front();
                    }
                    say(&format!("{BEGIN}{}{END}", line(doing, now, newest, &looks)));
                }
            }
        };
        say(WIPE);
        result
    }
}

/// Nobody is left to be told where stderr is closed.
fn say(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

fn line(doing: Doing, now: Instant, look: Look, looks: &VecDeque<(Instant, u64)>) -> String {
    let (from, before) = looks.front().copied().unwrap_or((now, look.done));
    let seconds = now.duration_since(from).as_secs_f64();
    let per_s = match seconds > 0.0 {
        true => look.done.saturating_sub(before) as f64 / seconds,
        false => 0.0,
    };
    let left = match doing.end {
        End::At(end) => Some(end.saturating_duration_since(now).as_secs_f64()),
        End::Goal(goal) => (per_s >= 1.0).then(|| goal.saturating_sub(look.done) as f64 / per_s),
    };
    let goal = match doing.end {
        End::At(_) => String::new(),
        End::Goal(goal) => format!("{} of {}  ", grouped(look.done), grouped(goal)),
    };
    let left = left.map_or_else(String::new, |seconds| {
        format!("  {:.0} s left", seconds.ceil())
    });
    let Doing { what, unit, .. } = doing;
    format!(
        "{what}  {goal}{} {unit}/s  {} in flight  p99 {:.2} ms  {} errors{left}",
        grouped(per_s as u64),
        grouped(look.in_flight),
        look.p99_us as f64 / 1_000.0,
        look.errors,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_rate_of_the_last_second_and_what_is_left() {
        let begin = Instant::now();
        let now = begin + Duration::from_secs(1);
        let look = Look {
            done: 25_000,
            in_flight: 1_024,
            p99_us: 3_456,
            errors: 2,
        };
        let looks = VecDeque::from([(begin, 5_000), (now, 25_000)]);
        let doing = |end| Doing {
            what: "measuring",
            unit: "cycles",
            end,
        };
        assert_eq!(
            line(
                doing(End::At(now + Duration::from_millis(6_200))),
                now,
                look,
                &looks
            ),
            "measuring  20,000 cycles/s  1,024 in flight  p99 3.46 ms  2 errors  7 s left"
        );
        assert_eq!(
            line(doing(End::Goal(1_025_000)), now, look, &looks),
            "measuring  25,000 of 1,025,000  20,000 cycles/s  1,024 in flight  p99 3.46 ms  \
             2 errors  50 s left"
        );
    }
}
