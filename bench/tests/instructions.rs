//! How many instructions a cycle takes, stage by stage, counted by callgrind: a count is the same on
//! a busy machine as on an idle one. Skipped without valgrind.
//!
//! What it protects: nothing goes over a body, an item or a table more often than it has to. The
//! bounds are those of the test profile, which optimises the crates that do the work (see the
//! profiles in `Cargo.toml`); a release build takes fewer.

use std::fs;
use std::process::Command;

/// Instructions of one cycle (an item is put in, leased and completed) in each of [`STAGES`], at
/// most: what it was when it was last written down here, and 15 %.
struct Bound {
    calls: usize,
    items: usize,
    stages: [u64; STAGES.len()],
}

/// Stages, and the functions of `BareNode` that they are.
const STAGES: [(&str, &[&str]); 4] = [
    ("decode", &["read"]),
    ("core", &["take", "hear"]),
    ("log", &["do_tasks"]),
    ("reply", &["write_replies"]),
];

const BOUNDS: [Bound; 2] = [
    Bound {
        calls: 1,
        items: 64,
        stages: [3_880, 25_000, 540, 6_720],
    },
    Bound {
        calls: 64,
        items: 1,
        stages: [20_900, 61_400, 540, 12_560],
    },
];

const ROUNDS: usize = 40;

#[test]
fn a_cycle_takes_no_more_instructions_than_before() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: no valgrind");
        return;
    }
    let mut broken = Vec::new();
    for bound in BOUNDS {
        let (calls, items) = (bound.calls, bound.items);
        let found = count(calls, items);
        for (at, (stage, _)) in STAGES.into_iter().enumerate() {
            let (found, most) = (found[at], bound.stages[at]);
            println!("{calls} calls of {items}, {stage}: {found} of {most}");
            assert!(found > 0, "no instruction of {stage} was counted");
            if found > most {
                broken.push(format!(
                    "{calls} calls of {items}, {stage}: {found}, at most {most}"
                ));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "more instructions a cycle than before; `node-cycles --help` says how to see where:\n{}",
        broken.join("\n")
    );
}

/// Instructions of a cycle by stage.
fn count(calls: usize, items: usize) -> [u64; STAGES.len()] {
    let dir = tempfile::tempdir().expect("a directory");
    let profile = dir.path().join("profile");
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--read-inline-info=no"])
        .args(["--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(env!("CARGO_BIN_EXE_node-cycles"))
        .args(["--calls", &calls.to_string()])
        .args(["--items", &items.to_string()])
        .args(["--rounds", &ROUNDS.to_string()])
        .output()
        .expect("valgrind was there");
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    let profile = fs::read_to_string(profile).expect("callgrind writes a profile");
    let cycles = (ROUNDS * calls * items) as u64;
    STAGES.map(|(_, functions)| {
        let counts = functions.iter().map(|function| within(&profile, function));
        counts.sum::<u64>() / cycles
    })
}

/// Instructions within a function of `BareNode`, those of what it calls included.
fn within(profile: &str, function: &str) -> u64 {
    let mut is_in = false;
    let mut sum = 0;
    for line in profile.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            let (_, name) = name.rsplit_once("BareNode::").unwrap_or_default();
            let rest = name.strip_prefix(function);
            is_in = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::h"));
        } else if is_in && line.starts_with(|c: char| c.is_ascii_digit()) {
            // A line of source and what it took, or what all was that it called.
            let (_, count) = line.rsplit_once(' ').expect("a position and a count");
            sum += count.parse::<u64>().expect("a count");
        }
    }
    sum
}
