//! Whose fault a slow call is.

use std::time::{Duration, Instant};

/// From when to when something did not come forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

impl Span {
    pub(crate) fn length(&self) -> Duration {
        self.ended.saturating_duration_since(self.began)
    }
}

/// Spans in order, none touching another.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cover(Vec<Span>);

impl Cover {
    /// Where stalls may have held up calls: from `slack` before each, because a probe does not
    /// begin just when a stall does, until as long behind it as it lasted, because the calls that
    /// queued up meanwhile are worked off then, beside new ones.
    pub(crate) fn of_stalls(stalls: &[Span], slack: Duration) -> Self {
        let widened = stalls.iter().map(|stall| Span {
            began: stall.began.checked_sub(slack).unwrap_or(stall.began),
            ended: stall.ended + stall.length(),
        });
        Self::default().and(widened)
    }

    /// With more spans.
    pub(crate) fn and(&self, more: impl IntoIterator<Item = Span>) -> Self {
        let mut spans = self.0.clone();
        spans.extend(more);
        spans.sort_by_key(|span| span.began);
        let mut cover: Vec<Span> = Vec::with_capacity(spans.len());
        for span in spans {
            match cover.last_mut() {
                Some(last) if span.began <= last.ended => last.ended = last.ended.max(span.ended),
                _ => cover.push(span),
            }
        }
        Self(cover)
    }

    pub(crate) fn spans(&self) -> impl Iterator<Item = Span> {
        self.0.iter().copied()
    }

    /// How much of a call is covered.
    pub(crate) fn within(&self, call: Span) -> Duration {
        let first = self.0.partition_point(|span| span.ended <= call.began);
        self.0[first..]
            .iter()
            .take_while(|span| span.began < call.ended)
            .map(|span| {
                let ended = span.ended.min(call.ended);
                ended.saturating_duration_since(span.began.max(call.began))
            })
            .sum()
    }

    /// Whether a call would not have been slow without what is covered.
    pub(crate) fn explains(&self, call: Span, slow: Duration) -> bool {
        call.length().saturating_sub(self.within(call)) <= slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn spans(start: Instant, spans: &[(u64, u64)]) -> Vec<Span> {
        let span = |&(began, ended)| Span {
            began: start + ms(began),
            ended: start + ms(ended),
        };
        spans.iter().map(span).collect()
    }

    #[test]
    fn a_call_is_covered_by_the_stalls_it_overlaps_and_once_by_each_moment() {
        let start = Instant::now() + ms(1_000);
        let cover = Cover::default().and(spans(start, &[(30, 40), (10, 20), (15, 25)]));
        let within = |began, ended| cover.within(spans(start, &[(began, ended)])[0]);
        assert_eq!(within(0, 100), ms(25));
        assert_eq!(within(12, 32), ms(15));
        assert_eq!(within(25, 30), ms(0));
        assert_eq!(within(40, 90), ms(0));
    }

    #[test]
    fn a_stall_explains_calls_that_are_not_much_longer_and_those_queued_behind_it() {
        let start = Instant::now() + ms(1_000);
        let cover = Cover::of_stalls(&spans(start, &[(100, 150)]), ms(2));
        let explains = |began, ended| cover.explains(spans(start, &[(began, ended)])[0], ms(20));
        assert!(explains(95, 155));
        assert!(explains(150, 180), "worked off behind the stall");
        assert!(!explains(0, 155), "slow before it too");
        assert!(!explains(205, 230), "long after it");
    }
}
