//! Bugs that are planted on purpose must stay plantable: `cargo run -p sim --bin planted` plants
//! them and sees each one found.

use std::process::Command;

use omnirelay_sim::bugs::{all_bugs, workspace};

/// Fewer would be forgotten ones.
const BUGS_MIN: usize = 14;

#[test]
fn every_planted_bug_still_fits_the_tree() {
    let bugs = all_bugs().unwrap();
    assert!(bugs.len() >= BUGS_MIN, "{} bugs", bugs.len());
    if Command::new("git").arg("--version").output().is_err() {
        eprintln!("skipped: git is not there to try the patches with");
        return;
    }
    for bug in bugs {
        let tried = Command::new("git")
            .args(["apply", "--check"])
            .arg(&bug.path)
            .current_dir(workspace())
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&tried.stderr);
        assert!(tried.status.success(), "{} does not apply: {why}", bug.name);
    }
}
