//! How often the client library tried again, counted from what it says while it does.

use std::sync::atomic::{AtomicU64, Ordering};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

static RETRIES: AtomicU64 = AtomicU64::new(0);
static RECONNECTS: AtomicU64 = AtomicU64::new(0);

/// So far, of the whole process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tries {
    /// Frames that were sent again; one may have many calls.
    pub(crate) retries: u64,
    pub(crate) reconnects: u64,
}

impl Tries {
    pub(crate) fn so_far() -> Tries {
        Tries {
            retries: RETRIES.load(Ordering::Relaxed),
            reconnects: RECONNECTS.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn since(self, before: Tries) -> Tries {
        Tries {
            retries: self.retries - before.retries,
            reconnects: self.reconnects - before.reconnects,
        }
    }
}

/// Begins to count. Once a process.
pub(crate) fn count() {
    tracing::subscriber::set_global_default(Counting).expect("nobody else listens here");
}

struct Counting;

fn counter(metadata: &Metadata<'_>) -> Option<&'static AtomicU64> {
    match metadata.target() {
        "omnirelay_client::retry" => Some(&RETRIES),
        // Tries that fail are said too, in more detail.
        "omnirelay_client::connection::supervisor" => {
            (*metadata.level() == Level::INFO).then_some(&RECONNECTS)
        }
        _ => None,
    }
}

impl Subscriber for Counting {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && counter(metadata).is_some()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        if let Some(counter) = counter(event.metadata()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
