//! The cores' reports, asked for once for all who want them at the same moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cores::CoreReport;

/// One for each core, `None` for a core that did not answer.
pub(super) type CoreReports = Arc<[Option<CoreReport>]>;

/// Reports this old still answer a scrape, so that many scrapers cost the cores no more than one
/// and no scrape shows what is noticeably past.
const AGE_MAX: Duration = Duration::from_millis(100);

/// The newest reports. Whoever comes while they are being asked for waits for those.
#[derive(Debug)]
pub(super) struct ReportCache {
    age_max: Duration,
    newest: Mutex<Option<(Instant, CoreReports)>>,
}

impl Default for ReportCache {
    fn default() -> ReportCache {
        ReportCache {
            age_max: AGE_MAX,
            newest: Mutex::new(None),
        }
    }
}

impl ReportCache {
    /// The newest reports, or those that `ask` brings if they are too old, and when they came. A
    /// caller that goes away while it asks leaves the asking to the next.
    pub(super) async fn get(
        &self,
        ask: impl Future<Output = Vec<Option<CoreReport>>>,
    ) -> (Instant, CoreReports) {
        let mut newest = self.newest.lock().await;
        if let Some((at, reports)) = newest.as_ref()
            && at.elapsed() < self.age_max
        {
            return (*at, Arc::clone(reports));
        }
        let reports = CoreReports::from(ask.await);
        let at = Instant::now();
        *newest = Some((at, Arc::clone(&reports)));
        (at, reports)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::admin::fixture;

    async fn ask(times: &Cell<u32>) -> Vec<Option<CoreReport>> {
        times.set(times.get() + 1);
        tokio::task::yield_now().await;
        fixture::reports().to_vec()
    }

    #[tokio::test]
    async fn scrapes_at_the_same_moment_ask_the_cores_once() {
        let (cache, times) = (
            ReportCache {
                age_max: Duration::from_secs(3_600),
                newest: Mutex::new(None),
            },
            Cell::new(0),
        );
        let ((at, a), (same_at, b)) = tokio::join!(cache.get(ask(&times)), cache.get(ask(&times)));
        assert!(Arc::ptr_eq(&a, &b) && at == same_at);
        assert_eq!(times.get(), 1);
    }

    #[tokio::test]
    async fn old_reports_are_not_shown_again() {
        let (cache, times) = (
            ReportCache {
                age_max: Duration::ZERO,
                newest: Mutex::new(None),
            },
            Cell::new(0),
        );
        cache.get(ask(&times)).await;
        cache.get(ask(&times)).await;
        assert_eq!(times.get(), 2);
    }

    #[tokio::test]
    async fn a_scraper_that_goes_away_does_not_hold_up_the_next() {
        let (cache, times) = (ReportCache::default(), Cell::new(0));
        let gone = tokio::time::timeout(Duration::ZERO, cache.get(std::future::pending())).await;
        assert!(gone.is_err());
        assert_eq!(cache.get(ask(&times)).await.1.len(), 2);
    }
}
