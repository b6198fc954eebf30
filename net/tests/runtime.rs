//! The per-core runtime: fairness, timers, wake-ups and endings, on both drivers.
#![cfg(all(feature = "node", not(loom)))]

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as StdStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use hyper::rt::ReadBuf;
use omnirelay_net::runtime::{
    self, CoreOptions, DriverChoice, DriverKind, Elapsed, Notifier, READS_PER_TURN_MAX, Readiness,
    TURN_POLLS_MAX, TcpListener, TcpStream, bind_cores, bind_exclusive, bind_reuse_port,
    driver_turn, sleep, sleep_until, spawn, timeout, yield_to_driver,
};

/// Far longer than anything here takes, so that a hang fails instead of hanging.
const BOUND: Duration = Duration::from_secs(20);

/// Runs `test` on a core of each driver that this machine allows.
fn on_each_driver<F, Fut>(test: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = ()>,
{
    for driver in DriverChoice::available() {
        let options = CoreOptions {
            driver,
            ..CoreOptions::default()
        };
        let ended = runtime::run(options, |_| timeout(BOUND, test()));
        assert_eq!(ended.expect("the core runs"), Ok(()), "on {driver:?}");
    }
}

/// Resolves once `done` is set, at the core's leisure.
async fn until(done: &Cell<bool>) {
    while !done.get() {
        sleep(Duration::from_millis(1)).await;
    }
}

/// A task that wakes itself until told to stop, counting its polls.
fn spawn_busy(stop: &Rc<Cell<bool>>) -> Rc<Cell<u64>> {
    let polls = Rc::new(Cell::new(0));
    let (stop, counted) = (Rc::clone(stop), Rc::clone(&polls));
    spawn(poll_fn(move |cx| {
        counted.set(counted.get() + 1);
        if stop.get() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }));
    polls
}

/// Two tasks that wake each other until told to stop, neither ever itself.
fn spawn_ping_pong(stop: &Rc<Cell<bool>>) -> Rc<Cell<u64>> {
    let polls = Rc::new(Cell::new(0));
    let wakers: Rc<[RefCell<Option<Waker>>; 2]> = Rc::default();
    for side in 0..2 {
        let (stop, polls, wakers) = (Rc::clone(stop), Rc::clone(&polls), Rc::clone(&wakers));
        spawn(poll_fn(move |cx| {
            polls.set(polls.get() + 1);
            *wakers[side].borrow_mut() = Some(cx.waker().clone());
            let other = wakers[1 - side].borrow_mut().take();
            if let Some(other) = other {
                other.wake();
            }
            if stop.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }));
    }
    polls
}

/// A connected pair: one end on this core, the other for a plain thread.
fn connected() -> (TcpStream, StdStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let theirs = StdStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (TcpStream::from_std(ours).unwrap(), theirs)
}

async fn read_some(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    let mut buffer = ReadBuf::new(bytes);
    poll_fn(|cx| hyper::rt::Read::poll_read(Pin::new(&mut *stream), cx, buffer.unfilled())).await?;
    Ok(buffer.filled().len())
}

#[test]
fn a_task_that_wakes_itself_does_not_hold_up_timers() {
    on_each_driver(|| async {
        let stop = Rc::new(Cell::new(false));
        let polls = spawn_busy(&stop);
        let before = Instant::now();
        sleep(Duration::from_millis(20)).await;
        let late = before.elapsed() - Duration::from_millis(20);
        assert!(late < Duration::from_secs(1), "{late:?} late");
        assert!(polls.get() > 10);
        stop.set(true);
    });
}

#[test]
fn a_task_that_wakes_itself_does_not_hold_up_other_tasks() {
    on_each_driver(|| async {
        let stop = Rc::new(Cell::new(false));
        spawn_busy(&stop);
        let done = Rc::new(Cell::new(false));
        let set = Rc::clone(&done);
        spawn(async move {
            for _ in 0..100 {
                yield_to_driver().await;
            }
            set.set(true);
        });
        until(&done).await;
        stop.set(true);
    });
}

#[test]
fn a_task_that_wakes_itself_runs_once_a_turn() {
    on_each_driver(|| async {
        let stop = Rc::new(Cell::new(false));
        let polls = spawn_busy(&stop);
        yield_to_driver().await;
        let (turn, before) = (driver_turn(), polls.get());
        for _ in 0..50 {
            yield_to_driver().await;
        }
        let (turns, polls) = (driver_turn() - turn, polls.get() - before);
        assert!(polls.abs_diff(turns) <= 1, "{polls} polls in {turns} turns");
        stop.set(true);
    });
}

#[test]
fn a_task_that_wakes_itself_does_not_hold_up_sockets() {
    on_each_driver(|| async {
        let stop = Rc::new(Cell::new(false));
        spawn_busy(&stop);
        ten_round_trips().await;
        stop.set(true);
    });
}

#[test]
fn tasks_that_wake_each_other_do_not_hold_up_timers_or_sockets() {
    on_each_driver(|| async {
        let stop = Rc::new(Cell::new(false));
        let polls = spawn_ping_pong(&stop);
        sleep(Duration::from_millis(20)).await;
        ten_round_trips().await;
        let (turn, before) = (driver_turn(), polls.get());
        for _ in 0..20 {
            yield_to_driver().await;
        }
        let (turns, polls) = (driver_turn() - turn, polls.get() - before);
        assert!(polls <= (turns + 1) * TURN_POLLS_MAX as u64);
        assert!(polls > turns, "a turn is worth more than one poll");
        stop.set(true);
    });
}

/// Needs the driver at each step: the other thread answers only what it gets.
async fn ten_round_trips() {
    let (mut ours, mut theirs) = connected();
    let echo = thread::spawn(move || {
        let mut byte = [0];
        for _ in 0..10 {
            theirs.read_exact(&mut byte).unwrap();
            theirs.write_all(&byte).unwrap();
        }
    });
    for sent in 0..10_u8 {
        let write = poll_fn(|cx| hyper::rt::Write::poll_write(Pin::new(&mut ours), cx, &[sent]));
        assert_eq!(write.await.unwrap(), 1);
        let mut byte = [0];
        assert_eq!(read_some(&mut ours, &mut byte).await.unwrap(), 1);
        assert_eq!(byte, [sent]);
    }
    echo.join().unwrap();
}

/// Sends as fast as it can until told to stop.
fn flood(mut stream: StdStream, stop: Arc<AtomicBool>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let bytes = [7; 64 * 1024];
        while !stop.load(Ordering::Relaxed) && stream.write_all(&bytes).is_ok() {}
    })
}

#[test]
fn a_socket_that_always_has_data_is_read_so_often_a_turn() {
    on_each_driver(|| async {
        let (mut ours, theirs) = connected();
        let stop_flood = Arc::new(AtomicBool::new(false));
        let flooding = flood(theirs, Arc::clone(&stop_flood));
        let most = Rc::new(Cell::new(0));
        let stop = Rc::new(Cell::new(false));
        let (seen, stopped) = (Rc::clone(&most), Rc::clone(&stop));
        // One byte a read: the flood is always ahead, so that only the budget
        // ever makes this task wait.
        spawn(async move {
            let (mut turn, mut reads) = (0, 0);
            while !stopped.get() {
                assert_eq!(read_some(&mut ours, &mut [0]).await.unwrap(), 1);
                if turn != driver_turn() {
                    (turn, reads) = (driver_turn(), 0);
                }
                reads += 1;
                seen.set(reads.max(seen.get()));
            }
        });
        sleep(Duration::from_millis(50)).await;
        ten_round_trips().await;
        stop.set(true);
        stop_flood.store(true, Ordering::Relaxed);
        assert_eq!(most.get(), READS_PER_TURN_MAX);
        while runtime::tasks_live() > 0 {
            yield_to_driver().await;
        }
        flooding.join().unwrap();
    });
}

#[test]
fn timers_fire_in_order_and_not_early() {
    on_each_driver(|| async {
        let fired = Rc::new(RefCell::new(Vec::new()));
        let start = Instant::now();
        for millis in [30, 10, 20, 10] {
            let fired = Rc::clone(&fired);
            spawn(async move {
                sleep_until(start + Duration::from_millis(millis)).await;
                assert!(start.elapsed() >= Duration::from_millis(millis));
                fired.borrow_mut().push(millis);
            });
        }
        while runtime::tasks_live() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(*fired.borrow(), [10, 10, 20, 30]);
    });
}

#[test]
fn a_timeout_drops_what_it_bounds() {
    on_each_driver(|| async {
        let never = std::future::pending::<()>();
        let bounded = timeout(Duration::from_millis(5), never).await;
        assert_eq!(bounded, Err(Elapsed));
        let bounded = timeout(BOUND, async { 7 }).await;
        assert_eq!(bounded, Ok(7));
    });
}

#[test]
fn a_notifier_wakes_a_sleeping_core() {
    on_each_driver(|| async {
        let (notifier, mut listener) = Notifier::pair();
        let (back, rounds) = mpsc::channel();
        let counter = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&counter);
        let notifying = thread::spawn(move || {
            for _ in 0..500 {
                counted.fetch_add(1, Ordering::Relaxed);
                notifier.notify();
                rounds.recv_timeout(BOUND).unwrap();
            }
        });
        for round in 1..=500 {
            listener.notified().await;
            assert_eq!(counter.load(Ordering::Relaxed), round);
            back.send(()).unwrap();
        }
        notifying.join().unwrap();
        assert!(!listener.take());
    });
}

#[test]
fn a_notification_from_before_the_listener_is_not_lost() {
    on_each_driver(|| async {
        let (notifier, mut listener) = Notifier::pair();
        notifier.clone().notify();
        notifier.notify();
        listener.notified().await;
        assert!(!listener.take(), "two notifications became one");
    });
}

#[test]
fn a_waker_works_from_another_thread() {
    on_each_driver(|| async {
        let (send, wakers) = mpsc::channel::<Waker>();
        let waking = thread::spawn(move || wakers.iter().for_each(Waker::wake));
        let task_rounds = Rc::new(Cell::new(0));
        for _ in 0..2 {
            // Once as a spawned task, once as the main future.
            let (send, rounds) = (send.clone(), Rc::clone(&task_rounds));
            let wait = poll_fn(move |cx| {
                rounds.set(rounds.get() + 1);
                if rounds.get() % 100 == 0 {
                    return Poll::Ready(());
                }
                send.send(cx.waker().clone()).unwrap();
                Poll::Pending
            });
            if task_rounds.get() == 0 {
                spawn(wait);
                until_at_least(&task_rounds, 100).await;
            } else {
                wait.await;
            }
        }
        drop(send);
        waking.join().unwrap();
    });
}

async fn until_at_least(count: &Cell<u32>, least: u32) {
    while count.get() < least {
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_descriptor_is_waited_for() {
    on_each_driver(|| async {
        let (reader, mut writer) = io::pipe().unwrap();
        let ready = Readiness::new(reader.try_clone().unwrap()).unwrap();
        let early = timeout(Duration::from_millis(5), ready.readable()).await;
        assert!(early.is_err());
        writer.write_all(b"x").unwrap();
        ready.readable().await.unwrap();
        ready.readable().await.unwrap();
        let mut reader = reader;
        reader.read_exact(&mut [0]).unwrap();
        assert!(
            timeout(Duration::from_millis(5), ready.readable())
                .await
                .is_err()
        );
        let room = Readiness::new(writer).unwrap();
        room.writable().await.unwrap();
    });
}

#[test]
fn a_core_waits_for_its_tasks() {
    let done = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&done);
    let options = CoreOptions::default();
    runtime::run(options, |_| async move {
        spawn(async move {
            sleep(Duration::from_millis(20)).await;
            set.store(true, Ordering::Relaxed);
        });
    })
    .unwrap();
    assert!(done.load(Ordering::Relaxed));
}

#[test]
fn a_core_whose_tasks_do_not_end_says_so() {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let options = CoreOptions {
            driver,
            drain_max: Duration::from_millis(20),
            ..CoreOptions::default()
        };
        let dropped = Rc::new(());
        let held = Rc::clone(&dropped);
        let ended = runtime::run(options, |_| async {
            spawn(async move {
                sleep(BOUND).await;
                drop(held);
            });
            let (mut ours, theirs) = connected();
            spawn(async move {
                let _ = read_some(&mut ours, &mut [0]).await;
                drop(theirs);
            });
        });
        let error = ended.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().starts_with("2 tasks"), "{error}");
        assert_eq!(Rc::strong_count(&dropped), 1, "a task asleep was dropped");
    }
}

#[test]
fn a_panic_of_a_task_ends_its_core() {
    for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
        let options = CoreOptions {
            driver,
            ..CoreOptions::default()
        };
        let run = || {
            runtime::run(options, |_| async {
                spawn(async { panic!("broken invariant") });
                std::future::pending::<()>().await;
            })
        };
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
        assert_eq!(*panic.downcast::<&str>().unwrap(), "broken invariant");
        // The thread can be a core again.
        runtime::run(CoreOptions::default(), |_| async {}).unwrap();
    }
}

#[test]
fn a_core_is_pinned_to_its_cpu() {
    let options = CoreOptions {
        cpu: Some(0),
        driver: DriverChoice::Epoll,
        ..CoreOptions::default()
    };
    let kind = runtime::run(options, |kind| async move { kind }).unwrap();
    assert_eq!(kind, DriverKind::Epoll);
    assert_eq!(kind.to_string(), "epoll");
    let options = CoreOptions {
        cpu: Some(100_000),
        ..CoreOptions::default()
    };
    let refused = runtime::run(options, |_| async {}).unwrap_err();
    assert!(refused.to_string().contains("CPU 100000"), "{refused}");
}

#[test]
fn a_port_is_bound_for_each_core_and_for_nobody_else() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let (addr, listeners) = bind_cores(any, 3).unwrap();
    assert_ne!(addr.port(), 0);
    assert_eq!(listeners.len(), 3);
    for n in [1, 3] {
        let refused = bind_cores(addr, n).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let says = refused.to_string();
        assert!(
            says.contains(&addr.to_string()) && says.contains("uses it"),
            "{says}"
        );
    }
    // Once gone it is free at once, also with connections still lingering.
    drop(StdStream::connect(addr).unwrap());
    drop(listeners);
    let (again, _listeners) = bind_cores(addr, 2).unwrap();
    assert_eq!(again, addr);
}

#[test]
fn a_port_shared_by_others_is_refused() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let other = bind_reuse_port(any).unwrap();
    let addr = other.local_addr().unwrap();
    assert_eq!(
        bind_cores(addr, 2).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
    assert_eq!(
        bind_exclusive(addr).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
    // One core alone does not open its port to anybody.
    let (addr, _listener) = bind_cores(any, 1).unwrap();
    assert_eq!(
        bind_reuse_port(addr).unwrap_err().kind(),
        io::ErrorKind::AddrInUse
    );
}

#[test]
fn connections_spread_over_the_cores_of_a_port() {
    let (addr, listeners) = bind_cores("127.0.0.1:0".parse().unwrap(), 4).unwrap();
    let _clients: Vec<_> = (0..200)
        .map(|_| StdStream::connect(addr).unwrap())
        .collect();
    let accepted: Vec<usize> = listeners
        .iter()
        .map(|listener| std::iter::from_fn(|| listener.accept().ok()).count())
        .collect();
    assert_eq!(accepted.iter().sum::<usize>(), 200);
    assert!(accepted.iter().all(|&n| n > 10), "{accepted:?}");
}

#[test]
fn a_listener_accepts_on_a_core() {
    on_each_driver(|| async {
        let (addr, mut listeners) = bind_cores("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let listener = TcpListener::from_std(listeners.pop().unwrap()).unwrap();
        assert!(
            timeout(Duration::from_millis(5), listener.accept())
                .await
                .is_err()
        );
        let client = thread::spawn(move || {
            let mut stream = StdStream::connect(addr).unwrap();
            stream.write_all(b"hi").unwrap();
            stream.local_addr().unwrap()
        });
        let mut stream = listener.accept().await.unwrap();
        let mut bytes = [0; 8];
        assert_eq!(read_some(&mut stream, &mut bytes).await.unwrap(), 2);
        assert_eq!(stream.peer_addr(), client.join().unwrap());
        assert_eq!(read_some(&mut stream, &mut bytes).await.unwrap(), 0);
    });
}

#[test]
fn a_core_says_what_it_has_done_and_a_long_turn_is_noticed() {
    on_each_driver(|| async {
        let before = runtime::core_stats();
        sleep(Duration::from_millis(20)).await;
        let rested = runtime::core_stats();
        assert!(rested.turns > before.turns);
        assert!(rested.sleeps > before.sleeps);
        assert_eq!(rested.long_turns, before.long_turns);
        let began = Instant::now();
        while began.elapsed() < runtime::LONG_TURN {
            std::hint::black_box(());
        }
        yield_to_driver().await;
        let busy = runtime::core_stats();
        assert_eq!(busy.long_turns, rested.long_turns + 1);
        assert!(busy.awake - rested.awake >= runtime::LONG_TURN);
        assert!(busy.cpu > rested.cpu);
        assert_eq!(busy.tasks, runtime::tasks_live());
        assert_eq!(busy.spun, Duration::ZERO, "it may not spin");
    });
}

#[test]
fn a_core_that_may_spin_does_so_while_it_is_given_work_and_not_when_idle() {
    const PINGS: usize = 2_000;
    for driver in DriverChoice::available() {
        let options = CoreOptions {
            driver,
            spin_max: Duration::from_millis(2),
            ..CoreOptions::default()
        };
        let ended = runtime::run(options, |_| {
            timeout(BOUND, async {
                let (ping, pings) = mpsc::channel::<()>();
                let (pong, mut pongs) = Notifier::pair();
                let partner = thread::spawn(move || {
                    while pings.recv().is_ok() {
                        pong.notify();
                    }
                });
                // Where others want the CPU it gives that up for a while.
                while runtime::core_stats().spun.is_zero() {
                    for _ in 0..PINGS {
                        ping.send(()).expect("the partner listens");
                        pongs.notified().await;
                    }
                }
                drop(ping);
                partner.join().expect("the partner does not panic");
                // The budget is used up in a few sleeps, and then there is none.
                for _ in 0..20 {
                    sleep(Duration::from_millis(4)).await;
                }
                let calm = runtime::core_stats();
                for _ in 0..20 {
                    sleep(Duration::from_millis(4)).await;
                }
                let idle = runtime::core_stats();
                assert_eq!(idle.spun, calm.spun, "{idle:?}");
            })
        });
        assert_eq!(ended.expect("the core runs"), Ok(()), "on {driver:?}");
    }
}
