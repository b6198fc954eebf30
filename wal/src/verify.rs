//! Reads all of a log and says what is wrong with it.

use crate::disk::Disk;
use crate::error::Damaged;
use crate::format::{HeaderPage, RecordHeader, SegmentHeader};
use crate::segment_file::{START, SegmentFile, UNSOUND, newest_floor, oldest_kept};
use crate::view::{LogView, SegmentInfo, ViewError};

/// A log that is being written to is looked at again where it seems damaged;
/// one that is will look the same.
const LOOKS_MAX: u32 = 8;

/// What all of a log is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// The first segment that is needed; 0 if none was ever given up.
    pub floor: u32,
    /// The first segment that can be read: those before the floor are history.
    pub oldest: u32,
    /// Whether the log was closed cleanly; not while it is in use.
    pub clean: bool,
    /// The segment files, by number.
    pub segments: Vec<SegmentReport>,
}

/// What a segment is like. Of one that does not count (a spare, one that is
/// given up) nothing was read but the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// The file.
    pub info: SegmentInfo,
    /// Batches that are whole, up to the first problem.
    pub batches: u64,
    /// Records in those, without the log's own.
    pub records: u64,
    /// Bytes of those batches.
    pub bytes: u64,
    /// Bytes of a batch that was being written when the log ended; no damage.
    pub torn_bytes: u64,
    /// The first thing that is wrong.
    pub problem: Option<Damaged>,
}

impl Verification {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.problems().next().is_none()
    }

    /// What is wrong, in the order of the log.
    pub fn problems(&self) -> impl Iterator<Item = &Damaged> {
        self.segments.iter().filter_map(|one| one.problem.as_ref())
    }
}

/// How often the log is looked at before a problem in it is told.
const VERIFICATIONS_MAX: usize = 3;

impl<D: Disk> LogView<D> {
    /// Reads the whole log, history included, and checks every checksum in it,
    /// and that nothing is missing. Opening the log succeeds if this finds
    /// nothing, and the log is of one with which `on_record` agrees; damage in
    /// the history does not keep it from succeeding.
    ///
    /// A node that writes the log meanwhile may be seen halfway, so what seems
    /// to be wrong is looked at again before it is told: damage stays.
    ///
    /// # Errors
    /// If the directory or a file cannot be opened. What cannot be read in a
    /// file is among the problems found.
    pub fn verify(&self) -> Result<Verification, ViewError> {
        let mut verification = self.verify_once()?;
        for _ in 1..VERIFICATIONS_MAX {
            if verification.is_sound() {
                break;
            }
            verification = self.verify_once()?;
        }
        Ok(verification)
    }

    fn verify_once(&self) -> Result<Verification, ViewError> {
        let files = self.files()?;
        let (floor, _) = newest_floor(&self.disk, self.log, &files)?;
        let mut counting = Vec::new();
        for file in &files {
            counting.push(file.counting(&self.disk, self.log)?);
        }
        let oldest = oldest_kept(&self.disk, self.log, &files, floor);
        let mut verification = Verification {
            floor: floor.segment,
            oldest: files.get(oldest).map_or(floor.segment, |file| file.number),
            clean: false,
            segments: Vec::new(),
        };
        let history = counting.get(oldest).copied().flatten();
        let history = history.filter(|_| verification.oldest < floor.segment);
        let mut next_batch = history.map_or(floor.first_batch, |header| header.first_batch);
        for (at, file) in files.iter().enumerate() {
            if at < oldest {
                let report = self.report(file);
                verification.segments.push(report);
                continue;
            }
            let later = counting[at + 1..].iter().flatten();
            let superseded = later.map(|header| header.first_batch).min();
            let mut walk = Walk {
                view: self,
                file,
                counting: counting[at],
                superseded: superseded.unwrap_or(u64::MAX),
                next_batch,
                clean: false,
                report: self.report(file),
            };
            if walk.look_until_sure()? {
                next_batch = walk.next_batch;
                verification.clean |= walk.clean;
                verification.segments.push(walk.report);
            }
        }
        Ok(verification)
    }

    fn report(&self, file: &SegmentFile<D::File>) -> SegmentReport {
        SegmentReport {
            info: self.info(file),
            batches: 0,
            records: 0,
            bytes: 0,
            torn_bytes: 0,
            problem: None,
        }
    }
}

/// The way through one segment.
struct Walk<'a, D: Disk> {
    view: &'a LogView<D>,
    file: &'a SegmentFile<D::File>,
    /// Its header, if its first batch is there.
    counting: Option<SegmentHeader>,
    /// The first batch that a later segment has, too.
    superseded: u64,
    /// The batch that must come next in the log.
    next_batch: u64,
    clean: bool,
    report: SegmentReport,
}

impl<D: Disk> Walk<'_, D> {
    /// Looks as often as it takes to know that what is wrong stays. `false` if
    /// the segment was given up meanwhile.
    fn look_until_sure(&mut self) -> Result<bool, ViewError> {
        let (fresh, next_batch) = (self.report.clone(), self.next_batch);
        for _ in 0..LOOKS_MAX {
            let before = std::mem::replace(&mut self.report, fresh.clone());
            self.next_batch = next_batch;
            self.look();
            let Some(problem) = &self.report.problem else {
                return Ok(true);
            };
            if self.superseded < u64::MAX {
                // What comes next is not wrong, too.
                self.next_batch = self.superseded;
            }
            let page = self.view.file(self.file.number)?.map(|file| file.page);
            if page != Some(self.file.page) {
                return Ok(false);
            }
            if before.problem.as_ref() == Some(problem) {
                break;
            }
        }
        Ok(true)
    }

    fn look(&mut self) {
        let first = match (self.counting, self.file.page) {
            (_, HeaderPage::Unused) => return,
            (_, HeaderPage::Other(version)) => {
                return self.problem(0, format!("it has log format {version}"));
            }
            (Some(header), _) if header.first_batch >= self.superseded => return,
            (Some(header), _) => header.first_batch,
            (None, _) => return self.look_for_more(START, self.next_batch),
        };
        if first != self.next_batch {
            let missing = format!(
                "it starts with batch {first}, and batch {} should be next",
                self.next_batch
            );
            self.problem(START, missing);
        }
        self.look_at_batches(first);
    }

    fn look_at_batches(&mut self, first: u64) {
        let header = self.counting.expect("its first batch is there");
        let (mut window, mut offset) = (self.file.window(), START);
        self.next_batch = first;
        while self.next_batch < self.superseded {
            let batch = match window.batch(header.crc_seed(), offset, self.next_batch) {
                Ok(batch) => batch,
                Err(error) => return self.problem(offset, error.to_string()),
            };
            let Some((batch, payload)) = batch else {
                if self.superseded < u64::MAX {
                    let reason = format!("batch {} is unreadable", self.next_batch);
                    return self.problem(offset, reason);
                }
                return self.look_for_more(offset, self.next_batch);
            };
            if batch.is_marker() {
                self.clean = true;
                return self.look_for_more(offset + batch.batch_bytes(), self.next_batch);
            }
            let Some(records) = count_records(payload.as_slice(), batch.records) else {
                return self.problem(offset, UNSOUND.to_owned());
            };
            offset += batch.batch_bytes();
            self.next_batch += 1;
            self.report.batches += 1;
            self.report.records += records;
            self.report.bytes += batch.batch_bytes();
        }
    }

    /// Nothing may follow what seems to be the log's last batch.
    fn look_for_more(&mut self, offset: u64, number: u64) {
        let mut window = self.file.window();
        let header = self.file.header(self.view.log);
        let beyond = match (header, self.file.page) {
            (Some(header), _) => window.beyond(header.crc_seed(), offset, number),
            (None, HeaderPage::Broken) => window.beyond_unverified(number),
            (None, _) => {
                let reason = "it is of another log, or not the segment its name says";
                return self.problem(0, reason.to_owned());
            }
        };
        match beyond {
            Err(error) => self.problem(offset, error.to_string()),
            Ok(beyond) => match beyond.later {
                Some((at, later)) => {
                    let reason = format!(
                        "batch {number} is unreadable, while batch {later} is at byte {at}"
                    );
                    self.problem(offset, reason);
                }
                None => self.report.torn_bytes = beyond.torn_bytes(header),
            },
        }
    }

    /// Notes what is wrong, if it is the first.
    fn problem(&mut self, offset: u64, reason: String) {
        let damaged = self.view.damaged(self.file.number, offset, reason);
        self.report.problem.get_or_insert(damaged);
    }
}

/// How many records are in a batch, without the log's own; `None` if they do
/// not add up to its length.
fn count_records(mut payload: &[u8], records: u32) -> Option<u64> {
    let mut count = 0;
    for _ in 0..records {
        let (header, _) = RecordHeader::split(&mut payload)?;
        count += u64::from(header.shard != crate::floor::LOG_SHARD);
    }
    payload.is_empty().then_some(count)
}
