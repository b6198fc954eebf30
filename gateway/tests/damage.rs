//! Logs that were damaged behind the node's back: what can be told apart is, and nothing is
//! overwritten.

mod harness;

use std::fs;
use std::path::{Path, PathBuf};

use harness::{Launch, item, segments};
use serde_json::json;

/// A directory whose node was killed with this many items waiting, each in a batch of its own.
fn directory_with(items: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let mut client = node.connect();
    for number in 0..items {
        client.call("enqueue", item(&format!("item-{number}"))).ok();
    }
    node.kill();
    dir
}

/// The segment with the most batches.
fn busiest(dir: &Path) -> PathBuf {
    let begun = segments::begun(dir);
    begun
        .into_iter()
        .max_by_key(|file| segments::batches(file).len())
        .expect("a segment")
}

#[track_caller]
fn assert_refused_untouched(dir: &Path, words: &[&str]) {
    let before = segments::contents(dir);
    for _ in 0..2 {
        Launch::on(dir).ended().refused(words);
        assert!(before == segments::contents(dir), "files were changed");
    }
}

#[test]
fn a_damaged_batch_in_the_middle_is_refused_with_file_and_place() {
    let dir = directory_with(20);
    let file = busiest(dir.path());
    let at = segments::batches(&file)[5];
    let mut whole = 0;
    segments::damage(&file, |bytes| {
        whole = bytes[at + 100];
        bytes[at + 100] ^= 0x10;
    });
    let words = [
        &*file.display().to_string(),
        "damaged",
        &at.to_string(),
        "Nothing was changed",
        "serve.data_dir",
    ];
    assert_refused_untouched(dir.path(), &words);
    // Put right, it is as it was.
    segments::damage(&file, |bytes| bytes[at + 100] = whole);
    assert_eq!(Launch::on(dir.path()).start().counts(), [20, 0, 0, 0]);
}

#[test]
fn a_hole_of_zeros_in_the_middle_is_refused_with_its_file() {
    let dir = directory_with(20);
    let file = busiest(dir.path());
    let batches = segments::batches(&file);
    segments::damage(&file, |bytes| bytes[batches[5]..batches[8]].fill(0));
    assert_refused_untouched(
        dir.path(),
        &[
            &file.display().to_string(),
            "damaged",
            &batches[5].to_string(),
        ],
    );
}

#[test]
fn a_segment_of_a_newer_format_is_refused_with_its_file() {
    let dir = directory_with(3);
    let file = busiest(dir.path());
    segments::damage(&file, |bytes| {
        // Both copies of the header.
        for copy in [0, 2048] {
            bytes[copy + 8..copy + 12].copy_from_slice(&7u32.to_le_bytes());
        }
    });
    assert_refused_untouched(
        dir.path(),
        &[&file.display().to_string(), "log format 7", "newer build"],
    );
}

#[test]
fn a_segment_of_another_log_is_refused_with_its_file() {
    let (dir, other) = (directory_with(3), directory_with(3));
    let file = busiest(dir.path());
    let stranger = file.with_file_name("00000900.seg");
    fs::copy(busiest(other.path()), &stranger).expect("a copy");
    assert_refused_untouched(
        dir.path(),
        &[&stranger.display().to_string(), "does not belong here"],
    );
}

#[test]
fn a_catalog_that_is_missing_damaged_or_newer_is_refused_by_name() {
    let dir = directory_with(3);
    let catalog = dir.path().join("catalog.json");
    let whole = fs::read(&catalog).expect("a catalog");
    let name = catalog.display().to_string();
    fs::write(&catalog, &whole[..whole.len() / 2]).expect("it can be written");
    assert_refused_untouched(dir.path(), &[&name, "damaged"]);
    let mut newer: serde_json::Value = serde_json::from_slice(&whole).expect("JSON");
    newer["format"] = json!(7);
    fs::write(&catalog, newer.to_string()).expect("it can be written");
    assert_refused_untouched(dir.path(), &[&name, "format 7", "newer version"]);
    fs::remove_file(&catalog).expect("it can be removed");
    assert_refused_untouched(dir.path(), &[&name, "missing"]);
    fs::write(&catalog, &whole).expect("it can be written");
    assert_eq!(Launch::on(dir.path()).start().counts(), [3, 0, 0, 0]);
}

#[test]
fn garbage_behind_the_last_batch_is_left_out_with_one_line() {
    let dir = directory_with(20);
    let file = busiest(dir.path());
    let end = segments::end(&file);
    segments::damage(&file, |bytes| bytes[end..end + 1500].fill(0xa5));
    assert_recovers_from_torn_tail(dir.path(), 20);
}

#[test]
fn a_last_batch_that_is_half_there_is_left_out_with_one_line() {
    let dir = directory_with(20);
    let file = busiest(dir.path());
    let last = *segments::batches(&file).last().expect("batches");
    segments::damage(&file, |bytes| bytes[last + 64..last + 512].fill(0));
    assert_recovers_from_torn_tail(dir.path(), 19);
}

#[test]
fn a_file_cut_within_its_last_batch_is_left_out_with_one_line() {
    let dir = directory_with(20);
    let file = busiest(dir.path());
    let last = *segments::batches(&file).last().expect("batches");
    segments::damage(&file, |bytes| bytes.truncate(last + 100));
    assert_recovers_from_torn_tail(dir.path(), 19);
}

#[track_caller]
fn assert_recovers_from_torn_tail(dir: &Path, items: u64) {
    let node = Launch::on(dir).start();
    assert_eq!(node.counts(), [items, 0, 0, 0]);
    node.connect().call("enqueue", item("next")).ok();
    let ended = node.stop();
    let torn: Vec<&str> = ended
        .said
        .lines()
        .filter(|line| line.contains("torn tail"))
        .collect();
    assert_eq!(torn.len(), 1, "{}", ended.said);
    assert!(
        !ended.said.contains("WARN") && !ended.said.contains("ERROR"),
        "{}",
        ended.said
    );
    // It is told once.
    let node = Launch::on(dir).start();
    assert_eq!(node.counts(), [items + 1, 0, 0, 0]);
    assert!(!node.stop().said.contains("torn tail"));
}
