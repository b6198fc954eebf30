//! CPU time of a process and everything that it has started.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use omnirelay_loadgen::cpu::ProcessClock;

/// Of `/proc/PID/stat`, counted from the one behind the name, which is in brackets.
const PARENT: usize = 1;
const DEAD_CHILDREN_USER: usize = 13;
const DEAD_CHILDREN_SYSTEM: usize = 14;
/// What the kernel counts CPU time in there, whatever its own clock's rate.
const TICKS_PER_S: u64 = 100;

/// A process and its descendants, itself first.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let pid = process.file_name().to_string_lossy().parse();
        if let Ok(pid) = pid
            && let Some(parent) = stat(pid).and_then(|stat| stat.get(PARENT).copied())
        {
            let parent = u32::try_from(parent).unwrap_or(0);
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&pid) = tree.get(next) {
        tree.extend(children.remove(&pid).unwrap_or_default());
        next += 1;
    }
    tree
}

/// CPU time so far of a process, its descendants, and those of them that have ended.
pub(crate) fn of_tree(root: u32) -> Duration {
    tree(root).into_iter().map(of_process).sum()
}

/// Of one, with its children that have ended; nothing once it is gone itself.
fn of_process(pid: u32) -> Duration {
    let Ok(clock) = ProcessClock::of(pid.cast_signed()) else {
        return Duration::ZERO;
    };
    let ended = stat(pid).map_or(0, |stat| {
        let at = |place: usize| stat.get(place).copied().unwrap_or(0);
        at(DEAD_CHILDREN_USER) + at(DEAD_CHILDREN_SYSTEM)
    });
    clock.time().unwrap_or_default() + Duration::from_millis(1_000 / TICKS_PER_S * ended)
}

/// The fields behind the name; those that are no counts are 0.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields = fields.split_ascii_whitespace();
    Some(fields.map(|field| field.parse().unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn time_of_children_counts_while_they_run_and_when_they_have_ended() {
        let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let script = format!("sh -c '{work}; :'; echo ended; read line");
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        let stdout = shell.stdout.as_mut().unwrap();
        std::io::Read::read_exact(stdout, &mut said).unwrap();
        let own = ProcessClock::of(shell.id().cast_signed()).unwrap();
        let (all, own) = (of_tree(shell.id()), own.time().unwrap());
        drop(shell.stdin.take());
        shell.wait().unwrap();
        assert!(all > own + Duration::from_millis(10), "{all:?} {own:?}");
    }

    #[test]
    fn a_tree_has_children_of_children() {
        let script = "sh -c 'sleep 60 & echo there; wait'";
        let mut shell = Command::new("sh")
            .args(["-c", &format!("{script}; :")])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 5];
        let stdout = shell.stdout.as_mut().unwrap();
        std::io::Read::read_exact(stdout, &mut said).unwrap();
        let tree = tree(shell.id());
        assert_eq!(tree[0], shell.id());
        assert_eq!(tree.len(), 3, "{tree:?}");
        for pid in tree.iter().rev() {
            super::super::process::kill(*pid);
        }
        shell.wait().unwrap();
    }
}
