//! The client library's calls against the real process.

mod client_support;
mod harness;

use std::time::{Duration, Instant};

use client_support::{builder, connect, kill_and_restart, replies, signal, until};
use harness::{BOUND, Launch};
use omnirelay_client::{
    Batching, ConnectError, Failure, Item, LeaseOptions, Namespace, Outcome, RetryBudget, Settle,
    Tls,
};
use omnirelay_net::tls::self_signed;
use tokio::task::JoinSet;

const WAIT: Duration = Duration::from_secs(10);
/// Lease calls that are dropped, each 10 µs later than the one before.
const ROUNDS: u64 = 300;

fn item(id: impl Into<String>) -> Item {
    Item::new("table", id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_is_enqueued_leased_renewed_and_completed() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path()).await;
    let work = item("orders")
        .body("text/plain", "vacuum")
        .attribute("by", "hand")
        .partition_key("eu")
        .request_id("one");
    let put = queue.enqueue(work.clone()).await.expect("it is taken");
    assert!(!put.duplicate);
    assert_eq!(put.receipt.expect("a receipt").durability, "disk");
    let again = queue.enqueue(work).await.expect("it is taken");
    assert_eq!(
        (again.sequence_id, again.duplicate),
        (put.sequence_id, true)
    );

    let lease = queue.lease(WAIT).await.expect("a lease").expect("an item");
    assert_eq!(lease.sequence_id(), put.sequence_id);
    assert_eq!(
        (lease.body().as_ref(), lease.encoding()),
        (&b"vacuum"[..], "text/plain")
    );
    assert_eq!(
        (lease.resource_type(), lease.resource_id()),
        ("table", "orders")
    );
    assert_eq!(lease.partition_key(), Some("eu"));
    assert_eq!(lease.attributes()["by"], "hand");
    assert_eq!((lease.request_id(), lease.attempt()), (Some("one"), 1));
    assert!(lease.expires_at() > lease.enqueued_at());
    let minute = Duration::from_secs(60);
    assert_eq!(
        lease.heartbeat(Some(minute)).await.expect("renewed"),
        minute
    );
    assert!(lease.complete().await.expect("completed").receipt.is_some());
    let fenced = lease.complete().await.expect_err("it is over");
    assert_eq!(fenced.fenced_reason(), Some("completed"));
    assert!(!fenced.is_retryable());
    assert_eq!(
        queue
            .lease(Duration::ZERO)
            .await
            .expect("an answer")
            .map(|_| ()),
        None
    );
    let stats = queue.stats().await.expect("counts");
    assert_eq!(
        (stats.pending, stats.leased, stats.delayed, stats.dead),
        (0, 0, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_have_a_result_for_each_item() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path()).await;
    let items = [item("a"), Item::new(" ", "b"), item("c")];
    let put = queue.enqueue_batch(items).await.expect("a reply");
    let codes: Vec<_> = put
        .iter()
        .map(|r| r.as_ref().map_err(|e| e.code().to_owned()).is_ok())
        .collect();
    assert_eq!(codes, [true, false, true]);
    let refused = put[1].as_ref().expect_err("its type is blank");
    assert_eq!(
        refused.code(),
        "resourcelease.payload.resource_type_required"
    );
    assert_eq!(refused.outcome(), Outcome::NotDone);
    let options = LeaseOptions::default()
        .items_max(10)
        .wait(WAIT)
        .peer_id("one");
    let leases = queue.lease_with(options).await.expect("leases");
    assert_eq!(leases.len(), 2);
    let settles = [
        (leases[0].token().clone(), Settle::Complete),
        (
            leases[1].token().clone(),
            Settle::Fail(Failure::give_up("no use").code("E1")),
        ),
        (leases[0].token().clone(), Settle::Complete),
    ];
    let settled = queue.settle_batch(settles).await.expect("a reply");
    assert!(settled[0].is_ok() && settled[1].is_ok());
    assert!(settled[2].as_ref().expect_err("it is over").is_fenced());
    assert_eq!(queue.stats().await.expect("counts").dead, 1);
    let nowhere = queue
        .settle(&"7/1/none".parse().expect("a token"), Settle::Complete)
        .await;
    assert_eq!(
        nowhere.expect_err("no such lease").code(),
        "resourcelease.lease.unknown_token"
    );
}

async fn enqueue_together(queue: &Namespace, from: usize, count: usize) {
    let mut calls = JoinSet::new();
    for id in from..from + count {
        let queue = queue.clone();
        calls.spawn(async move { queue.enqueue(item(id.to_string())).await });
    }
    let mut seen = std::collections::HashSet::new();
    while let Some(put) = calls.join_next().await {
        let put = put.expect("no panic").expect("it is taken");
        assert!(seen.insert(put.sequence_id), "two calls have one result");
    }
    assert_eq!(seen.len(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_made_at_the_same_time_share_frames_unless_told_not_to() {
    const CALLS: usize = 500;
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path()).await;
    enqueue_together(&queue, 0, CALLS).await;
    let frames = async |procedure| {
        // What a core has counted is shown a while later; this call is counted behind the others.
        let before = replies(&node, "stats");
        queue.stats().await.expect("counts");
        until("the counters are shown", || async {
            (replies(&node, "stats") > before).then_some(())
        })
        .await;
        replies(&node, procedure)
    };
    let joined = frames("enqueueBatch").await;
    assert!(joined > 0 && joined < CALLS as u64 / 5, "{joined} frames");

    let leases = queue.lease_with(LeaseOptions::default().items_max(500).wait(WAIT));
    let leases = leases.await.expect("leases");
    let count = leases.len();
    let mut calls = JoinSet::new();
    for lease in leases {
        calls.spawn(async move { lease.complete().await });
    }
    while let Some(done) = calls.join_next().await {
        done.expect("no panic").expect("it is completed");
    }
    let settles = frames("settle").await;
    assert!(
        settles > 0 && settles < count as u64 / 5,
        "{settles} frames"
    );

    let apart = builder(&node, dir.path()).batching(Batching::off());
    let apart = apart
        .connect()
        .await
        .expect("a connection")
        .default_namespace();
    enqueue_together(&apart, CALLS, CALLS).await;
    assert_eq!(frames("enqueueBatch").await - joined, CALLS as u64);

    let small = Batching {
        items_max: 10,
        ..Batching::default()
    };
    let small = builder(&node, dir.path()).batching(small);
    let small = small
        .connect()
        .await
        .expect("a connection")
        .default_namespace();
    let before = frames("enqueueBatch").await;
    enqueue_together(&small, 2 * CALLS, CALLS).await;
    let small = frames("enqueueBatch").await - before;
    assert!(
        small >= CALLS as u64 / 10 && small < CALLS as u64,
        "{small} frames"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_call_that_is_dropped_leaves_no_lease_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path()).await;
    // Dropped at every moment around the grant, also when the reply is under way.
    let (mut dropped, mut received) = (0, 0);
    for round in 0..ROUNDS {
        let asking = queue.lease(WAIT);
        let put = queue.enqueue(item(round.to_string()));
        let moment = async {
            put.await.expect("it is taken");
            let put = Instant::now();
            while put.elapsed() < Duration::from_micros(round * 10) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = moment => dropped += 1,
            lease = asking => {
                received += 1;
                let lease = lease.expect("an answer").expect("an item");
                lease.complete().await.expect("it is this one's");
            }
        }
    }
    assert!(
        dropped > 0 && received > 0,
        "dropped {dropped}, received {received}"
    );
    // Leases that were left behind would last for half a minute.
    let started = Instant::now();
    until("nothing is leased", || async {
        let stats = queue.stats().await.expect("counts");
        (stats.leased == 0).then_some(())
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(10), "they expired");
}

/// Well before its lease would have expired.
#[test]
fn what_a_waiting_client_that_froze_was_given_goes_to_another() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
    // It runs no further once this has returned, and says nothing to anyone.
    let frozen = runtime();
    frozen.block_on(async {
        let queue = connect(&node, dir.path()).await;
        tokio::spawn(async move { queue.lease(WAIT).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    runtime().block_on(async {
        let queue = connect(&node, dir.path()).await;
        queue.enqueue(item("one")).await.expect("it is taken");
        until("it is given to the one that froze", async || {
            let stats = queue.stats().await.expect("counts");
            (stats.leased == 1).then_some(())
        })
        .await;
        let lease = queue.lease(WAIT).await.expect("an answer");
        let lease = lease.expect("it comes back before anybody's lease ends");
        assert_eq!(lease.attempt(), 1, "a grant that nobody got does not count");
        lease.complete().await.expect("completed");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_with_its_deadline_and_says_what_is_known() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let queue = connect(&node, dir.path())
        .await
        .with_timeout(Duration::from_millis(300));
    signal(&node, libc::SIGSTOP);
    let started = Instant::now();
    let error = queue.stats().await.expect_err("nobody answers");
    assert_eq!(error.code(), "rpc.deadline", "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert!(started.elapsed() < Duration::from_secs(5));
    signal(&node, libc::SIGCONT);
    node.kill();
    until("the client notices", || async {
        let error = queue.stats().await.expect_err("nobody is there");
        let in_vain = error.outcome() == Outcome::NotDone && error.code() == "rpc.deadline";
        in_vain.then(|| {
            assert!(error.message().contains("no connection within"), "{error}");
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_another_certificate_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let other = tempfile::tempdir().expect("a directory");
    let wrong = self_signed(other.path()).expect("a certificate").cert;
    let node = Launch::on(dir.path()).start();
    let named = Tls::ca(dir.path().join("tls/server.crt")).server_name("elsewhere.example");
    for tls in [Tls::ca(wrong), named] {
        let began = Instant::now();
        let client = builder(&node, dir.path())
            .tls(tls)
            .connect_timeout(BOUND * 2);
        let error = client.connect().await.expect_err("it is not trusted");
        let is_certificate = matches!(error, ConnectError::Certificate { .. });
        assert!(is_certificate, "{error}");
        assert!(began.elapsed() < BOUND, "it was tried again and again");
    }
    let anyone = builder(&node, dir.path()).tls(Tls::unverified());
    anyone.connect().await.expect("it was told not to look");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_tried_in_turn() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let client = omnirelay_client::Client::builder()
        .address("127.0.0.1:1")
        .address(node.address.to_string())
        .tls(Tls::ca(dir.path().join("tls/server.crt")));
    let client = client.connect().await.expect("the second answers");
    client.default_namespace().stats().await.expect("counts");
    client.close().await;
    let error = client
        .default_namespace()
        .stats()
        .await
        .expect_err("it is closed");
    assert_eq!(error.code(), "client.closed");
    assert!(!error.is_retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_survives_a_restart_as_far_as_the_retry_budget_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Launch::on(dir.path()).start();
    for (tokens_max, survives) in [(0, false), (500, true)] {
        let budget = RetryBudget {
            tokens_max,
            per_second: 0,
        };
        let client = builder(&node, dir.path()).retry_budget(budget);
        let queue = client
            .connect()
            .await
            .expect("a connection")
            .default_namespace();
        let waiting = tokio::spawn(async move { queue.lease(BOUND).await });
        harness::wait_for("the call waits", || {
            (node.over_cores("/openCalls") > 0).then_some(())
        });
        node = kill_and_restart(node, dir.path()).0;
        if survives {
            let queue = connect(&node, dir.path()).await;
            queue.enqueue(item("late")).await.expect("it is taken");
            let lease = waiting.await.expect("no panic").expect("a lease");
            assert_eq!(lease.expect("an item").resource_id(), "late");
        } else {
            let error = waiting
                .await
                .expect("no panic")
                .expect_err("it was cut off");
            assert_eq!(error.code(), "client.connection");
            assert_eq!(error.outcome(), Outcome::Unknown);
            assert!(error.is_retryable() && error.retry_after().is_some());
        }
    }
}
