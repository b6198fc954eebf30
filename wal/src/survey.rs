//! What files a log's directory has, before any of them counts.

use std::sync::Arc;

use crate::appender::SegmentUse;
use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::floor::Floor;
use crate::format::{HeaderPage, SegmentHeader, segment_name};
use crate::options::{LogOptions, SPARES_MAX};
use crate::segment_file::{SegmentFile, newest_floor, oldest_kept, segment_numbers};

/// A segment that something was written to.
#[derive(Debug)]
pub(crate) struct Begun<F> {
    pub(crate) number: u32,
    pub(crate) file: Arc<F>,
    pub(crate) bytes: u32,
    /// `None` if neither copy of it is whole.
    pub(crate) header: Option<SegmentHeader>,
    /// Whether the first batch that the header announces is there.
    pub(crate) first_valid: bool,
}

/// The files of a log. Nothing was changed to learn this.
#[derive(Debug)]
pub(crate) struct Survey<F> {
    /// From where on the log is needed.
    pub(crate) floor: Floor,
    /// Segments below the floor that can still be read, by number.
    pub(crate) history: Vec<SegmentUse>,
    /// By number, from the floor on.
    pub(crate) begun: Vec<Begun<F>>,
    /// Unused segments behind all that are begun, to be filled next.
    pub(crate) spares: Vec<u32>,
    /// Unused segments that cannot be used any more.
    pub(crate) useless: Vec<u32>,
    /// What is left below the floor that is no history: of retirements that were interrupted.
    pub(crate) leftovers: Vec<u32>,
    last_number: u32,
}

impl<F: DiskFile> Survey<F> {
    pub(crate) fn of<D: Disk<File = F>>(disk: &D, options: &LogOptions) -> Result<Self, OpenError> {
        let numbers = segment_numbers(disk)?;
        let (mut files, mut unreadable) = (Vec::new(), Vec::new());
        for &number in &numbers {
            match SegmentFile::open(disk, number) {
                Ok(file) => files.push(file),
                Err(error) => unreadable.push((number, error)),
            }
        }
        for file in &files {
            check_belongs(file, disk, options.log)?;
        }
        let (floor, said_by) = newest_floor(disk, options.log, &files)?;
        if floor.segment > said_by {
            // Never written; believing it would give up the whole log.
            let first = floor.segment;
            return Err(OpenError::Foreign {
                file: disk.path(&segment_name(said_by)),
                reason: format!("it says that the log starts behind it, with segment {first}"),
            });
        }
        let mut survey = Self {
            floor,
            history: Vec::new(),
            begun: Vec::new(),
            spares: Vec::new(),
            useless: Vec::new(),
            leftovers: Vec::new(),
            last_number: numbers.last().copied().unwrap_or(0),
        };
        for (number, error) in unreadable {
            if number >= floor.segment {
                return Err(error.into());
            }
            survey.leftovers.push(number);
        }
        let gap = survey.leftovers.last().copied().unwrap_or(0);
        let readable = &files[files.partition_point(|file| file.number < gap)..];
        let oldest = oldest_kept(disk, options.log, readable, floor);
        let oldest = readable.get(oldest).map(|file| file.number);
        let mut unused = Vec::new();
        for file in files {
            if file.number < floor.segment {
                let header = file.header(options.log);
                match header.filter(|_| oldest.is_some_and(|oldest| oldest <= file.number)) {
                    Some(header) => survey.history.push(SegmentUse {
                        number: file.number,
                        bytes: file.len,
                        first_batch: header.first_batch,
                    }),
                    None => survey.leftovers.push(file.number),
                }
            } else if file.page == HeaderPage::Unused {
                unused.push((file.number, file.len));
            } else {
                survey.begun.push(begun(file, disk, options.log)?);
            }
        }
        let last_begun = survey.begun.last().map_or(0, |begun| begun.number);
        for (number, len) in unused {
            let usable = number > last_begun && len == u64::from(options.segment_bytes);
            if usable && survey.spares.len() < SPARES_MAX {
                survey.spares.push(number);
            } else {
                survey.useless.push(number);
            }
        }
        Ok(survey)
    }

    /// The segment with this number, which must be a begun one.
    pub(crate) fn segment(&self, number: u32) -> &Begun<F> {
        let found = self.begun.iter().find(|begun| begun.number == number);
        found.expect("a segment that batches were found in")
    }

    /// The first number that a later segment than `begun[at]` has taken over:
    /// that one and what follows no longer count in it. A segment whose first
    /// batch did not get to disk takes over nothing.
    pub(crate) fn superseded_from(&self, at: usize) -> u64 {
        let later = self.begun[at + 1..].iter();
        let later = later.filter(|begun| begun.first_valid);
        let first = later
            .filter_map(|begun| begun.header)
            .map(|header| header.first_batch);
        first.min().unwrap_or(u64::MAX)
    }

    /// A number that no segment has.
    pub(crate) fn next_segment(&self, disk: &impl Disk) -> Result<u32, OpenError> {
        // Numbers above this cannot be reached by filling segments.
        if self.last_number < u32::MAX / 2 {
            return Ok(self.last_number + 1);
        }
        Err(OpenError::Foreign {
            file: disk.path(&segment_name(self.last_number)),
            reason: "no log gets to a number that high".to_owned(),
        })
    }
}

fn check_belongs<D: Disk>(
    file: &SegmentFile<D::File>,
    disk: &D,
    log: u16,
) -> Result<(), OpenError> {
    let HeaderPage::Valid(header) = file.page else {
        return Ok(());
    };
    let reason = if header.log != log {
        format!("it is of log {}, this is log {log}", header.log)
    } else if header.segment != file.number {
        format!("it is segment {}", header.segment)
    } else {
        return Ok(());
    };
    Err(OpenError::Foreign {
        file: disk.path(&segment_name(file.number)),
        reason,
    })
}

fn begun<D: Disk>(
    file: SegmentFile<D::File>,
    disk: &D,
    log: u16,
) -> Result<Begun<D::File>, OpenError> {
    let path = disk.path(&segment_name(file.number));
    if let HeaderPage::Other(version) = file.page {
        return Err(OpenError::other_format(path, version));
    }
    let bytes = u32::try_from(file.len).map_err(|_| OpenError::Foreign {
        file: path,
        reason: format!("it has {} bytes, more than any segment", file.len),
    })?;
    Ok(Begun {
        number: file.number,
        bytes,
        header: file.header(log),
        first_valid: file.counting(disk, log)?.is_some(),
        file: file.file,
    })
}
