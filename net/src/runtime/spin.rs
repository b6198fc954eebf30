//! How long a core that has run out of work looks for more before it sleeps.
//!
//! A sleep costs a wake-up: a system call by whoever has work, and the time the kernel takes to
//! run the core again. A core that is about to be given work is better off awake. So it spins for
//! as long as that has lately paid: the budget doubles when work came within the longest spin that
//! is allowed, be it while spinning or soon after; it halves when work took longer, down to none. An idle core does not spin at all. Nor does one whose CPU others want:
//! when the kernel took the CPU away during a spin, there is none for a while.

use std::time::{Duration, Instant};

/// The shortest spin, and what the budget begins with.
pub(super) const SPIN_MIN: Duration = Duration::from_micros(5);
/// How long a core does not spin after others wanted its CPU.
pub(super) const CONTENDED_FOR: Duration = Duration::from_millis(100);

/// The budget and what it goes by. Time is an argument.
#[derive(Debug)]
pub(super) struct Spin {
    max: Duration,
    budget: Duration,
    /// When the spin that is under way began, and how often the CPU had been taken away by then.
    began: Option<(Instant, u64)>,
    /// Since when there has been nothing to do, once the spin is over.
    idle_since: Option<Instant>,
    contended_until: Option<Instant>,
    spun: Duration,
}

impl Spin {
    /// Spins for `max` at most; zero is never.
    pub(super) fn new(max: Duration) -> Spin {
        Spin {
            max,
            budget: Duration::ZERO,
            began: None,
            idle_since: None,
            contended_until: None,
            spun: Duration::ZERO,
        }
    }

    /// Whether it can ever spin.
    pub(super) fn is_on(&self) -> bool {
        self.max > Duration::ZERO
    }

    /// Time that spins have taken.
    pub(super) fn spun(&self) -> Duration {
        self.spun
    }

    /// The core had something to do in the turn that began at `now`.
    pub(super) fn found_work(&mut self, now: Instant) {
        if let Some((began, _)) = self.began.take() {
            self.spun += now.saturating_duration_since(began);
            self.idle_since.get_or_insert(began);
        }
        let Some(idle_since) = self.idle_since.take() else {
            return;
        };
        if now.saturating_duration_since(idle_since) < self.max {
            self.budget = (self.budget * 2).max(SPIN_MIN).min(self.max);
        } else if self.budget < 2 * SPIN_MIN {
            self.budget = Duration::ZERO;
        } else {
            self.budget /= 2;
        }
    }

    /// The core has nothing to do at `now`: whether it should look again instead of sleeping.
    /// `taken` counts how often the kernel has taken the CPU from this thread; it is asked for at
    /// the beginning and the end of a spin.
    pub(super) fn should_spin(&mut self, now: Instant, taken: impl Fn() -> u64) -> bool {
        let Some((began, taken_before)) = self.began else {
            let is_contended = self.contended_until.is_some_and(|until| now < until);
            if self.idle_since.is_some() || self.budget.is_zero() || is_contended {
                self.idle_since.get_or_insert(now);
                return false;
            }
            self.began = Some((now, taken()));
            return true;
        };
        if now.saturating_duration_since(began) < self.budget {
            return true;
        }
        self.spun += now.saturating_duration_since(began);
        self.began = None;
        self.idle_since = Some(began);
        if taken() > taken_before {
            self.budget = Duration::ZERO;
            self.contended_until = Some(now + CONTENDED_FOR);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_micros(50);

    /// Sleeps and is woken after `pause`; then has something to do.
    fn sleep(spin: &mut Spin, now: &mut Instant, pause: Duration) -> Duration {
        let began = *now;
        while spin.should_spin(*now, || 0) {
            *now += Duration::from_micros(1);
            if *now - began >= pause {
                break;
            }
        }
        let spun = *now - began;
        *now = (*now).max(began + pause);
        spin.found_work(*now);
        spun
    }

    #[test]
    fn a_core_spins_while_that_pays_and_never_when_idle() {
        let (mut spin, mut now) = (Spin::new(MAX), Instant::now());
        for _ in 0..100 {
            let idle = sleep(&mut spin, &mut now, Duration::from_millis(1));
            assert_eq!(idle, Duration::ZERO);
        }
        let pause = Duration::from_micros(20);
        for _ in 0..10 {
            sleep(&mut spin, &mut now, pause);
        }
        assert_eq!(
            sleep(&mut spin, &mut now, pause),
            pause,
            "it meets the work"
        );
        // As soon as work comes seldom it spins less and less.
        let for_nothing: Duration = (0..10)
            .map(|_| sleep(&mut spin, &mut now, Duration::from_millis(1)))
            .sum();
        assert!(
            for_nothing <= 2 * MAX + Duration::from_micros(10),
            "{for_nothing:?}"
        );
        let idle = sleep(&mut spin, &mut now, Duration::from_millis(1));
        assert_eq!(idle, Duration::ZERO);
    }

    #[test]
    fn no_spin_is_longer_than_allowed() {
        let (mut spin, mut now) = (Spin::new(MAX), Instant::now());
        for _ in 0..50 {
            let spun = sleep(&mut spin, &mut now, Duration::from_micros(49));
            assert!(spun <= MAX, "{spun:?}");
        }
        let mut never = Spin::new(Duration::ZERO);
        for _ in 0..50 {
            assert_eq!(sleep(&mut never, &mut now, SPIN_MIN / 2), Duration::ZERO);
        }
    }

    #[test]
    fn a_core_whose_cpu_others_want_does_not_spin_for_a_while() {
        let (mut spin, mut now) = (Spin::new(MAX), Instant::now());
        for _ in 0..10 {
            sleep(&mut spin, &mut now, Duration::from_micros(20));
        }
        assert!(spin.should_spin(now, || 0));
        now += 2 * MAX;
        assert!(!spin.should_spin(now, || 1), "the CPU was taken away");
        for _ in 0..10 {
            spin.found_work(now);
            now += Duration::from_micros(20);
            assert!(!spin.should_spin(now, || 1));
        }
        now += CONTENDED_FOR;
        spin.found_work(now);
        assert!(spin.should_spin(now, || 1));
    }
}
