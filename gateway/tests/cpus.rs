//! Which CPUs a node's cores run on.

mod harness;

use std::fs;
use std::io;

use harness::{Launch, Node, cores_max};

/// The CPU that each core runs on, by its thread; `None` for one that is not pinned.
fn pinned(node: &Node) -> Vec<(String, Option<usize>)> {
    let tasks = format!("/proc/{}/task", node.pid());
    let mut cores: Vec<_> = fs::read_dir(tasks)
        .expect("the node's threads")
        .flatten()
        .filter_map(|task| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let cpus = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            let name = name.trim().strip_prefix("core-")?.to_owned();
            Some((name, cpus.trim().parse().ok()))
        })
        .collect();
    cores.sort();
    cores
}

fn told(node: &Node) -> Vec<u64> {
    let (_, told) = node.admin("/omnirelay/introspect");
    let cores = told["cores"].as_array().expect("cores");
    cores
        .iter()
        .filter_map(|core| core["cpu"].as_u64())
        .collect()
}

/// What a child does before it becomes the node, to be allowed one CPU only.
fn allow_only(cpu: usize) -> impl FnMut() -> io::Result<()> + Send + Sync + 'static {
    move || {
        // SAFETY: an all-zero cpu_set_t is the empty set.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: CPUs of this machine are within the set.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        // SAFETY: the set is valid for its size; 0 names this process.
        match unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

#[test]
fn a_list_pins_each_core_to_its_cpu_in_that_order() {
    if cores_max() < 2 {
        eprintln!("skipped: one CPU");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cpus("1,0").start();
    assert_eq!(told(&node), [1, 0]);
    assert_eq!(
        pinned(&node),
        [("0".into(), Some(1)), ("1".into(), Some(0))]
    );
    node.stop();
    let node = Launch::on(dir.path()).cpus("1-1").start();
    assert_eq!(told(&node), [1]);
    assert_eq!(pinned(&node), [("0".into(), Some(1))]);
}

#[test]
fn cpus_that_this_process_may_not_use_are_not_used() {
    if cores_max() < 2 {
        eprintln!("skipped: one CPU");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let confined = |cpus: &str| {
        // SAFETY: setting the affinity is a system call and no more.
        unsafe { Launch::on(dir.path()).cpus(cpus).before_exec(allow_only(1)) }
    };
    let node = confined("all").start();
    assert_eq!(told(&node), [1]);
    assert_eq!(pinned(&node), [("0".into(), Some(1))]);
    node.stop();
    for (cpus, why) in [
        ("0,1", "names CPU 0, which this process may not use"),
        ("2", "is more than the CPUs there are"),
        ("1,1", "names CPU 1 twice"),
        ("1-3000", "names CPU 2, which this process may not use"),
        ("4096-4097", "it must be \"all\", a count"),
    ] {
        let ended = confined(cpus).ended();
        assert_eq!(ended.code, Some(2), "{}", ended.said);
        assert!(ended.said.contains(why), "{}", ended.said);
        assert!(ended.said.contains("--cores"), "{}", ended.said);
    }
}
