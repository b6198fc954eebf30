//! A log as the stream reads it: from its files, up to what is durable, without its core.

use std::sync::{Mutex, PoisonError};

use omnirelay_wal::{Disk, LogView, Position, Reader};

/// A log that a node writes while it is read here.
#[derive(Debug)]
pub struct CommittedLog<D: Disk> {
    view: LogView<D>,
    /// Knows how far the log is durable. Locked for moments, and never by a core.
    reader: Mutex<Reader<D>>,
}

impl<D: Disk> CommittedLog<D> {
    /// The log of this number on this disk; `reader` is one of those that it was opened with.
    pub fn new(disk: D, log: u16, reader: Reader<D>) -> CommittedLog<D> {
        CommittedLog {
            view: LogView::open(disk, log),
            reader: Mutex::new(reader),
        }
    }

    /// Looks at its files.
    pub(super) fn view(&self) -> &LogView<D> {
        &self.view
    }

    /// Up to where it is durable, and may be shown: there may be something new once it changes.
    pub fn end(&self) -> Position {
        self.reader().end()
    }

    /// A reader of single places, for one thread.
    pub(super) fn places(&self) -> Reader<D> {
        self.reader().clone()
    }

    fn reader(&self) -> std::sync::MutexGuard<'_, Reader<D>> {
        // Whoever panicked had only looked.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
