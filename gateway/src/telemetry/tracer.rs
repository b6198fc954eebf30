//! Which calls are recorded.

use std::cell::RefCell;
use std::sync::Arc;

use omnirelay_net::rpc::TraceContext;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::span::Span;
use super::spans::Spans;
use crate::config::Sampling;

/// Where spans go and which are made, for all cores.
#[derive(Debug)]
pub struct Tracing {
    /// Where spans go.
    pub spans: Arc<Spans>,
    /// Which are made.
    pub sampling: Sampling,
}

/// Decides for one core which calls are recorded, and takes their spans.
#[derive(Debug)]
pub struct Tracer {
    spans: Arc<Spans>,
    follows_caller: bool,
    /// Traces whose ids, taken as numbers, are below it are recorded.
    threshold: u64,
    random: RefCell<SmallRng>,
}

impl Tracer {
    /// A tracer whose ids follow from `seed`.
    pub fn new(tracing: &Tracing, seed: [u8; 32]) -> Tracer {
        Tracer {
            spans: Arc::clone(&tracing.spans),
            follows_caller: tracing.sampling.follows_caller,
            threshold: threshold(tracing.sampling.ratio),
            random: RefCell::new(SmallRng::from_seed(seed)),
        }
    }

    /// A tracer whose ids are its own.
    ///
    /// # Panics
    /// If the system gives no random numbers.
    pub fn seeded(tracing: &Tracing) -> Tracer {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).expect("the system gives random numbers");
        Tracer::new(tracing, seed)
    }

    /// The span of a call that came with such a context, if the call is to be recorded.
    pub fn begin(&self, caller: Option<TraceContext>) -> Option<TraceContext> {
        let mut random = self.random.borrow_mut();
        let mut context = match caller {
            Some(caller) if self.follows_caller && !caller.is_sampled() => return None,
            Some(caller) => caller,
            None if self.threshold == 0 => return None,
            None => TraceContext {
                trace_id: non_zero(|| random.random()),
                span_id: [0; 8],
                flags: TraceContext::RANDOM,
            },
        };
        let is_followed = self.follows_caller && caller.is_some();
        if !is_followed && !self.takes(&context) {
            return None;
        }
        context.span_id = non_zero(|| random.random());
        context.flags |= TraceContext::SAMPLED;
        Some(context)
    }

    /// As OpenTelemetry's `TraceIdRatioBased` decides, so that all who use the same ratio agree.
    fn takes(&self, context: &TraceContext) -> bool {
        let low = context.trace_id[8..].try_into().expect("eight bytes");
        u64::from_be_bytes(low) >> 1 < self.threshold
    }

    /// Takes the span of a call that has ended.
    pub fn end(&self, span: Box<Span>) {
        self.spans.push(span);
    }
}

fn non_zero<const N: usize>(mut draw: impl FnMut() -> [u8; N]) -> [u8; N] {
    loop {
        let id = draw();
        if id != [0; N] {
            return id;
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 0 to 2^63"
)]
fn threshold(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracer(follows_caller: bool, ratio: f64) -> Tracer {
        let tracing = Tracing {
            spans: Arc::default(),
            sampling: Sampling {
                follows_caller,
                ratio,
            },
        };
        Tracer::new(&tracing, [7; 32])
    }

    fn caller(flags: u8) -> TraceContext {
        TraceContext {
            trace_id: [3; 16],
            span_id: [4; 8],
            flags,
        }
    }

    #[test]
    fn a_call_is_recorded_as_its_caller_is() {
        for ratio in [0.0, 1.0] {
            let tracer = tracer(true, ratio);
            let span = tracer.begin(Some(caller(1))).expect("it is recorded");
            assert_eq!((span.trace_id, span.flags), ([3; 16], 1));
            assert_ne!(span.span_id, [4; 8]);
            assert_eq!(tracer.begin(Some(caller(0))), None);
        }
    }

    #[test]
    fn a_ratio_alone_goes_by_the_trace_whatever_its_caller_does() {
        assert!(tracer(false, 1.0).begin(Some(caller(0))).is_some());
        assert!(tracer(false, 0.0).begin(Some(caller(1))).is_none());
    }

    #[test]
    fn a_share_of_the_calls_without_a_trace_are_recorded() {
        let none = tracer(true, 0.0);
        assert!((0..1_000).all(|_| none.begin(None).is_none()));
        let all = tracer(true, 1.0);
        assert!((0..1_000).all(|_| all.begin(None).is_some_and(|span| span.is_sampled())));
        let tenth = tracer(true, 0.1);
        let taken = (0..10_000).filter(|_| tenth.begin(None).is_some()).count();
        assert!((800..1_200).contains(&taken), "{taken}");
    }
}
