//! The client library's worker against the real process.

mod client_support;
mod harness;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use client_support::{connect, kill_and_restart, until};
use harness::Launch;
use omnirelay_client::{Failure, Item, Job, Namespace, Report};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

const WAIT: Duration = Duration::from_secs(10);

fn item(id: impl Into<String>) -> Item {
    Item::new("table", id)
}

async fn count(queue: &Namespace) -> u64 {
    let stats = queue.stats().await.expect("counts");
    stats.pending + stats.leased + stats.delayed + stats.dead
}

async fn emptied(queue: &Namespace) {
    until("all is done", || async {
        (count(queue).await == 0).then_some(())
    })
    .await;
}

/// Kills of the server under load.
const KILLS: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_completed_twice_when_the_server_is_killed_under_workers() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path()).await;
    let stop = Arc::new(AtomicBool::new(false));
    // What was acknowledged, by resource.
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut producers = JoinSet::new();
    for producer in 0..4 {
        let (queue, stop) = (queue.clone(), Arc::clone(&stop));
        let acknowledged = Arc::clone(&acknowledged);
        producers.spawn(async move {
            let mut number = 0;
            while !stop.load(SeqCst) {
                number += 1;
                let id = format!("{producer}-{number}");
                queue
                    .enqueue(item(&id))
                    .await
                    .expect("it is retried until it is taken");
                acknowledged.lock().expect("no panic").push(id);
            }
        });
    }
    let handled = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let done = Arc::new(AtomicUsize::new(0));
    let mut workers: Vec<(oneshot::Sender<()>, JoinHandle<Report>)> = Vec::new();
    for _ in 0..2 {
        let (end, ended) = oneshot::channel::<()>();
        let (handled, done) = (Arc::clone(&handled), Arc::clone(&done));
        // A client of its own, as a process of its own would have. Grants that a kill kept from
        // arriving come again when their lease ends.
        let worker = connect(&node, dir.path())
            .await
            .worker()
            .concurrency(8)
            .lease_for(Duration::from_secs(3));
        let run = worker.run_until(ended, move |job: Job| {
            *handled
                .lock()
                .expect("no panic")
                .entry(job.resource_id().to_owned())
                .or_default() += 1;
            done.fetch_add(1, SeqCst);
            async { Ok(()) }
        });
        let run = async { run.await.expect("it works until it is told to end") };
        workers.push((end, tokio::spawn(run)));
    }
    for kill in 0..KILLS {
        let before = done.load(SeqCst);
        until("work goes on", || async {
            (done.load(SeqCst) > before + 100).then_some(())
        })
        .await;
        let ready;
        (node, ready) = kill_and_restart(node, dir.path());
        let before = done.load(SeqCst);
        until("work goes on", || async {
            (done.load(SeqCst) > before).then_some(())
        })
        .await;
        eprintln!(
            "restart {kill}: at work {} ms after readiness",
            ready.elapsed().as_millis()
        );
        assert!(
            ready.elapsed() < Duration::from_secs(1),
            "{:?}",
            ready.elapsed()
        );
    }
    stop.store(true, SeqCst);
    while let Some(producer) = producers.join_next().await {
        producer.expect("every enqueue was acknowledged");
    }
    emptied(&queue).await;
    let mut sum = Report::default();
    for (end, run) in workers {
        let _ = end.send(());
        let report = run.await.expect("no panic");
        sum.completed += report.completed;
        sum.lost += report.lost;
        sum.failed += report.failed;
        sum.unsettled += report.unsettled;
    }
    let acknowledged = acknowledged.lock().expect("no panic");
    let handled = handled.lock().expect("no panic");
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|id| !handled.contains_key(*id))
        .collect();
    assert!(lost.is_empty(), "never handled: {lost:?}");
    let strangers = handled
        .keys()
        .filter(|id| !acknowledged.contains(id))
        .count();
    assert_eq!(strangers, 0, "handled and not enqueued");
    assert_eq!(sum.completed, acknowledged.len() as u64, "{sum:?}");
    assert_eq!((sum.lost, sum.failed, sum.unsettled), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_fail_or_panic_fail_their_item_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .set("namespaces.resourcelease.requeue_delay=10ms")
        .start();
    let queue = connect(&node, dir.path()).await;
    for id in ["panics", "fails", "hopeless", "works"] {
        queue.enqueue(item(id)).await.expect("it is taken");
    }
    let (end, ended) = oneshot::channel::<()>();
    let errors = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&errors);
    let handler = move |job: Job| {
        let errors = Arc::clone(&seen);
        async move {
            if let Some(error) = job.last_error() {
                errors.lock().expect("no panic").push(error.to_owned());
            }
            match (job.resource_id(), job.attempt()) {
                ("panics", 1) => panic!("out of {}", "luck"),
                ("fails", 1) => Err(std::io::Error::other("no disk").into()),
                ("hopeless", _) => Err(Failure::give_up("no use")),
                _ => Ok(()),
            }
        }
    };
    let worker = tokio::spawn(queue.worker().run_until(ended, handler));
    until("one is dead and the rest done", || async {
        let stats = queue.stats().await.expect("counts");
        (stats.dead == 1 && stats.pending + stats.leased + stats.delayed == 0).then_some(())
    })
    .await;
    let _ = end.send(());
    let report = worker.await.expect("no panic").expect("it ends well");
    assert_eq!(
        (report.completed, report.failed, report.panicked),
        (3, 3, 1)
    );
    let mut errors = errors.lock().expect("no panic").clone();
    errors.sort();
    assert_eq!(errors, ["no disk", "the handler panicked: out of luck"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_takes_no_more_than_it_works_on_and_renews_what_it_has() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path()).await;
    for id in 0..6 {
        queue
            .enqueue(item(id.to_string()))
            .await
            .expect("it is taken");
    }
    let (end, ended) = oneshot::channel::<()>();
    let (begun, mut begins) = mpsc::unbounded_channel();
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let watched = Arc::clone(&most);
    let handler = move |job: Job| {
        let (running, most, begun) = (Arc::clone(&running), Arc::clone(&watched), begun.clone());
        async move {
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            begun.send(job.attempt()).expect("somebody listens");
            // Two and a half times its lease.
            tokio::time::sleep(Duration::from_millis(2_500)).await;
            running.fetch_sub(1, SeqCst);
            Ok(())
        }
    };
    let worker = queue
        .worker()
        .concurrency(3)
        .lease_for(Duration::from_secs(1));
    let worker = tokio::spawn(worker.run_until(ended, handler));
    for _ in 0..3 {
        begins.recv().await;
    }
    let stats = queue.stats().await.expect("counts");
    assert_eq!((stats.leased, stats.pending), (3, 3));
    emptied(&queue).await;
    let _ = end.send(());
    let report = worker.await.expect("no panic").expect("it ends well");
    assert_eq!((report.completed, report.lost), (6, 0));
    assert_eq!(most.load(SeqCst), 3);
    while let Ok(attempt) = begins.try_recv() {
        assert_eq!(attempt, 1, "a lease ran out under its handler");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_is_told_when_its_lease_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path()).await;
    let put = queue.enqueue(item("orders")).await.expect("it is taken");
    let (end, ended) = oneshot::channel::<()>();
    let (telling, mut told) = mpsc::unbounded_channel();
    let handler = move |job: Job| {
        let telling = telling.clone();
        async move {
            let _ = telling.send(job.is_lost());
            job.lost().await;
            let _ = telling.send(job.is_lost());
            Ok(())
        }
    };
    let worker = queue.worker().lease_for(Duration::from_secs(1));
    let worker = tokio::spawn(worker.run_until(ended, handler));
    assert_eq!(told.recv().await, Some(false));
    let cancelled = node
        .connect()
        .call("cancel", json!({"sequenceIds": [put.sequence_id]}));
    assert_eq!(cancelled.ok()["results"][0]["success"], true);
    let waited = tokio::time::timeout(WAIT, told.recv()).await;
    assert_eq!(waited.expect("the handler is told"), Some(true));
    let _ = end.send(());
    let report = worker.await.expect("no panic").expect("it ends well");
    assert_eq!((report.completed, report.lost), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_ends_finishes_what_it_can_and_gives_back_the_rest() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path()).await;
    for id in ["quick", "stuck"] {
        queue.enqueue(item(id)).await.expect("it is taken");
    }
    let (end, ended) = oneshot::channel::<()>();
    let (begun, mut begins) = mpsc::unbounded_channel();
    let handler = move |job: Job| {
        let begun = begun.clone();
        async move {
            begun.send(()).expect("somebody listens");
            match job.resource_id() {
                "quick" => tokio::time::sleep(Duration::from_millis(300)).await,
                _ => std::future::pending().await,
            }
            Ok(())
        }
    };
    let worker = queue.worker().shutdown_timeout(Duration::from_secs(1));
    let worker = tokio::spawn(worker.run_until(ended, handler));
    begins.recv().await;
    begins.recv().await;
    let asked = Instant::now();
    let _ = end.send(());
    queue.enqueue(item("later")).await.expect("it is taken");
    let report = worker.await.expect("no panic").expect("it ends well");
    assert!(asked.elapsed() >= Duration::from_secs(1));
    assert_eq!((report.completed, report.given_back), (1, 1));
    // Both are there at once: the stuck one again, and the one that came too late.
    let mut found = Vec::new();
    while let Some(lease) = queue.lease(Duration::ZERO).await.expect("an answer") {
        found.push((lease.resource_id().to_owned(), lease.attempt()));
    }
    found.sort();
    assert_eq!(found, [("later".to_owned(), 1), ("stuck".to_owned(), 2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_without_a_namespace_ends_with_an_error() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path()).await;
    drop(queue);
    let client = client_support::builder(&node, dir.path())
        .connect()
        .await
        .expect("a connection");
    let nowhere = client.namespace("nowhere").worker();
    let never = std::future::pending::<()>();
    let error = nowhere.run_until(never, |_: Job| async { Ok(()) }).await;
    assert_eq!(
        error.expect_err("no such namespace").code(),
        "resourcelease.namespace.unknown"
    );
}
