//! Replies that can be undone, until the client has acknowledged them.
//!
//! What is given to QUIC is held by it until the last byte has been acknowledged, to be sent again
//! if it gets lost. So each such reply's bytes have an owner that is dropped with them, and whoever
//! shares something with the owner can tell.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::StreamId;

/// What undoes a reply that its client never got.
pub(super) type Undo = Box<dyn FnOnce()>;

/// Tells whether the bytes it was made with are still held by anyone.
#[derive(Debug)]
pub(super) struct Trace(Arc<()>);

impl Trace {
    /// A trace of these bytes, and the bytes that leave it.
    pub(super) fn of(bytes: Bytes) -> (Trace, Bytes) {
        let held = Arc::new(());
        let owner = Traced {
            bytes,
            _held: Arc::clone(&held),
        };
        (Trace(held), Bytes::from_owner(owner))
    }

    fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

struct Traced {
    bytes: Bytes,
    _held: Arc<()>,
}

impl AsRef<[u8]> for Traced {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A reply that QUIC has taken.
struct Delivery {
    stream: StreamId,
    trace: Trace,
    undo: Undo,
}

/// Those of a connection that were not acknowledged when last looked at.
#[derive(Default)]
pub(super) struct Deliveries {
    waiting: VecDeque<Delivery>,
    /// Acknowledgements that the connection had received when there was last any progress, and
    /// when that was.
    progress: Option<(u64, Instant)>,
}

impl Deliveries {
    /// QUIC has taken a reply to its last byte.
    pub(super) fn push(&mut self, stream: StreamId, trace: Trace, undo: Undo) {
        if self.waiting.len() == self.waiting.capacity() {
            // Instead of more room: one that is lost on its way holds up those behind it.
            self.settle();
        }
        self.waiting.push_back(Delivery {
            stream,
            trace,
            undo,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets those at the front that have been acknowledged. Costs a look where there are none.
    pub(super) fn settle_front(&mut self) {
        while let Some(first) = self.waiting.front()
            && !first.trace.is_held()
        {
            self.waiting.pop_front();
        }
        if self.waiting.is_empty() {
            self.progress = None;
        }
    }

    /// Forgets all that have been acknowledged.
    fn settle(&mut self) {
        self.waiting.retain(|delivery| delivery.trace.is_held());
    }

    /// Whether replies have waited for `time` without any acknowledgement, of which the connection
    /// has received `acks`. To be asked now and then.
    pub(super) fn are_overdue(&mut self, now: Instant, acks: u64, time: Duration) -> bool {
        self.settle();
        if self.waiting.is_empty() {
            self.progress = None;
            return false;
        }
        match self.progress {
            Some((before, since)) if before == acks => now.saturating_duration_since(since) >= time,
            _ => {
                self.progress = Some((acks, now));
                false
            }
        }
    }

    /// The stream is given up: what is not acknowledged will not be. To be called while QUIC still
    /// has the stream's bytes.
    pub(super) fn undo_stream(&mut self, stream: StreamId) {
        if self.waiting.is_empty() {
            return;
        }
        self.settle();
        for delivery in std::mem::take(&mut self.waiting) {
            if delivery.stream == stream {
                (delivery.undo)();
            } else {
                self.waiting.push_back(delivery);
            }
        }
    }

    /// The connection is gone: what is not acknowledged will not be. To be called while QUIC still
    /// has the connection's bytes.
    pub(super) fn undo_all(&mut self) {
        self.settle();
        for delivery in self.waiting.drain(..) {
            (delivery.undo)();
        }
    }
}

impl fmt::Debug for Deliveries {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Deliveries")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use quinn_proto::{Dir, Side};

    use super::*;

    const TIME: Duration = Duration::from_secs(10);

    /// Replies with their numbers, on streams of the same numbers; what QUIC holds of them, and the
    /// numbers of those that have been undone.
    fn deliveries(of: &[u64]) -> (Deliveries, Vec<Bytes>, Rc<RefCell<Vec<u64>>>) {
        let undone = Rc::new(RefCell::new(Vec::new()));
        let mut deliveries = Deliveries::default();
        let mut held = Vec::new();
        for number in of {
            let (trace, bytes) = Trace::of(Bytes::from_static(b"reply"));
            let (number, log) = (*number, Rc::clone(&undone));
            held.push(bytes);
            let undo = Box::new(move || log.borrow_mut().push(number));
            deliveries.push(StreamId::new(Side::Client, Dir::Bi, number), trace, undo);
        }
        (deliveries, held, undone)
    }

    #[test]
    fn what_is_still_held_when_its_stream_is_given_up_is_undone() {
        let (mut deliveries, mut held, undone) = deliveries(&[1, 2, 1, 3]);
        // The first is acknowledged, and a part of the last.
        held.remove(0);
        let _acknowledged = held[2].split_to(3);
        let stream = |number| StreamId::new(Side::Client, Dir::Bi, number);
        deliveries.undo_stream(stream(1));
        assert_eq!(*undone.borrow(), [1]);
        held.remove(0);
        deliveries.undo_stream(stream(2));
        assert_eq!(*undone.borrow(), [1], "it was acknowledged");
        deliveries.undo_all();
        assert_eq!(*undone.borrow(), [1, 3]);
        assert!(deliveries.is_empty());
    }

    #[test]
    fn acknowledgements_in_any_order_are_seen() {
        let (mut deliveries, mut held, undone) = deliveries(&[1, 2, 3]);
        held.remove(1);
        deliveries.settle_front();
        assert_eq!(deliveries.waiting.len(), 3, "only a look at the first");
        held.remove(0);
        deliveries.settle_front();
        assert_eq!(deliveries.waiting.len(), 1);
        held.clear();
        deliveries.undo_all();
        assert!(undone.borrow().is_empty());
    }

    #[test]
    fn only_silence_makes_replies_overdue() {
        let start = Instant::now();
        let (mut deliveries, mut held, _) = deliveries(&[1, 2]);
        let mut overdue =
            |after: f64, acks| deliveries.are_overdue(start + TIME.mul_f64(after), acks, TIME);
        assert!(!overdue(0.0, 5));
        assert!(!overdue(0.9, 5));
        assert!(!overdue(1.8, 6), "something has come");
        assert!(!overdue(2.7, 6));
        assert!(overdue(2.8, 6));
        held.clear();
        assert!(!overdue(9.0, 6), "all was acknowledged");
    }
}
