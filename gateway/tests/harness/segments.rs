//! A log's segment files as bytes, to damage them.

use std::fs;
use std::path::{Path, PathBuf};

/// Batches start at multiples of this.
const SECTOR_BYTES: usize = 512;
/// Where batches begin.
const HEADER_BYTES: usize = 4096;

/// The segments of log 0 that batches were written to, in order.
pub fn begun(data_dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(data_dir.join("log-0")).expect("there is a log");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|file| !batches(file).is_empty());
    files.sort();
    files
}

/// Where the batches of a segment start.
pub fn batches(file: &Path) -> Vec<usize> {
    let bytes = fs::read(file).expect("a segment can be read");
    let starts = (HEADER_BYTES..bytes.len()).step_by(SECTOR_BYTES);
    starts
        .filter(|&start| bytes[start..].starts_with(b"ORBT"))
        .collect()
}

/// Where the last batch of a segment ends.
pub fn end(file: &Path) -> usize {
    let last = *batches(file).last().expect("the segment has batches");
    let bytes = fs::read(file).expect("a segment can be read");
    let length = bytes[last + 4..last + 8].try_into().expect("four bytes");
    let length = usize::try_from(u32::from_le_bytes(length)).expect("a length fits");
    (last + 32 + length).next_multiple_of(SECTOR_BYTES)
}

/// Changes a file's bytes in place.
pub fn damage(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).expect("the file can be read");
    change(&mut bytes);
    fs::write(file, bytes).expect("the file can be written");
}

/// Names and contents of everything that must not change while a node refuses a directory.
pub fn contents(data_dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![data_dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder can be listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_none_or(|name| name != "lock") {
                let bytes = fs::read(&path).expect("a file can be read");
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}
