//! What a node costs while it has nothing to do.

mod harness;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use harness::{Connection, Launch, Node, Request, cores_max, item, wait_for};
use serde_json::{Value, json};

/// How long it is watched.
const WINDOW: Duration = Duration::from_secs(3);
/// Share of one CPU that it may use meanwhile.
const CPU_SHARE_MAX: f64 = 0.005;
/// The same beside a hundred workers that wait for a partition key, which on several cores look
/// again ten times a second.
const KEYED_CPU_SHARE_MAX: f64 = 0.02;
/// How often any of its threads may run, a second.
const RUNS_PER_SECOND_MAX: f64 = 5.0;
/// A window may be spoilt by what the node still does for its start.
const WINDOWS: usize = 3;

/// Time on a CPU, and how often a thread was given one, over all threads of a node.
#[derive(Clone, Copy)]
struct Use {
    cpu: Duration,
    runs: u64,
}

impl Use {
    fn of(node: &Node) -> Use {
        let tasks = fs::read_dir(format!("/proc/{}/task", node.pid())).expect("threads");
        let mut sum = Use {
            cpu: Duration::ZERO,
            runs: 0,
        };
        for task in tasks.flatten() {
            let told = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let numbers: Vec<u64> = told.split_whitespace().flat_map(str::parse).collect();
            if let [cpu_ns, _, runs] = numbers[..] {
                sum.cpu += Duration::from_nanos(cpu_ns);
                sum.runs += runs;
            }
        }
        assert!(sum.runs > 0, "the kernel keeps schedstat");
        sum
    }
}

/// What the node uses in the calmest of a few windows: CPUs, and runs a second.
fn idle_use(node: &Node) -> (f64, f64) {
    let mut calmest = (f64::MAX, f64::MAX);
    for _ in 0..WINDOWS {
        let (before, began) = (Use::of(node), Instant::now());
        thread::sleep(WINDOW);
        let (after, took) = (Use::of(node), began.elapsed().as_secs_f64());
        let cpus = (after.cpu - before.cpu).as_secs_f64() / took;
        let runs = (after.runs - before.runs) as f64 / took;
        if runs < calmest.1 {
            calmest = (cpus, runs);
        }
        if cpus <= CPU_SHARE_MAX && runs <= RUNS_PER_SECOND_MAX {
            break;
        }
    }
    eprintln!("{:.4} CPUs, {:.1} runs a second", calmest.0, calmest.1);
    calmest
}

/// Workers that wait for longer than the node is watched.
fn park(node: &Node, workers: usize, fields: &Value) -> Vec<Connection> {
    let mut wish = json!({"waitMs": 25_000});
    let more = fields.as_object().expect("fields").clone();
    wish.as_object_mut().expect("an object").extend(more);
    let request = Request::call("lease", &wish).header("Context-TTL-MS", "29000");
    let waiting: Vec<Connection> = (0..workers)
        .map(|_| {
            let mut worker = node.connect();
            worker.send(&request).expect("the request is taken");
            worker
        })
        .collect();
    wait_for("all workers wait", || {
        (node.over_cores("/openCalls") == workers as u64).then_some(())
    });
    waiting
}

#[test]
fn a_node_whose_workers_wait_uses_no_cpu() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(cores_max()).start();
    // Some work, so that it is not only a node that has never done anything.
    let mut client = node.connect();
    for n in 0..50 {
        client.call("enqueue", item(&format!("r{n}"))).ok();
        let lease = client.call("lease", json!({"waitMs": 0})).ok();
        let token = json!({"ownershipToken": lease["ownershipToken"]});
        client.call("complete", token).ok();
    }
    let mut waiting = park(&node, 100, &json!({}));
    let (cpus, runs) = idle_use(&node);
    assert!(cpus <= CPU_SHARE_MAX, "{cpus:.4} CPUs");
    assert!(
        runs <= RUNS_PER_SECOND_MAX,
        "its threads ran {runs:.1} times a second"
    );
    // And yet all of them are there at once.
    for n in 0..waiting.len() {
        client.call("enqueue", item(&format!("s{n}"))).ok();
    }
    for worker in &mut waiting {
        worker.receive().expect("the poll is answered").ok();
    }
}

#[test]
fn workers_that_wait_for_a_key_cost_little() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).cores(cores_max()).start();
    let _waiting = park(&node, 100, &json!({"partitionKey": "nobody"}));
    let (cpus, _) = idle_use(&node);
    assert!(cpus <= KEYED_CPU_SHARE_MAX, "{cpus:.4} CPUs");
}
