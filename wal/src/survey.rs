//! What files a log's directory has, before any of them counts.

use std::io;
use std::path::Path;

use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::floor::{Floor, LOG_SHARD};
use crate::format::{
    HeaderPage, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name, segment_number,
};
use crate::options::{LogOptions, SPARES_MAX};
use crate::scan::Window;

/// A segment that something was written to.
#[derive(Debug)]
pub(crate) struct Begun<F> {
    pub(crate) number: u32,
    pub(crate) file: F,
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
    /// By number, from the floor on.
    pub(crate) begun: Vec<Begun<F>>,
    /// Unused segments behind all that are begun, to be filled next.
    pub(crate) spares: Vec<u32>,
    /// Unused segments that cannot be used any more.
    pub(crate) useless: Vec<u32>,
    /// What a retirement that was interrupted left below the floor.
    pub(crate) leftovers: Vec<u32>,
    last_number: u32,
}

/// A segment file and what its first page says.
struct Found<F> {
    number: u32,
    file: F,
    len: u64,
    page: HeaderPage,
}

impl<F: DiskFile> Survey<F> {
    pub(crate) fn of<D: Disk<File = F>>(disk: &D, options: &LogOptions) -> Result<Self, OpenError> {
        let names = disk.list();
        let names = names.map_err(OpenError::io("list", disk.path("")))?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|n| segment_number(n)).collect();
        numbers.sort_unstable();
        let found = numbers.iter().map(|&number| Found::read(disk, number));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        for one in &found {
            one.check_belongs(disk, options.log)?;
        }
        let floor = newest_floor(disk, &found)?;
        let mut survey = Self {
            floor,
            begun: Vec::new(),
            spares: Vec::new(),
            useless: Vec::new(),
            leftovers: Vec::new(),
            last_number: numbers.last().copied().unwrap_or(0),
        };
        let mut unused = Vec::new();
        for one in found {
            if one.number < floor.segment {
                survey.leftovers.push(one.number);
            } else if one.page == HeaderPage::Unused {
                unused.push((one.number, one.len));
            } else {
                survey.begun.push(one.begun(disk)?);
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

impl<F: DiskFile> Found<F> {
    fn read<D: Disk<File = F>>(disk: &D, number: u32) -> Result<Self, OpenError> {
        let read = || -> io::Result<_> {
            let file = disk.open(&segment_name(number))?;
            let len = file.len()?;
            let page = usize::try_from(len.min(SEGMENT_HEADER_BYTES.into()));
            let mut page = vec![0; page.expect("a page")];
            file.read_at(&mut page, 0)?;
            let page = HeaderPage::decode(&page);
            Ok(Self {
                number,
                file,
                len,
                page,
            })
        };
        read().map_err(OpenError::io("read", disk.path(&segment_name(number))))
    }

    fn check_belongs(&self, disk: &impl Disk, log: u16) -> Result<(), OpenError> {
        let HeaderPage::Valid(header) = self.page else {
            return Ok(());
        };
        let reason = if header.log != log {
            format!("it is of log {}, this is log {log}", header.log)
        } else if header.segment != self.number {
            format!("it is segment {}", header.segment)
        } else {
            return Ok(());
        };
        Err(OpenError::Foreign {
            file: disk.path(&segment_name(self.number)),
            reason,
        })
    }

    /// The header, if its first batch is there, so that it counts.
    fn counting(&self, path: &Path) -> Result<Option<SegmentHeader>, OpenError> {
        let HeaderPage::Valid(header) = self.page else {
            return Ok(None);
        };
        let mut window = Window::new(&self.file, self.len);
        let at = u64::from(SEGMENT_HEADER_BYTES);
        let batch = window.batch(header.crc_seed(), at, header.first_batch);
        let batch = batch.map_err(OpenError::io("read", path.to_owned()))?;
        Ok(batch.is_some().then_some(header))
    }

    fn begun(self, disk: &impl Disk) -> Result<Begun<F>, OpenError> {
        let path = disk.path(&segment_name(self.number));
        let first_valid = self.counting(&path)?.is_some();
        let header = match self.page {
            HeaderPage::Valid(header) => Some(header),
            HeaderPage::Other(version) => return Err(OpenError::other_format(path, version)),
            HeaderPage::Broken | HeaderPage::Unused => None,
        };
        let bytes = u32::try_from(self.len).map_err(|_| OpenError::Foreign {
            file: path,
            reason: format!("it has {} bytes, more than any segment", self.len),
        })?;
        Ok(Begun {
            number: self.number,
            file: self.file,
            bytes,
            header,
            first_valid,
        })
    }
}

/// The newest floor there is a record of. Each segment's header has the one
/// that was newest when it was begun, so only the newest segment is read; what
/// is before the floor need not be readable.
fn newest_floor<D: Disk>(disk: &D, found: &[Found<D::File>]) -> Result<Floor, OpenError> {
    for one in found.iter().rev() {
        let path = disk.path(&segment_name(one.number));
        let Some(header) = one.counting(&path)? else {
            continue;
        };
        let (seed, mut floor) = (header.crc_seed(), header.floor);
        let (mut offset, mut number) = (u64::from(SEGMENT_HEADER_BYTES), header.first_batch);
        let mut window = Window::new(&one.file, one.len);
        loop {
            let batch = window.batch(seed, offset, number);
            let batch = batch.map_err(OpenError::io("read", path.clone()))?;
            let Some((batch, mut payload)) = batch.filter(|(batch, _)| !batch.is_marker()) else {
                return Ok(floor);
            };
            while let Some((header, body)) = RecordHeader::split(&mut payload) {
                if header.shard == LOG_SHARD
                    && let Some(newer) = Floor::decode(&header, body)
                {
                    floor = newer;
                }
            }
            offset += batch.batch_bytes();
            number += 1;
        }
    }
    Ok(Floor::NONE)
}
