//! What hyper needs from a runtime: an executor and a timer.

use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::rt;

use super::executor::spawn;
use super::timers::{Sleep, sleep_until};

/// Spawns hyper's tasks on the core they are made on.
#[derive(Clone, Copy, Debug, Default)]
pub struct LocalExecutor;

impl<F> rt::Executor<F> for LocalExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        spawn(future);
    }
}

/// hyper's timer, on the core's clock and timers.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreTimer;

impl rt::Sleep for Sleep {}

impl rt::Timer for CoreTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn rt::Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn rt::Sleep>> {
        Box::pin(sleep_until(deadline))
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn rt::Sleep>>, deadline: Instant) {
        match sleep.as_mut().downcast_mut_pin::<Sleep>() {
            Some(sleep) => sleep.get_mut().reset(deadline),
            None => *sleep = self.sleep_until(deadline),
        }
    }
}
