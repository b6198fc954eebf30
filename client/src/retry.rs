//! When a call is repeated: where that is safe, within its deadline, and within a budget.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{Error, Outcome};

/// Waiting times that double, each of them random between nothing and its most ("full jitter"),
/// so that those who failed together do not come back together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Backoff {
        Backoff {
            first,
            max,
            tries: 0,
        }
    }

    /// How long to wait this time.
    pub(crate) fn next(&mut self) -> Duration {
        let most = self.most();
        self.tries = self.tries.saturating_add(1);
        // Without random numbers it waits for as long as it may.
        let random = getrandom::u32().unwrap_or(u32::MAX);
        most.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    fn most(&self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.tries);
        self.first.saturating_mul(doubled).min(self.max)
    }
}

/// Retries of one call wait between these two.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// How many retries all calls of a client may make together: a bucket of tokens, one a retry.
///
/// It bounds what a client adds to the load of a server that is in trouble. Every call that succeeds
/// fills it by a tenth of a token, every second by [`RetryBudget::per_second`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// The most tokens it holds, and what it begins with; 500. 0 turns retries off.
    pub tokens_max: u32,
    /// Tokens that come back each second; 10.
    pub per_second: u32,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        RetryBudget {
            tokens_max: 500,
            per_second: 10,
        }
    }
}

/// Tokens that come back with each call that succeeds.
const PER_SUCCESS: f64 = 0.1;

#[derive(Debug)]
pub(crate) struct Bucket {
    budget: RetryBudget,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn new(budget: RetryBudget, now: Instant) -> Bucket {
        Bucket {
            budget,
            level: Mutex::new(Level {
                tokens: f64::from(budget.tokens_max),
                at: now,
            }),
        }
    }

    pub(crate) fn succeeded(&self, now: Instant) {
        self.update(now, |tokens| *tokens += PER_SUCCESS);
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&self, now: Instant) -> bool {
        self.update(now, |tokens| {
            let enough = *tokens >= 1.0;
            if enough {
                *tokens -= 1.0;
            }
            enough
        })
    }

    fn update<T>(&self, now: Instant, act: impl FnOnce(&mut f64) -> T) -> T {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(level.at).as_secs_f64();
        level.at = level.at.max(now);
        let most = f64::from(self.budget.tokens_max);
        level.tokens = (level.tokens + passed * f64::from(self.budget.per_second)).min(most);
        let result = act(&mut level.tokens);
        level.tokens = level.tokens.min(most);
        result
    }
}

/// What came of a call, and whether an earlier try of it may have been done.
#[derive(Debug)]
pub(crate) struct Tried<T> {
    pub(crate) result: Result<T, Error>,
    pub(crate) unknown: bool,
}

/// Tries a call until it succeeds, is refused for good, or there is no time or budget left.
///
/// It has to be one that may be repeated although it may have been done, as every call of this
/// client may: an enqueue has a request id, a settlement its token, and a lease whose grant was
/// lost is undone, or expires.
pub(crate) async fn retry<T, F>(
    bucket: &Bucket,
    deadline: Instant,
    mut attempt: impl FnMut() -> F,
) -> Tried<T>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut unknown = false;
    loop {
        let error = match attempt().await {
            Ok(value) => {
                bucket.succeeded(Instant::now());
                let result = Ok(value);
                return Tried { result, unknown };
            }
            Err(error) => error,
        };
        let open = error.outcome() == Outcome::Unknown;
        let pause = backoff.next();
        let now = Instant::now();
        if !error.is_transient() || now + pause >= deadline || !bucket.take(now) {
            let result = Err(error.after_unknown(unknown));
            return Tried { result, unknown };
        }
        unknown |= open;
        tracing::debug!(%error, ?pause, "retrying");
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn bucket(tokens_max: u32) -> Bucket {
        let budget = RetryBudget {
            tokens_max,
            per_second: 0,
        };
        Bucket::new(budget, Instant::now())
    }

    #[test]
    fn a_bucket_is_emptied_by_retries_and_filled_by_time_and_success() {
        let start = Instant::now();
        let bucket = Bucket::new(
            RetryBudget {
                tokens_max: 2,
                per_second: 10,
            },
            start,
        );
        assert!(bucket.take(start) && bucket.take(start) && !bucket.take(start));
        assert!(!bucket.take(start + Duration::from_millis(50)));
        assert!(bucket.take(start + Duration::from_millis(101)));
        for _ in 0..11 {
            bucket.succeeded(start + Duration::from_millis(101));
        }
        assert!(bucket.take(start + Duration::from_millis(101)));
        // Never more than it holds.
        let later = start + Duration::from_secs(3_600);
        assert!(bucket.take(later) && bucket.take(later) && !bucket.take(later));
    }

    #[test]
    fn pauses_double_up_to_their_most_and_are_random_below() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(70));
        let mut most = Vec::new();
        for _ in 0..5 {
            most.push(backoff.most().as_millis());
            assert!(backoff.most() >= backoff.next() || most.len() > 4);
        }
        assert_eq!(most, [10, 20, 40, 70, 70]);
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(
            pauses
                .iter()
                .all(|pause| *pause <= Duration::from_millis(70))
        );
        assert!(pauses.iter().any(|pause| *pause != pauses[0]));
    }

    async fn tries(bucket: &Bucket, error: Error, ttl_ms: u64) -> (u32, Error) {
        let count = Cell::new(0);
        let deadline = Instant::now() + Duration::from_millis(ttl_ms);
        let tried = retry(bucket, deadline, || {
            count.set(count.get() + 1);
            let error = error.clone();
            async move { Err::<(), _>(error) }
        })
        .await;
        (count.get(), tried.result.unwrap_err())
    }

    #[tokio::test]
    async fn retries_end_with_the_budget() {
        let error = Error::connection("refused", false);
        let (count, error) = tries(&bucket(3), error, 60_000).await;
        assert!((4..=6).contains(&count), "{count}");
        assert_eq!(error.outcome(), Outcome::NotDone);
        let error = Error::connection("refused", false);
        assert_eq!(tries(&bucket(0), error, 60_000).await.0, 1);
    }

    #[tokio::test]
    async fn retries_end_with_the_deadline() {
        let error = Error::connection("refused", false);
        let started = Instant::now();
        let (count, _) = tries(&bucket(1_000), error, 120).await;
        assert!(count > 1);
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_refusal_is_not_repeated_and_what_is_not_known_stays_so() {
        let (count, error) = tries(&bucket(1), Error::connection("reset", true), 60_000).await;
        assert!(count > 1);
        assert_eq!(error.outcome(), Outcome::Unknown);
        let refused = Error::from(omnirelay_net::rpc::Error::body_malformed("no"));
        assert_eq!(tries(&bucket(9), refused, 60_000).await.0, 1);
    }
}
