//! The per-core runtime: one thread, one run queue, one driver (io_uring or epoll).
//!
//! Everything that runs on a core is spawned, timed and woken through this
//! module, never through the runtime below it. Below is monoio, or in a build
//! with the feature `glommio` that one where it is asked for; either is a driver
//! only. monoio's own task queue puts a task that wakes itself in front of all
//! others, looks at timers only when no task is left to run, and arms its
//! readiness poller only then. So a core keeps its own run queue and works in
//! *turns*: poll the driver, fire the timers that are due, run a bounded batch
//! of tasks, and go round. If work is left at the end of a batch the core rings
//! its own bell before it polls the driver, so that the poll returns at once
//! with whatever else is ready.
//!
//! What follows from that, whatever the tasks do and on every driver:
//!
//! - A task that wakes itself runs again in the next turn, after a driver poll.
//! - Tasks that wake each other share a batch of at most [`TURN_POLLS_MAX`]
//!   polls and about [`TURN_TIME_MAX`].
//! - A [`TcpStream`] that always has data is read [`READS_PER_TURN_MAX`] times
//!   a turn.
//! - Timers and sockets are looked at once a turn.
//!
//! A core without work sleeps in the driver. Where that pays it looks for more for a while before
//! it does ([`CoreOptions::spin_max`]).
//!
//! No operation is ever in flight with a buffer the kernel could write to:
//! sockets are read when they are ready, so a future may be dropped at any
//! moment.

mod bell;
mod bind;
mod core;
mod driver;
mod executor;
mod hyper;
mod notifier;
mod readiness;
mod sleep_flag;
mod spin;
mod stats;
mod tcp;
mod timers;

pub use self::bind::{bind_cores, bind_exclusive, bind_reuse_port, bind_udp_cores};
pub use self::core::{CoreOptions, DRAIN_TIME_MAX, run};
pub use self::driver::{DriverChoice, DriverKind, io_uring_available};
pub use self::executor::{
    TURN_POLLS_MAX, TURN_TIME_MAX, driver_turn, spawn, tasks_live, turn_started, yield_to_driver,
};
pub use self::hyper::{CoreTimer, LocalExecutor};
pub use self::notifier::{Notifier, NotifierListener};
pub use self::readiness::Readiness;
pub use self::stats::{CoreStats, LONG_TURN, core_stats};
pub use self::tcp::{READS_PER_TURN_MAX, TcpListener, TcpStream};
pub use self::timers::{Elapsed, Sleep, sleep, sleep_until, timeout, timeout_at};
