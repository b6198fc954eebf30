//! A log that was really written, and damage to its files that no checksum
//! covers up.

use std::ops::{Deref, DerefMut};

use arbitrary::{Result, Unstructured};
use omnirelay_wal::fault::FaultDisk;
use omnirelay_wal::{Disk, FLOOR_BODY_BYTES, Fill, Opened, RecordHeader, Reuse};

use super::{Files, Records, SECTOR, name, open_disk, used_bytes};

/// Bytes of a body of which three fill a segment.
const LARGE_BYTES: usize = 300_000;

/// Large bodies of one log.
const LARGE_MAX: usize = 8;

/// Lives of one log.
pub(super) const LIVES_MAX: u64 = 3;

/// What the outside knows of a log that was written: all that was appended was
/// synced.
#[derive(Default)]
pub(super) struct Log {
    pub(super) files: Files,
    /// All that were ever appended.
    pub(super) records: Records,
    /// How many of them, the oldest, were given up.
    pub(super) given_up: usize,
    /// The first segment that is needed.
    floor: u32,
}

/// Writes a log in a few lives, each of which ends in some way.
pub(super) fn write(u: &mut Unstructured<'_>) -> Result<Log> {
    let disk = FaultDisk::new();
    let mut log = Log::default();
    let mut large = 0;
    for life in 1..=u.int_in_range(1..=LIVES_MAX)? {
        let mut opened = reopen(&disk, life, &log);
        for _ in 0..u.int_in_range(0..=4)? {
            for _ in 0..u.int_in_range(1..=3)? {
                let shape: u16 = u.arbitrary()?;
                let len = match shape % 16 {
                    15 if large < LARGE_MAX => {
                        large += 1;
                        LARGE_BYTES
                    }
                    _ => usize::from(shape / 32),
                };
                make_room(&mut opened, len);
                let (header, body) = record(log.records.len(), len);
                let append = |into: &mut Vec<u8>| into.extend_from_slice(&body);
                let at = opened.appender.append(&header, len, append);
                log.records.push((header, body));
                opened.places.push(at.segment);
            }
            commit(&mut opened);
            if u.arbitrary::<u8>()? % 8 == 0 {
                give_up(u, &mut opened, &mut log)?;
            }
        }
        if u.arbitrary()? {
            opened.writer.close().expect("a sound disk");
        }
        match u.arbitrary()? {
            true => disk.restart(),
            false => disk.lose_power(&mut || u.arbitrary().unwrap_or(0)),
        }
    }
    for name in disk.list().expect("a sound disk") {
        let contents = disk.contents(&name).expect("it was listed");
        log.files.insert(name, contents);
    }
    Ok(log)
}

/// A log's life, and the segment of each record that was ever appended; 0 for
/// those that were given up.
struct Life {
    opened: Opened<FaultDisk>,
    places: Vec<u32>,
}

impl Deref for Life {
    type Target = Opened<FaultDisk>;

    fn deref(&self) -> &Opened<FaultDisk> {
        &self.opened
    }
}

impl DerefMut for Life {
    fn deref_mut(&mut self) -> &mut Opened<FaultDisk> {
        &mut self.opened
    }
}

fn reopen(disk: &FaultDisk, life: u64, log: &Log) -> Life {
    let (opened, found, at) = open_disk(disk, life).expect("an undamaged log opens");
    let kept = &log.records[log.given_up..];
    assert!(found == kept, "a synced record is lost, or one is back");
    let mut places = vec![0; log.given_up];
    places.extend(at);
    Life { opened, places }
}

fn make_room(life: &mut Life, len: usize) {
    while !life.appender.fits(len) {
        let spare = life.allocator.allocate(Fill::Zeros);
        life.appender.handle_spare(spare.expect("a sound disk"));
    }
}

fn commit(life: &mut Life) {
    life.appender.seal();
    while let Some(batch) = life.appender.poll_batch() {
        life.writer.write(&batch).expect("a sound disk");
        life.appender.handle_synced(batch.number);
    }
}

/// Raises the floor to one of the segments in use, and retires some of those
/// below.
fn give_up(u: &mut Unstructured<'_>, life: &mut Life, log: &mut Log) -> Result<()> {
    let used: Vec<u32> = life.appender.segments().map(|used| used.number).collect();
    let floor = u.choose_index(used.len())?;
    if used.is_empty() || used[floor] < log.floor {
        return Ok(());
    }
    make_room(life, FLOOR_BODY_BYTES);
    life.appender.append_floor(used[floor]);
    commit(life);
    log.floor = used[floor];
    log.given_up = life.places.iter().filter(|&&at| at < log.floor).count();
    for &segment in &used[..u.int_in_range(0..=floor)?] {
        let reuse = match u.arbitrary()? {
            true => Reuse::Yes,
            false => Reuse::No,
        };
        life.reader.forget(segment);
        let spare = life.allocator.retire(segment, reuse).expect("a sound disk");
        life.appender.handle_retired(segment);
        if let Some(spare) = spare {
            life.appender.handle_spare(spare);
        }
    }
    Ok(())
}

/// No two are alike.
fn record(nth: usize, len: usize) -> (RecordHeader, Vec<u8>) {
    let nth = nth as u64;
    let header = RecordHeader {
        shard: 7,
        epoch: 1,
        lsn: nth + 1,
        at: nth * 1000,
        kind: 2,
    };
    (
        header,
        [nth as u8, (nth >> 8) as u8 ^ 0x55].repeat(len.div_ceil(2))[..len].to_vec(),
    )
}

/// Changes some of the files; says whether anything is different.
pub(super) fn damage(u: &mut Unstructured<'_>, intact: Files) -> Result<(Files, bool)> {
    let mut files = intact.clone();
    for _ in 0..8 {
        if u.is_empty() || files.is_empty() {
            break;
        }
        let at = u.choose_index(files.len())?;
        let at = files.keys().nth(at).expect("one of them").clone();
        let file = files.get_mut(&at).expect("one of them");
        let used = used_bytes(file);
        match u.arbitrary::<u8>()? % 8 {
            0 | 1 if used > 0 => {
                let offset = u.choose_index(used)?;
                file[offset] ^= u.arbitrary::<u8>()?;
            }
            2 => {
                let offset = u.int_in_range(0..=file.len())?;
                let bytes: &[u8] = u.arbitrary()?;
                let bytes = &bytes[..bytes.len().min(file.len() - offset)];
                file[offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            3 => zero_sectors(u, file, used)?,
            4 => copy_sectors(u, file, used)?,
            5 => file.truncate(u.int_in_range(0..=used)?),
            6 => {
                files.remove(&at);
            }
            _ => {
                // A file of the same log under another's name.
                let copy = file.clone();
                let number = u.int_in_range(1..=6)?;
                files.insert(name(number), copy);
            }
        }
    }
    let damaged = files != intact;
    Ok((files, damaged))
}

fn zero_sectors(u: &mut Unstructured<'_>, file: &mut [u8], used: usize) -> Result<()> {
    let from = u.int_in_range(0..=used / SECTOR)? * SECTOR;
    let sectors = usize::from(u.int_in_range(1..=16_u8)?);
    let until = (from + sectors * SECTOR).min(file.len());
    file[from..until].fill(0);
    Ok(())
}

fn copy_sectors(u: &mut Unstructured<'_>, file: &mut [u8], used: usize) -> Result<()> {
    let from = u.int_in_range(0..=used / SECTOR)? * SECTOR;
    let to = u.int_in_range(0..=used / SECTOR)? * SECTOR;
    let len = usize::from(u.int_in_range(1..=16_u8)?) * SECTOR;
    let len = len.min(file.len() - from).min(file.len() - to);
    file.copy_within(from..from + len, to);
    Ok(())
}
