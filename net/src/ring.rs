//! A bounded single-producer single-consumer ring, for messages between cores.
//!
//! Neither side waits: a full ring gives the element back, an empty one gives
//! nothing. Each side keeps its last sight of the other's position, so that the
//! positions' cache lines cross cores only when the ring looks full or empty.

#[cfg(not(loom))]
use std::cell::UnsafeCell;
use std::fmt;
use std::mem::MaybeUninit;
#[cfg(not(loom))]
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_utils::CachePadded;
#[cfg(loom)]
use loom::{
    cell::UnsafeCell,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
};

/// The most elements a ring may be made for: 16 Mi.
pub const RING_CAPACITY_MAX: usize = 1 << 24;

/// Positions count elements since the ring was made and wrap around at
/// `usize::MAX`; the slot is the position modulo the capacity, a power of two.
struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Elements taken. Written by the consumer.
    head: CachePadded<AtomicUsize>,
    /// Elements put in. Written by the producer.
    tail: CachePadded<AtomicUsize>,
}

// SAFETY: a slot is touched by the producer alone while it is outside
// `head..tail` and by the consumer alone while it is inside; elements move from
// one thread to the other, so they must be Send.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; dropping it elsewhere drops the elements there.
unsafe impl<T: Send> Send for Shared<T> {}

/// The end that puts elements in.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    /// The consumer's position, as last seen.
    head_seen: usize,
}

/// The end that takes elements out.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    /// The producer's position, as last seen.
    tail_seen: usize,
}

/// Makes a ring for at least `capacity` elements, rounded up to a power of two.
///
/// # Panics
///
/// If `capacity` is 0 or above [`RING_CAPACITY_MAX`].
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(
        (1..=RING_CAPACITY_MAX).contains(&capacity),
        "a ring holds 1 to {RING_CAPACITY_MAX} elements, not {capacity}"
    );
    let slots = (0..capacity.next_power_of_two()).map(|_| UnsafeCell::new(MaybeUninit::uninit()));
    let shared = Arc::new(Shared {
        slots: slots.collect(),
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
    });
    let producer = Producer {
        shared: Arc::clone(&shared),
        tail: 0,
        head_seen: 0,
    };
    let consumer = Consumer {
        shared,
        head: 0,
        tail_seen: 0,
    };
    (producer, consumer)
}

impl<T> Shared<T> {
    fn slot(&self, position: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[position & (self.slots.len() - 1)]
    }

    /// The slot's memory, for whichever side owns it.
    #[cfg(not(loom))]
    fn with_slot<R>(&self, position: usize, f: impl FnOnce(*mut MaybeUninit<T>) -> R) -> R {
        f(self.slot(position).get())
    }

    #[cfg(loom)]
    fn with_slot<R>(&self, position: usize, f: impl FnOnce(*mut MaybeUninit<T>) -> R) -> R {
        self.slot(position).with_mut(f)
    }
}

impl<T> Producer<T> {
    /// Puts `element` in.
    ///
    /// # Errors
    ///
    /// Gives it back if the ring is full.
    pub fn push(&mut self, element: T) -> Result<(), T> {
        let capacity = self.shared.slots.len();
        if self.tail.wrapping_sub(self.head_seen) == capacity {
            self.head_seen = self.shared.head.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == capacity {
                return Err(element);
            }
        }
        self.shared.with_slot(self.tail, |slot| {
            // SAFETY: `tail` is outside `head..tail`, so the slot is ours; the
            // consumer is done with it, as the Acquire load of its head showed.
            unsafe { (*slot).write(element) };
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.store(self.tail, Ordering::Release);
        Ok(())
    }

    /// Elements in the ring; fewer by the time the caller looks.
    pub fn len(&self) -> usize {
        self.tail
            .wrapping_sub(self.shared.head.load(Ordering::Acquire))
    }

    /// True if the ring was empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most elements the ring holds.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }
}

impl<T> Consumer<T> {
    /// Takes the oldest element out, if there is one.
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        let element = self.shared.with_slot(self.head, |slot| {
            // SAFETY: `head` is inside `head..tail`, so the slot is ours and
            // initialised, as the Acquire load of the producer's tail showed;
            // it is read once, because `head` moves on.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        self.shared.head.store(self.head, Ordering::Release);
        Some(element)
    }

    /// Elements in the ring; more by the time the caller looks.
    pub fn len(&self) -> usize {
        self.shared
            .tail
            .load(Ordering::Acquire)
            .wrapping_sub(self.head)
    }

    /// True if the ring was empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most elements the ring holds.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both ends are gone, so nothing else moves the positions.
        let mut position = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        while position != tail {
            self.with_slot(position, |slot| {
                // SAFETY: inside `head..tail`, so initialised, and dropped once.
                unsafe { (*slot).assume_init_drop() };
            });
            position = position.wrapping_add(1);
        }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn elements_come_out_in_order_across_threads() {
        const ELEMENTS: u64 = 200_000;
        let (mut producer, mut consumer) = ring(64);
        let pushing = std::thread::spawn(move || {
            for mut element in 0..ELEMENTS {
                while let Err(back) = producer.push(element) {
                    element = back;
                    std::thread::yield_now();
                }
            }
        });
        for expected in 0..ELEMENTS {
            let element = loop {
                match consumer.pop() {
                    Some(element) => break element,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(element, expected);
        }
        pushing.join().expect("the producer does not panic");
        assert!(consumer.is_empty());
    }

    #[test]
    fn a_full_ring_gives_the_element_back() {
        let (mut producer, mut consumer) = ring(3);
        assert_eq!(producer.capacity(), 4);
        for element in 0..4 {
            assert_eq!(producer.push(element), Ok(()));
        }
        assert_eq!(producer.push(4), Err(4));
        assert_eq!((producer.len(), consumer.len()), (4, 4));
        assert_eq!(consumer.pop(), Some(0));
        assert_eq!(producer.push(4), Ok(()));
        assert_eq!(
            std::iter::from_fn(|| consumer.pop()).collect::<Vec<_>>(),
            [1, 2, 3, 4]
        );
        assert_eq!(consumer.pop(), None);
    }

    #[test]
    fn what_is_left_in_a_ring_is_dropped_with_it() {
        struct Counted(#[expect(dead_code, reason = "held for its count")] std::sync::Arc<()>);
        let live = std::sync::Arc::new(());
        let (mut producer, mut consumer) = ring(8);
        for _ in 0..6 {
            assert!(producer.push(Counted(std::sync::Arc::clone(&live))).is_ok());
        }
        drop(consumer.pop());
        drop(producer);
        drop(consumer);
        assert_eq!(std::sync::Arc::strong_count(&live), 1);
    }

    #[test]
    #[should_panic(expected = "a ring holds 1 to")]
    fn a_ring_for_nothing_is_refused() {
        let _ = ring::<u8>(0);
    }
}
