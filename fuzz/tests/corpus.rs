//! Runs the checked-in corpora through the targets, without a fuzzer.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use omnirelay_fuzz::TARGETS;

/// Bytes that all corpora may have together: they are read in every clone.
const CORPORA_BYTES_MAX: u64 = 1_000_000;

fn corpus(target: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let entries = fs::read_dir(dir.join(target)).expect("every target has a corpus");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("the corpus can be read").path())
        .collect();
    files.sort();
    files
}

/// Runs a corpus, and checks that it reaches all that the target may report.
fn runs(target: &str, outcomes: &[&str]) {
    let (_, run) = TARGETS
        .into_iter()
        .find(|(name, _)| *name == target)
        .expect("a target");
    let mut reached = BTreeSet::new();
    for file in corpus(target) {
        // Shown if the target panics.
        println!("{}", file.display());
        let bytes = fs::read(&file).expect("an input can be read");
        reached.insert(run(&bytes));
    }
    let missing: Vec<_> = outcomes
        .iter()
        .filter(|outcome| !reached.contains(*outcome))
        .collect();
    assert!(missing.is_empty(), "the corpus does not reach {missing:?}");
}

#[test]
fn frames_are_what_they_are_when_written_again() {
    runs(
        "frames",
        &[
            "a record",
            "a record refused",
            "an enqueue",
            "an enqueue whose checksum is wrong",
            "an enqueue whose checksum is wrong",
            "a lease id's bytes",
            "a lease id's text",
            "a lease id refused",
            "a head",
            "a head of no procedure",
            "a head refused",
            "a response",
        ],
    );
}

#[test]
fn messages_of_grpc_are_what_they_are_however_they_are_cut() {
    runs(
        "grpc",
        &[
            "a message",
            "a compressed message",
            "a message refused",
            "a head",
            "a head of YARPC's",
            "a head refused",
            "an answer",
            "a request refused",
        ],
    );
}

#[test]
fn both_encodings_carry_what_either_takes() {
    runs(
        "json",
        &[
            "a call",
            "a call that is not valid",
            "a call refused",
            "a reply",
            "a lease",
            "a reply refused",
        ],
    );
}

#[test]
fn operations_do_what_the_model_does() {
    runs("operations", &["within the window", "beyond the window"]);
}

#[test]
fn records_of_any_kind_and_order_are_taken_or_refused() {
    runs("replay", &["nothing taken", "all taken", "some refused"]);
}

#[test]
fn segments_of_any_content_open_or_are_refused() {
    runs(
        "segment",
        &[
            "opened",
            "corrupt",
            "foreign",
            "another format",
            "undamaged",
            "damaged and whole",
            "damaged and cut short",
        ],
    );
}

#[test]
fn every_target_has_a_corpus_and_all_are_small() {
    let sizes = TARGETS.map(|(target, _)| {
        let files = corpus(target).into_iter();
        let size: u64 = files
            .map(|file| fs::metadata(file).expect("an input is there").len())
            .sum();
        assert!(size > 0, "the corpus of {target} is empty");
        size
    });
    let total: u64 = sizes.iter().sum();
    assert!(total <= CORPORA_BYTES_MAX, "{total} bytes: {sizes:?}");
}
