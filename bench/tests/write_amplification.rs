//! What a node hands to its disk for the items that go through it.
//!
//! What it protects: whatever comes in a turn is one batch, which is one write and one sync; a
//! record carries little beside its item; and a log that goes on for ever does not write its
//! segments twice.

use bench::bare_node::{Rounds, Shape, load};

/// Bytes written for each byte of a body in the course of its cycle, in hundredths; and writes and
/// syncs of a round of enqueue, lease and complete.
fn measure(shape: Shape, count: u32) -> (u64, f64, f64) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut rounds = Rounds::open(dir.path(), shape);
    rounds.run(count as usize, &mut ());
    let before = rounds.node().written();
    rounds.run(count as usize, &mut ());
    let written = rounds.node().written() - before;
    let bodies = u64::from(count) * (shape.cycles() * load::BODY_BYTES) as u64;
    let a_round = |calls: u64| calls as f64 / f64::from(count);
    let (writes, syncs) = (a_round(written.writes), a_round(written.syncs));
    println!("{shape:?}: {written:?}, {writes:.3} writes and {syncs:.3} syncs a round");
    (written.bytes * 100 / bodies, writes, syncs)
}

#[test]
fn a_turn_is_one_write_and_one_sync_and_little_beside_its_items() {
    // The second goes through more than a segment.
    for (calls, items, count, hundredths_max) in
        [(1, 1, 100, 600), (1, 64, 500, 182), (64, 1, 100, 182)]
    {
        let (hundredths, writes, syncs) = measure(Shape { calls, items }, count);
        let shape = format!("{calls} calls of {items}");
        assert!(
            hundredths <= hundredths_max,
            "{shape}: {hundredths} % of the bodies' bytes are written, at most {hundredths_max} %"
        );
        // Beginning and giving up segments takes a few more.
        assert!(writes < 3.05, "{shape}: {writes} writes a round");
        assert!(syncs < 3.05, "{shape}: {syncs} syncs a round");
    }
}
