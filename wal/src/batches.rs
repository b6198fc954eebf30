//! Reads a log batch after batch, beside whoever writes it.

use std::io;

use crate::cleaner::ReadRecord;
use crate::disk::{Disk, DiskFile};
use crate::format::{BatchHeader, HeaderPage, Position, SegmentHeader};
use crate::scan::{Kept, Window};
use crate::segment_file::{
    START, SegmentFile, UNSOUND, newest_floor, oldest_kept, position, records_of,
};
use crate::view::{LogView, ViewError};

/// Where reading starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// With the oldest batch that is kept: history comes first.
    Oldest,
    /// With the oldest batch that is needed, as an open does.
    Needed,
    /// With a segment's first batch.
    Segment(u32),
    /// With the batch that is there, or that a record there is in. After a
    /// crash the log's last batch moves to another segment; a position from
    /// before may then have that batch read a second time.
    Position(Position),
}

/// A batch, verified.
#[derive(Debug)]
pub struct ViewedBatch {
    /// Its number.
    pub number: u64,
    /// Where it starts.
    pub at: Position,
    /// Its records, in order; the log's own are not among them.
    pub records: Vec<ReadRecord>,
}

/// Reads batch after batch. At most a few MiB are in memory at a time, and the
/// batches handed out.
///
/// A segment that is given up meanwhile is reported as
/// [`ViewError::Trimmed`], whatever became of its file: no batch verifies but
/// those that were written under the header with which reading it began.
#[derive(Debug)]
pub struct Batches<D: Disk> {
    view: LogView<D>,
    end: Option<Position>,
    /// `None` while the log has no batch at all.
    reading: Option<Reading<D::File>>,
}

/// A segment that is being read.
#[derive(Debug)]
struct Reading<F> {
    segment: u32,
    header: SegmentHeader,
    window: Window<F>,
    /// Where the next batch starts, and its number.
    offset: u64,
    number: u64,
    /// The first batch that the next segment has, too, as far as is known.
    until: u64,
}

/// A segment whose first batch is there, and its header.
type Counting<'a, F> = (&'a SegmentFile<F>, SegmentHeader);

impl<D: Disk> Batches<D> {
    pub(crate) fn start(
        view: LogView<D>,
        from: ReadFrom,
        end: Option<Position>,
    ) -> Result<Self, ViewError> {
        let mut batches = Self {
            view,
            end,
            reading: None,
        };
        match from {
            ReadFrom::Oldest => {
                batches.enter_oldest()?;
            }
            ReadFrom::Needed => {
                batches.enter_needed()?;
            }
            ReadFrom::Segment(segment) => {
                batches.enter_at(position(segment, START))?;
            }
            ReadFrom::Position(at) => batches.enter_at(at)?,
        }
        Ok(batches)
    }

    /// Reads on up to here, from the next call on.
    pub fn set_end(&mut self, end: Position) {
        self.end = Some(end);
    }

    /// Where the next batch is or will be: another reading may start there. The
    /// start of everything before the log's first batch.
    pub fn position(&self) -> Position {
        let reading = self.reading.as_ref();
        reading.map_or(position(0, 0), Reading::position)
    }

    /// The next batch; `None` at the end for now: it can be asked again.
    ///
    /// # Errors
    /// See [`ViewError`]. After [`ViewError::Io`] it can be asked again.
    pub fn next_batch(&mut self) -> Result<Option<ViewedBatch>, ViewError> {
        if self.reading.is_none() && !self.enter_oldest()? {
            return Ok(None);
        }
        loop {
            if self.end.is_some_and(|end| self.position() >= end) {
                return Ok(None);
            }
            if let Some(batch) = self.take_batch()? {
                return Ok(Some(batch));
            }
            // What comes in another segment was written after all that is here,
            // so look here once more after having seen that it is there.
            let files = self.view.files()?;
            self.look_again()?;
            if let Some(batch) = self.take_batch()? {
                return Ok(Some(batch));
            }
            match self.move_on(&files) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(error) => {
                    // The writer may have come by between the two looks: then what proves that
                    // the batch was written also proves that it can be read by now.
                    self.look_again()?;
                    return self.take_batch()?.map(Some).ok_or(error);
                }
            }
        }
    }

    fn look_again(&mut self) -> Result<(), ViewError> {
        let reading = self.reading.as_mut().expect("there was a first batch");
        let forgotten = reading.window.forget();
        forgotten.map_err(self.view.unreadable(reading.segment))
    }

    /// The next batch of the segment, if it has one more.
    fn take_batch(&mut self) -> Result<Option<ViewedBatch>, ViewError> {
        let reading = self.reading.as_mut().expect("there was a first batch");
        let Some((header, payload)) = reading
            .batch()
            .map_err(self.view.unreadable(reading.segment))?
        else {
            return Ok(None);
        };
        let mut batch = ViewedBatch {
            number: header.number,
            at: reading.position(),
            records: Vec::new(),
        };
        if !records_of(&header, payload, batch.at, |_| true, &mut batch.records) {
            let damaged = self.view.damaged(reading.segment, reading.offset, UNSOUND);
            return Err(damaged.into());
        }
        reading.offset += header.batch_bytes();
        reading.number += 1;
        Ok(Some(batch))
    }

    /// Goes to the segment with the next batch; `false` if there is none yet.
    fn move_on(&mut self, files: &[SegmentFile<D::File>]) -> Result<bool, ViewError> {
        let view = &self.view;
        let reading = self.reading.as_mut().expect("there was a first batch");
        let (segment, number) = (reading.segment, reading.number);
        let later = || files.iter().filter(move |file| file.number > segment);
        let next = view.first_counting(later())?;
        if let Some((file, header)) = next
            && header.first_batch <= number
        {
            let mut reading = Reading::of(file, header);
            let skipped = reading.skip_while(|_, batch| batch.number < number);
            skipped.map_err(view.unreadable(file.number))?;
            self.reading = Some(reading);
            return Ok(true);
        }
        // No segment is given up before those before it.
        let here = view.file(segment)?;
        if here.and_then(|file| file.header(view.log)) != Some(reading.header) {
            return Err(ViewError::Trimmed { segment });
        }
        let mut beyond = || reading.beyond().map_err(view.unreadable(segment));
        let proof = match (next, self.end) {
            (Some((file, _)), _) => Some(format!("segment {} follows", file.number)),
            (None, Some(_)) => Some("more was made durable".to_owned()),
            (None, None) => match beyond()? {
                None => view.behind_first(later(), number)?,
                later => later,
            }
            .map(|later| format!("batch {later} follows")),
        };
        let Some(proof) = proof else {
            return Ok(false);
        };
        let begins = |file: &&SegmentFile<_>| {
            let header = file.header(view.log);
            header.is_some_and(|header| header.first_batch == number)
        };
        let (segment, offset) = match later().find(begins) {
            Some(file) => (file.number, START),
            None => (segment, reading.offset),
        };
        let reason = format!("batch {number} is unreadable, while {proof}");
        Err(view.damaged(segment, offset, reason).into())
    }

    /// Goes to the first batch that is kept; `false` if there is none yet.
    fn enter_oldest(&mut self) -> Result<bool, ViewError> {
        let view = &self.view;
        let files = view.files()?;
        let (floor, _) = newest_floor(&view.disk, view.log, &files)?;
        let oldest = oldest_kept(&view.disk, view.log, &files, floor);
        let history = files[oldest..].first();
        match history.filter(|file| file.number < floor.segment) {
            Some(file) => {
                let header = file.header(view.log).expect("history has its headers");
                self.reading = Some(self.entered(file, header, &files)?);
                Ok(true)
            }
            None => self.enter_needed(),
        }
    }

    /// Goes to the first batch that is needed; `false` if there is none yet.
    fn enter_needed(&mut self) -> Result<bool, ViewError> {
        let view = &self.view;
        let files = view.files()?;
        let (floor, _) = newest_floor(&view.disk, view.log, &files)?;
        let needed = || files.iter().filter(|file| file.number >= floor.segment);
        let first = floor.first_batch;
        let begins = |file: &&SegmentFile<_>| {
            let header = file.header(view.log);
            header.is_some_and(|header| header.first_batch == first)
        };
        // The newest that counts: one before may have had only that batch.
        for file in needed().rev().filter(begins) {
            if let Some(header) = file.counting(&view.disk, view.log)? {
                self.reading = Some(self.entered(file, header, &files)?);
                return Ok(true);
            }
        }
        let counting = view.first_counting(needed())?;
        let later = match counting {
            Some((_, header)) => Some(header.first_batch),
            None => view.behind_first(needed(), first)?,
        };
        let Some(later) = later else {
            return Ok(false);
        };
        let begun = needed().find(|file| file.page != HeaderPage::Unused);
        let segment = begun.map_or(floor.segment, |file| file.number);
        let page = view.file(segment)?.map(|file| file.page);
        if page != begun.map(|file| file.page) {
            return Err(ViewError::Trimmed { segment });
        }
        let reason = format!("batch {first} is unreadable, while batch {later} follows");
        Err(view.damaged(segment, START, reason).into())
    }

    fn enter_at(&mut self, at: Position) -> Result<(), ViewError> {
        let files = self.view.files()?;
        let file = files.iter().find(|file| file.number == at.segment);
        if file.is_some_and(|file| file.page == HeaderPage::Broken) {
            let reason = "its header is unreadable";
            return Err(self.view.damaged(at.segment, 0, reason).into());
        }
        let Some((file, header)) = file.and_then(|file| Some((file, file.header(self.view.log)?)))
        else {
            return self.enter_behind(at.segment, &files);
        };
        let mut reading = self.entered(file, header, &files)?;
        let within = reading
            .skip_while(|reading, batch| reading.offset + batch.batch_bytes() <= at.offset.into());
        let within = within.map_err(self.view.unreadable(at.segment))?;
        if !within && reading.offset < at.offset.into() {
            let reason = format!("batch {} is unreadable", reading.number);
            let damaged = self.view.damaged(at.segment, reading.offset, reason);
            return Err(damaged.into());
        }
        self.reading = Some(reading);
        Ok(())
    }

    /// Goes to the segment that took the place of one that is not there: after
    /// a crash a segment's only batch moves to another. Those that are given up
    /// have none before them.
    fn enter_behind(
        &mut self,
        segment: u32,
        files: &[SegmentFile<D::File>],
    ) -> Result<(), ViewError> {
        let view = &self.view;
        let (floor, _) = newest_floor(&view.disk, view.log, files)?;
        let kept = &files[oldest_kept(&view.disk, view.log, files, floor)..];
        let before = kept.iter().filter(|file| file.number < segment);
        let before = view.first_counting(before)?;
        let behind = kept.iter().filter(|file| file.number > segment);
        let behind = view.first_counting(behind)?;
        let (Some(_), Some((file, header))) = (before, behind) else {
            return Err(ViewError::Trimmed { segment });
        };
        self.reading = Some(self.entered(file, header, files)?);
        Ok(())
    }

    /// A segment from its first batch on.
    fn entered(
        &self,
        file: &SegmentFile<D::File>,
        header: SegmentHeader,
        files: &[SegmentFile<D::File>],
    ) -> Result<Reading<D::File>, ViewError> {
        let mut reading = Reading::of(file, header);
        let later = files.iter().filter(|later| later.number > file.number);
        if let Some((_, later)) = self.view.first_counting(later)? {
            reading.until = later.first_batch;
        }
        Ok(reading)
    }
}

impl<D: Disk> LogView<D> {
    /// The first of these segments whose first batch is there.
    fn first_counting<'a>(
        &self,
        files: impl Iterator<Item = &'a SegmentFile<D::File>>,
    ) -> Result<Option<Counting<'a, D::File>>, ViewError> {
        for file in files {
            if let Some(header) = file.counting(&self.disk, self.log)? {
                return Ok(Some((file, header)));
            }
        }
        Ok(None)
    }

    /// The number of a batch in these segments, of which none has its first,
    /// that was written after batch `number`.
    fn behind_first<'a>(
        &self,
        files: impl Iterator<Item = &'a SegmentFile<D::File>>,
        number: u64,
    ) -> Result<Option<u64>, ViewError> {
        for file in files {
            let mut window = file.window();
            let beyond = match (file.header(self.log), file.page) {
                (Some(header), _) => window.beyond(header.crc_seed(), START, number),
                (None, HeaderPage::Broken) => window.beyond_unverified(number),
                (None, _) => continue,
            };
            if let Some((_, later)) = beyond.map_err(self.unreadable(file.number))?.later {
                return Ok(Some(later));
            }
        }
        Ok(None)
    }
}

impl<F: DiskFile> Reading<F> {
    fn of(file: &SegmentFile<F>, header: SegmentHeader) -> Self {
        Self {
            segment: file.number,
            header,
            window: file.window(),
            offset: START,
            number: header.first_batch,
            until: u64::MAX,
        }
    }

    fn position(&self) -> Position {
        position(self.segment, self.offset)
    }

    fn batch(&mut self) -> io::Result<Option<(BatchHeader, Kept)>> {
        if self.number >= self.until {
            return Ok(None);
        }
        let seed = self.header.crc_seed();
        match self.window.batch(seed, self.offset, self.number) {
            Ok(batch) => Ok(batch.filter(|(header, _)| !header.is_marker())),
            // Its unused end was cut off since it was opened.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Passes over batches by their headers alone. `false` if there is no batch
    /// at which it could have stopped.
    fn skip_while(&mut self, skips: impl Fn(&Self, &BatchHeader) -> bool) -> io::Result<bool> {
        let seed = self.header.crc_seed();
        while let Some(batch) = self.window.header(seed, self.offset, self.number)? {
            if batch.is_marker() || !skips(self, &batch) {
                return Ok(true);
            }
            self.offset += batch.batch_bytes();
            self.number += 1;
        }
        Ok(false)
    }

    /// The number of a batch that lies behind the place of the next one.
    fn beyond(&mut self) -> io::Result<Option<u64>> {
        let seed = self.header.crc_seed();
        let beyond = self.window.beyond(seed, self.offset, self.number)?;
        Ok(beyond.later.map(|(_, number)| number))
    }
}
