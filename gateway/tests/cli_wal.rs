//! Looking at a data directory, told by the commands.

mod cli_support;
mod harness;

use std::path::Path;

use cli_support::{Outcome, run_in};
use harness::{Launch, item, segments};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

const DATA: &str = "data";

/// A directory in which a node has worked, and ended cleanly.
fn worked(items: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(&dir.path().join(DATA))
        .set("namespaces.resourcelease.shards=1")
        .start();
    let mut client = node.connect();
    for n in 0..items {
        client.call("enqueue", item(&format!("r{n}"))).ok();
    }
    assert_eq!(node.stop().code, Some(0));
    dir
}

fn wal(dir: &Path, arguments: &[&str]) -> Outcome {
    run_in(dir, &[&["wal"], arguments].concat())
}

/// A table's cells.
fn cells(outcome: &Outcome) -> Vec<Vec<&str>> {
    assert_eq!(outcome.code, Some(0), "{outcome}");
    let lines = outcome.stdout.lines();
    lines
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect()
}

#[test]
fn a_log_is_told_in_words() {
    let dir = worked(1);
    let told = wal(dir.path(), &["tail", DATA, "--log", "0"]);
    let lines = cells(&told);
    let without_time: Vec<&[&str]> = lines.iter().map(|line| &line[1..]).collect();
    assert_eq!(
        without_time,
        [
            &["PLACE", "SHARD", "EPOCH", "LSN", "RECORD"][..],
            &["1:4157", "0", "1", "1", "EpochStarted after 0"],
            &["1:4669", "0", "1", "2", "Enqueued table/r0, 10 bytes"],
        ],
    );
    assert_eq!(
        cells(&wal(dir.path(), &["tail", DATA, "--shard", "7"])).len(),
        1
    );
    let json = wal(dir.path(), &["tail", "data/log-0", "--output", "json"]);
    let last: Value =
        serde_json::from_str(json.stdout.lines().last().expect("a line")).expect("JSON");
    assert_eq!(
        (&last["lsn"], &last["segment"], &last["kind"]),
        (&2.into(), &1.into(), &2.into())
    );
}

#[test]
fn segments_are_listed_with_what_is_in_them() {
    let dir = worked(3);
    let lines = wal(dir.path(), &["inspect", DATA]);
    let lines = cells(&lines);
    assert_eq!(
        lines[..2],
        [
            vec![
                "LOG",
                "SEGMENT",
                "BYTES",
                "FIRST BATCH",
                "BATCHES",
                "RECORDS",
                "STATE"
            ],
            vec!["0", "1", "8388608", "1", "4", "4", "in use"],
        ],
    );
    assert!(
        lines[2..].iter().all(|line| line[6] == "spare"),
        "{lines:?}"
    );
    let sound = wal(dir.path(), &["verify", DATA]);
    assert!(sound.stdout.contains("sound, closed cleanly"), "{sound}");
}

#[test]
fn every_flipped_bit_of_a_closed_log_is_found() {
    let dir = worked(40);
    let data = dir.path().join(DATA);
    let file = segments::begun(&data).remove(0);
    let whole = std::fs::read(&file).expect("the segment");
    let batches = segments::batches(&file);
    let mut random = StdRng::seed_from_u64(3);
    for _ in 0..40 {
        // In a batch's header or its records: what is behind them up to the next sector is nothing.
        let start = batches[random.random_range(0..batches.len() - 1)];
        let length = u32::from_le_bytes(whole[start + 4..start + 8].try_into().expect("four"));
        let length = 32 + usize::try_from(length).expect("a length");
        let at = start
            + (0..28)
                .chain(32..length)
                .nth(random.random_range(0..length - 4))
                .expect("a byte");
        let bit = 1 << random.random_range(0..8);
        segments::damage(&file, |bytes| bytes[at] ^= bit);
        let found = wal(dir.path(), &["verify", DATA]);
        assert_eq!(found.code, Some(1), "byte {at}: {found}");
        assert!(found.stderr.contains("error[cli.wal.damaged]"), "{found}");
        assert!(
            found
                .stderr
                .contains(&format!("00000001.seg is damaged at byte {start}")),
            "byte {at}: {found}"
        );
        segments::damage(&file, |bytes| bytes[at] ^= bit);
    }
    assert_eq!(wal(dir.path(), &["verify", DATA]).code, Some(0));
}

#[test]
fn what_is_no_log_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    insta::assert_snapshot!(wal(dir.path(), &["verify", "nowhere"]), @r"
    error[cli.wal]: cannot read nowhere: No such file or directory (os error 2)
    help: name a node's data directory, and run as a user who may read it
    exit 1
    ");
    insta::assert_snapshot!(wal(dir.path(), &["inspect", "."]), @r"
    error[cli.wal]: . has no logs
    help: name a node's data directory, or a directory log-N in it
    exit 1
    ");
}
