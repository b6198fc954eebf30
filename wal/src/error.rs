//! What can go wrong with a log, in words its operator can act on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::format::FORMAT_VERSION;

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The options contradict the bounds. Nothing was touched.
    #[error("the log's options are invalid: {0}")]
    Options(String),

    /// The disk refused. What was recovered so far is as it was.
    #[error("cannot {doing} {}: {source}{}", path.display(), advice(source))]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },

    /// A segment was written by a newer build. Nothing was changed.
    #[error(
        "{} has log format {found}, this build reads up to {supported}; nothing was changed: \
         run the newer build that wrote it, or restore a backup made before the upgrade",
        file.display()
    )]
    NewerFormat {
        /// The segment.
        file: PathBuf,
        /// The version it says.
        found: u32,
        /// The newest version this build reads.
        supported: u32,
    },

    /// A segment was written in a format that this build does not read any
    /// more. Nothing was changed.
    #[error(
        "{} has log format {found}, this build reads {FORMAT_VERSION} only; nothing was changed: \
         run the build that wrote it to complete or export its work, then start with an empty \
         data directory",
        file.display()
    )]
    OlderFormat {
        /// The segment.
        file: PathBuf,
        /// The version it says.
        found: u32,
    },

    /// A segment is of another log, or not the one its name says. Nothing was
    /// changed.
    #[error("{} does not belong here: {reason}; nothing was changed: move it back to where it came from", file.display())]
    Foreign {
        /// The segment.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// Committed bytes are damaged or missing. Nothing was changed.
    #[error(
        "{} is damaged at byte {offset}: batch {expected} should be there, but {found}. Batch \
         {expected} had been made durable, so acknowledged records are missing. Nothing was \
         changed. To repair, put back an intact copy of the file (a backup of the whole log's \
         directory, or a better read of the disk); on a node with replicas, move the log's \
         directory away and let the node copy its shards from its peers",
        file.display()
    )]
    Corrupt {
        /// The segment.
        file: PathBuf,
        /// Bytes from its start to the first batch that cannot be read.
        offset: u64,
        /// The number of that batch.
        expected: u64,
        /// What proves that it must have been there.
        found: String,
    },

    /// The reader of the records refused one. Nothing was lost.
    #[error("the record at byte {offset} of {} was refused: {reason}", file.display())]
    Rejected {
        /// The segment.
        file: PathBuf,
        /// Where the record's body starts in it.
        offset: u64,
        /// What the reader said.
        reason: String,
    },
}

impl OpenError {
    pub(crate) fn io(doing: &'static str, path: PathBuf) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    pub(crate) fn other_format(file: PathBuf, found: u32) -> Self {
        if found < FORMAT_VERSION {
            return Self::OlderFormat { file, found };
        }
        Self::NewerFormat {
            file,
            found,
            supported: FORMAT_VERSION,
        }
    }
}

/// What to do about an error of the disk, as the end of a sentence.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space there, or move the data directory to a larger disk, and start again"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; the file system is mounted read-only: remount it writable (look in the kernel's \
             log first, a disk error may have made it so)"
        }
        io::ErrorKind::PermissionDenied => {
            "; the directory and its files must belong to the user this process runs as"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "; the path of the log must be a directory"
        }
        _ => "",
    }
}

/// The log has failed and accepts nothing more, for ever.
///
/// What a failed write or sync left on disk is unknown, and a second sync that
/// succeeds would prove nothing about the first (Linux marks the pages clean).
/// So nothing is retried and nothing may be acknowledged; starting again
/// recovers what is really there.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the log has failed: cannot {doing} {}: {source}{}; nothing more is accepted until a restart \
     has recovered what is on the disk",
    path.display(),
    advice(source)
)]
pub struct Poisoned {
    /// What failed first.
    pub doing: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the disk said.
    pub source: Arc<io::Error>,
}
