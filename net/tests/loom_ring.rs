//! Models of what crosses threads without a lock, checked over every
//! interleaving: the ring, and the way a sleeping core is woken.
//!
//! Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p omnirelay-net --release --test loom_ring`,
//! without the feature `node`.
#![cfg(loom)]
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the sources are included, not linked"
)]

#[path = "../src/ring.rs"]
mod ring;
#[path = "../src/runtime/sleep_flag.rs"]
mod sleep_flag;

use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use ring::ring;
use sleep_flag::{Raised, SleepFlag};

#[test]
fn the_ring_loses_nothing_and_keeps_order() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring(2);
        let pushing = thread::spawn(move || {
            let mut refused = Vec::new();
            for element in 0..4_usize {
                if producer.push(element).is_err() {
                    refused.push(element);
                }
            }
            refused
        });
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.extend(consumer.pop());
        }
        let refused = pushing.join().unwrap();
        seen.extend(std::iter::from_fn(|| consumer.pop()));
        assert!(seen.is_sorted());
        let mut all: Vec<_> = seen.into_iter().chain(refused).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
    });
}

#[test]
fn the_ring_drops_each_element_once() {
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    loom::model(|| {
        let dropped = Arc::new(AtomicUsize::new(0));
        let (mut producer, mut consumer) = ring(2);
        let counter = Arc::clone(&dropped);
        let pushing = thread::spawn(move || {
            for _ in 0..3 {
                let _ = producer.push(Counted(Arc::clone(&counter)));
            }
        });
        drop(consumer.pop());
        drop(consumer);
        pushing.join().unwrap();
        assert_eq!(dropped.load(Ordering::Relaxed), 3);
    });
}

/// The eventfd of the model: a core that sleeps although it was raised makes
/// the model deadlock, which loom reports.
struct Bell {
    sleep: SleepFlag,
    rings: Mutex<usize>,
    rung: Condvar,
}

impl Bell {
    fn new() -> Self {
        Self {
            sleep: SleepFlag::new(),
            rings: Mutex::new(0),
            rung: Condvar::new(),
        }
    }

    fn ring_if_asleep(&self) {
        if self.sleep.must_ring() {
            *self.rings.lock().unwrap() += 1;
            self.rung.notify_one();
        }
    }

    fn wait(&self) {
        let mut rings = self.rings.lock().unwrap();
        while *rings == 0 {
            rings = self.rung.wait(rings).unwrap();
        }
        *rings = 0;
    }
}

/// Every interleaving with up to three switches between threads that neither
/// asked for: without that bound these take minutes, and with it each fence that
/// is taken out is noticed.
fn bounded_model() -> loom::model::Builder {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model
}

#[test]
fn no_wake_up_is_lost() {
    const PRODUCERS: usize = 2;
    bounded_model().check(|| {
        let bell = Arc::new(Bell::new());
        let raised = Arc::new(Raised::new());
        let work = Arc::new(AtomicUsize::new(0));
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|_| {
                let (bell, raised, work) = (bell.clone(), raised.clone(), work.clone());
                thread::spawn(move || {
                    work.fetch_add(1, Ordering::Relaxed);
                    if raised.raise() {
                        bell.ring_if_asleep();
                    }
                })
            })
            .collect();
        loop {
            bell.sleep.awake();
            if raised.take() && work.load(Ordering::Relaxed) == PRODUCERS {
                break;
            }
            bell.sleep.prepare();
            if !raised.is_raised() {
                bell.wait();
            }
        }
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn no_element_sits_in_the_ring_of_a_sleeping_core() {
    bounded_model().check(|| {
        let bell = Arc::new(Bell::new());
        let raised = Arc::new(Raised::new());
        let (mut producer, mut consumer) = ring(2);
        let pushing = {
            let (bell, raised) = (bell.clone(), raised.clone());
            thread::spawn(move || {
                for element in 0..2_usize {
                    producer.push(element).unwrap();
                    if raised.raise() {
                        bell.ring_if_asleep();
                    }
                }
            })
        };
        let mut seen = Vec::new();
        while seen.len() < 2 {
            bell.sleep.awake();
            if raised.take() {
                seen.extend(std::iter::from_fn(|| consumer.pop()));
                continue;
            }
            bell.sleep.prepare();
            if !raised.is_raised() {
                bell.wait();
            }
        }
        assert_eq!(seen, [0, 1]);
        pushing.join().unwrap();
    });
}
