//! Lines on their way to stderr: whoever logs puts them into a bounded queue without locks, and a
//! thread of its own writes them, so that a stderr which takes nothing holds up nobody else.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

/// Lines that wait to be written.
const WAITING_LINES_MAX: usize = 8_192;
/// Bytes of these lines. A usual line about a call has some 400.
const WAITING_BYTES_MAX: u64 = 4 << 20;
/// How often one that waits for lines to be written looks whether they are.
const LOOK_EVERY: Duration = Duration::from_millis(1);

thread_local! {
    /// This is the thread that writes. Nothing is dropped with it, so that lines can be logged
    /// until the very end of a thread.
    static WRITES: Cell<bool> = const { Cell::new(false) };
    /// What that thread has to say itself.
    static OWN: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The queue and the thread that empties it, which lives as long as the process.
#[derive(Debug)]
pub(super) struct Lines {
    shared: Arc<Shared>,
    thread: Thread,
}

#[derive(Debug)]
struct Shared {
    waiting: ArrayQueue<Box<[u8]>>,
    waiting_bytes: AtomicU64,
    /// Lines that found room.
    accepted: AtomicU64,
    /// Of those, lines that are done with.
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Lines {
    /// Starts to write to `out` what is pushed. `tell` logs that so many lines are missing; it is
    /// called on the thread that writes, behind the lines that came before the gap.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(super) fn start(
        out: impl Write + Send + 'static,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Lines> {
        let shared = Arc::new(Shared {
            waiting: ArrayQueue::new(WAITING_LINES_MAX),
            waiting_bytes: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            written: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let writer = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("logging".into())
            .spawn(move || writer.write_to(out, tell))?;
        Ok(Lines {
            shared,
            thread: thread.thread().clone(),
        })
    }

    /// Takes a line, or drops and counts it where there is no room.
    pub(super) fn push(&self, line: &[u8]) {
        if !self.offer(line) {
            self.shared.count_dropped();
        }
    }

    /// Takes a line that should not be missing, and waits for room. Not for a core.
    pub(super) fn push_within(&self, patience: Duration, line: &[u8]) {
        if !wait_within(patience, || self.offer(line)) {
            self.shared.count_dropped();
        }
    }

    /// Waits until all is written that was pushed before.
    pub(super) fn flush_within(&self, patience: Duration) {
        if WRITES.get() {
            return;
        }
        let accepted = self.shared.accepted.load(Ordering::Acquire);
        wait_within(patience, || {
            self.shared.written.load(Ordering::Acquire) >= accepted
        });
    }

    /// Lines that were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// False if there is no room.
    fn offer(&self, line: &[u8]) -> bool {
        if WRITES.get() {
            OWN.with_borrow_mut(|own| own.extend_from_slice(line));
            return true;
        }
        let has_room = self.shared.offer(line);
        // Costs a system call only if the thread sleeps.
        self.thread.unpark();
        has_room
    }
}

/// Whether something came true in time.
fn wait_within(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(LOOK_EVERY);
    }
}

impl Shared {
    fn offer(&self, line: &[u8]) -> bool {
        let bytes = line.len() as u64;
        let before = self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        let has_room =
            before + bytes <= WAITING_BYTES_MAX && self.waiting.push(line.into()).is_ok();
        if has_room {
            self.accepted.fetch_add(1, Ordering::Release);
        } else {
            self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        has_room
    }

    fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn write_to(&self, mut out: impl Write, tell: impl Fn(u64)) {
        WRITES.set(true);
        let (mut told, mut since_look) = (0, 0);
        loop {
            let line = self.waiting.pop();
            // Whatever waited at the last look has been written by then.
            if line.is_none() || since_look > WAITING_LINES_MAX {
                since_look = 0;
                self.tell_dropped(&mut out, &tell, &mut told);
            }
            let Some(line) = line else {
                // What was written to may have used up the wake-up of a line that came meanwhile.
                if self.waiting.is_empty() {
                    thread::park();
                }
                continue;
            };
            self.waiting_bytes
                .fetch_sub(line.len() as u64, Ordering::Relaxed);
            if out.write_all(&line).is_err() {
                self.count_dropped();
            }
            self.written.fetch_add(1, Ordering::Release);
            since_look += 1;
        }
    }

    /// Says how many lines are missing, unless that has been said.
    fn tell_dropped(&self, out: &mut impl Write, tell: &impl Fn(u64), told: &mut u64) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped == *told {
            return;
        }
        tell(dropped - *told);
        if out.write_all(&OWN.take()).is_ok() {
            *told = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError, mpsc};

    use super::*;

    const BOUND: Duration = Duration::from_secs(30);

    /// Takes a line whenever it is let, and keeps it.
    #[derive(Clone)]
    struct Slow {
        let_through: Arc<Mutex<mpsc::Receiver<io::Result<()>>>>,
        kept: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let gate = self
                .let_through
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // Once nobody holds it up any more, all passes.
            gate.recv().unwrap_or(Ok(()))?;
            self.kept.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Slow {
        fn new() -> (Slow, mpsc::SyncSender<io::Result<()>>) {
            let (gate, let_through) = mpsc::sync_channel(0);
            let slow = Slow {
                let_through: Arc::new(Mutex::new(let_through)),
                kept: Arc::default(),
            };
            (slow, gate)
        }

        fn kept(&self) -> String {
            String::from_utf8(self.kept.lock().unwrap().clone()).unwrap()
        }
    }

    /// Lines that say of themselves what is missing.
    fn start(out: &Slow) -> Arc<Lines> {
        let (give, take) = mpsc::channel::<Arc<Lines>>();
        let lines: Mutex<Option<Arc<Lines>>> = Mutex::new(None);
        let tell = move |missing| {
            let mut lines = lines.lock().unwrap();
            let lines = lines.get_or_insert_with(|| take.recv().unwrap());
            lines.push(format!("{missing} missing\n").as_bytes());
        };
        let lines = Arc::new(Lines::start(out.clone(), tell).unwrap());
        give.send(Arc::clone(&lines)).unwrap();
        lines
    }

    fn wait_for(what: impl Fn() -> bool) {
        assert!(wait_within(BOUND, what), "waited too long");
    }

    #[test]
    fn lines_are_written_in_order_and_a_flush_waits_for_them() {
        let (out, gate) = Slow::new();
        drop(gate);
        let lines = start(&out);
        for number in 0..1_000 {
            lines.push(format!("{number}\n").as_bytes());
        }
        lines.flush_within(BOUND);
        let expected: String = (0..1_000).map(|number| format!("{number}\n")).collect();
        assert_eq!((out.kept(), lines.dropped()), (expected, 0));
    }

    #[test]
    fn a_gap_is_told_where_it_is_and_what_comes_behind_it_is_written() {
        let (out, gate) = Slow::new();
        let lines = start(&out);
        lines.push(b"in the hands of the thread\n");
        wait_for(|| lines.shared.waiting.is_empty());
        for _ in 0..WAITING_LINES_MAX {
            lines.push(b"waits\n");
        }
        for _ in 0..3 {
            lines.push(b"dropped\n");
        }
        assert_eq!(lines.dropped(), 3);
        drop(gate);
        wait_for(|| out.kept().ends_with("\n3 missing\n"));
        assert_eq!(out.kept().matches("waits").count(), WAITING_LINES_MAX);
        assert!(!out.kept().contains("dropped"));
        lines.push(b"behind\n");
        lines.flush_within(BOUND);
        assert!(out.kept().ends_with("3 missing\nbehind\n"));
    }

    #[test]
    fn long_lines_are_bounded_by_their_bytes() {
        let (out, _gate) = Slow::new();
        let lines = start(&out);
        lines.push(b"in the hands of the thread\n");
        wait_for(|| lines.shared.waiting_bytes.load(Ordering::Relaxed) == 0);
        let long = vec![b'x'; 1 << 20];
        for _ in 0..5 {
            lines.push(&long);
        }
        assert_eq!((lines.shared.waiting.len(), lines.dropped()), (4, 1));
    }

    #[test]
    fn patience_with_lines_that_nobody_takes_has_an_end() {
        let (out, gate) = Slow::new();
        let lines = start(&out);
        lines.push(b"in the hands of the thread\n");
        wait_for(|| lines.shared.waiting.is_empty());
        for _ in 0..WAITING_LINES_MAX {
            lines.push(b"waits\n");
        }
        lines.flush_within(Duration::from_millis(20));
        lines.push_within(Duration::from_millis(20), b"given up\n");
        assert_eq!(lines.dropped(), 1);
        gate.send(Ok(())).unwrap();
        lines.push_within(BOUND, b"the last\n");
        drop(gate);
        lines.flush_within(BOUND);
        assert!(out.kept().contains("the last\n") && !out.kept().contains("given up"));
    }

    #[test]
    fn lines_that_cannot_be_written_count_as_dropped_until_that_can_be_said() {
        let (out, gate) = Slow::new();
        let lines = start(&out);
        let refuse = || gate.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        lines.push(b"lost\n");
        refuse();
        // That it is missing cannot be said either.
        refuse();
        lines.push(b"lost too\n");
        refuse();
        drop(gate);
        wait_for(|| out.kept().ends_with("2 missing\n"));
        assert_eq!(out.kept(), "2 missing\n");
    }
}
