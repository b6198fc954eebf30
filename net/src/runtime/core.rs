//! Running a core: which CPU, which driver, from start to end.

use std::io;
use std::time::Duration;

#[cfg(feature = "glommio")]
use super::driver::GlommioDriver;
use super::driver::{Driver, DriverChoice, DriverKind, EpollDriver, IoUringDriver};
use super::executor::{Core, CoreGuard, DriveError, drive};

/// How long [`run`] waits for a core's tasks to end after its main future has.
pub const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// How to run a core.
#[derive(Clone, Debug)]
pub struct CoreOptions {
    /// The CPU this thread is pinned to; `None` leaves it to the kernel.
    pub cpu: Option<usize>,
    /// The driver.
    pub driver: DriverChoice,
    /// How long tasks may go on after the main future has ended.
    pub drain_max: Duration,
    /// How long the core may look for work before it sleeps, while that pays; zero is never.
    pub spin_max: Duration,
}

impl Default for CoreOptions {
    fn default() -> Self {
        Self {
            cpu: None,
            driver: DriverChoice::Auto,
            drain_max: DRAIN_TIME_MAX,
            spin_max: Duration::ZERO,
        }
    }
}

/// Makes this thread a core and runs the future that `main` returns, told which
/// driver it got, and every task spawned meanwhile.
///
/// Returns when the main future has ended and every task too. So a main future
/// ends its tasks, or waits for them, before it ends.
///
/// # Errors
///
/// - The CPU does not exist or may not be used, or the driver could not be
///   built ([`io::ErrorKind::Unsupported`] if io_uring is required and missing):
///   `main` was not called.
/// - [`io::ErrorKind::TimedOut`]: tasks were left after
///   [`CoreOptions::drain_max`]. They will not run again; those that waited for
///   a socket or another thread are leaked, with what they hold.
///
/// # Panics
///
/// If this thread runs a core already. If the main future or a task panics,
/// with its panic.
pub fn run<F, Fut>(options: CoreOptions, main: F) -> io::Result<Fut::Output>
where
    F: FnOnce(DriverKind) -> Fut,
    Fut: Future,
{
    if let Some(cpu) = options.cpu {
        pin_thread(cpu)?;
    }
    match options.driver {
        DriverChoice::IoUring => run_on(IoUringDriver::build()?, &options, main),
        DriverChoice::Epoll => run_on(EpollDriver::build()?, &options, main),
        DriverChoice::Auto => match IoUringDriver::build() {
            Ok(driver) => run_on(driver, &options, main),
            Err(error) => {
                tracing::debug!(%error, "no io_uring, using epoll");
                run_on(EpollDriver::build()?, &options, main)
            }
        },
        #[cfg(feature = "glommio")]
        DriverChoice::Glommio => run_on(GlommioDriver::build()?, &options, main),
    }
}

fn run_on<D, F, Fut>(driver: D, options: &CoreOptions, main: F) -> io::Result<Fut::Output>
where
    D: Driver,
    F: FnOnce(DriverKind) -> Fut,
    Fut: Future,
{
    let core = Core::enter(D::KIND, options.spin_max)?;
    run_core(driver, core, options, || main(D::KIND))
}

/// Takes the driver and the core by value, in this order: the driver is
/// dropped after the core, so that tasks are dropped while it still stands. No
/// operation is in flight with memory that the kernel could write to, so that is
/// sound with tasks left, or in a panic, too.
fn run_core<D, F, Fut>(
    mut driver: D,
    core: CoreGuard,
    options: &CoreOptions,
    main: F,
) -> io::Result<Fut::Output>
where
    D: Driver,
    F: FnOnce() -> Fut,
    Fut: Future,
{
    let end = driver.block_on(async {
        // Inside the driver's context, so that `main` itself may open sockets.
        drive(core.core(), main(), options.drain_max).await
    });
    match end {
        Ok(output) => Ok(output),
        Err(DriveError::Driver(error)) => Err(error),
        Err(DriveError::TasksLeft(tasks)) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("{tasks} tasks of a core were left after it was told to end"),
        )),
    }
}

fn pin_thread(cpu: usize) -> io::Result<()> {
    let refused = |error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("cannot pin a core to CPU {cpu}: {error}"),
        )
    };
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(refused(io::ErrorKind::InvalidInput.into()));
    }
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is within the set, as checked above.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is valid for its size; 0 names this thread.
    let status = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    match status {
        0 => Ok(()),
        _ => Err(refused(io::Error::last_os_error())),
    }
}
