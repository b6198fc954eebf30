//! What files a log's directory has, before any of them counts.

use std::io;

use crate::disk::{Disk, DiskFile};
use crate::error::OpenError;
use crate::format::{
    HeaderPage, SEGMENT_HEADER_BYTES, SegmentHeader, segment_name, segment_number,
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
    /// By number.
    pub(crate) begun: Vec<Begun<F>>,
    /// Unused segments behind all that are begun, to be filled next.
    pub(crate) spares: Vec<u32>,
    /// Unused segments that cannot be used any more.
    pub(crate) useless: Vec<u32>,
    last_number: u32,
}

impl<F: DiskFile> Survey<F> {
    pub(crate) fn of<D: Disk<File = F>>(disk: &D, options: &LogOptions) -> Result<Self, OpenError> {
        let names = disk.list();
        let names = names.map_err(OpenError::io("list", disk.path("")))?;
        let mut numbers: Vec<u32> = names.iter().filter_map(|n| segment_number(n)).collect();
        numbers.sort_unstable();
        let mut begun = Vec::new();
        let mut unused = Vec::new();
        for &number in &numbers {
            let path = disk.path(&segment_name(number));
            let read = || -> io::Result<_> {
                let file = disk.open(&segment_name(number))?;
                let len = file.len()?;
                let page = usize::try_from(len.min(SEGMENT_HEADER_BYTES.into()));
                let mut page = vec![0; page.expect("a page")];
                file.read_at(&mut page, 0)?;
                Ok((file, len, HeaderPage::decode(&page)))
            };
            let (file, len, page) = read().map_err(OpenError::io("read", path.clone()))?;
            let header = match page {
                HeaderPage::Unused => {
                    unused.push((number, len));
                    continue;
                }
                HeaderPage::Newer(version) => return Err(OpenError::newer(path, version)),
                HeaderPage::Broken => None,
                HeaderPage::Valid(header) => Some(header),
            };
            let foreign = |reason| OpenError::Foreign {
                file: path.clone(),
                reason,
            };
            let bytes = u32::try_from(len)
                .map_err(|_| foreign(format!("it has {len} bytes, more than any segment")))?;
            let mut first_valid = false;
            if let Some(header) = header {
                if header.log != options.log {
                    return Err(foreign(format!(
                        "it is of log {}, this is log {}",
                        header.log, options.log
                    )));
                }
                if header.segment != number {
                    return Err(foreign(format!("it is segment {}", header.segment)));
                }
                let mut window = Window::new(&file, len);
                let at = u64::from(SEGMENT_HEADER_BYTES);
                let batch = window.batch(header.crc_seed(), at, header.first_batch);
                let batch = batch.map_err(OpenError::io("read", path.clone()))?;
                first_valid = batch.is_some();
            }
            begun.push(Begun {
                number,
                file,
                bytes,
                header,
                first_valid,
            });
        }
        let last_begun = begun.last().map_or(0, |begun: &Begun<F>| begun.number);
        let (mut spares, mut useless) = (Vec::new(), Vec::new());
        for (number, len) in unused {
            let usable = number > last_begun && len == u64::from(options.segment_bytes);
            if usable && spares.len() < SPARES_MAX {
                spares.push(number);
            } else {
                useless.push(number);
            }
        }
        Ok(Self {
            begun,
            spares,
            useless,
            last_number: numbers.last().copied().unwrap_or(0),
        })
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
