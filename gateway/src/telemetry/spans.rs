//! Recorded spans on their way from the cores to whoever sends them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_queue::ArrayQueue;

use super::span::Span;

/// Spans that wait to be sent. With names of ordinary length some 4 MB; at the very most, every
/// name as long as it may be, 30 MB.
const WAITING_MAX: usize = 8_192;

/// A bounded queue without locks, and what became of what went into it.
#[derive(Debug)]
pub struct Spans {
    waiting: ArrayQueue<Box<Span>>,
    dropped: AtomicU64,
    sent: AtomicU64,
    failures: AtomicU64,
}

impl Default for Spans {
    fn default() -> Spans {
        Spans::with_room(WAITING_MAX)
    }
}

impl Spans {
    /// An empty queue for so many.
    pub fn with_room(spans: usize) -> Spans {
        Spans {
            waiting: ArrayQueue::new(spans),
            dropped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        }
    }

    /// Puts a span in, or drops and counts it where there is no room.
    pub fn push(&self, span: Box<Span>) {
        if self.waiting.push(span).is_err() {
            self.count_dropped(1);
        }
    }

    /// Takes the oldest out.
    pub fn pop(&self) -> Option<Box<Span>> {
        self.waiting.pop()
    }

    /// Notes that spans were given up.
    pub fn count_dropped(&self, spans: u64) {
        self.dropped.fetch_add(spans, Relaxed);
    }

    /// Notes that a collector has taken spans.
    pub fn count_sent(&self, spans: u64) {
        self.sent.fetch_add(spans, Relaxed);
    }

    /// Notes that a collector did not take what was sent.
    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// Spans that were given up.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Spans that a collector has taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Requests, of spans or metrics, that a collector did not take.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use omnirelay_net::rpc::{Code, TraceContext};
    use omnirelay_queue::Nanos;

    use super::*;
    use crate::cores::Transport;

    fn span(number: u64) -> Box<Span> {
        Box::new(Span {
            context: TraceContext {
                trace_id: [1; 16],
                span_id: [1; 8],
                flags: 1,
            },
            parent: None,
            trace_state: None,
            started: Nanos(number),
            ended: Nanos(number),
            handed: None,
            dispatched: None,
            transport: Transport::Http,
            peer: ([127, 0, 0, 1], 1).into(),
            routed: None,
            namespace: None,
            said: None,
            request_id: None,
            shard: None,
            code: Code::Ok,
            error_code: None,
        })
    }

    #[test]
    fn a_full_queue_drops_what_comes_and_counts_it() {
        let spans = Spans::with_room(2);
        for number in 0..5 {
            spans.push(span(number));
        }
        assert_eq!(spans.dropped(), 3);
        let kept: Vec<_> = std::iter::from_fn(|| spans.pop()).collect();
        assert_eq!(kept.iter().map(|s| s.started.0).collect::<Vec<_>>(), [0, 1]);
        spans.push(span(9));
        assert_eq!((spans.dropped(), spans.pop().is_some()), (3, true));
    }
}
