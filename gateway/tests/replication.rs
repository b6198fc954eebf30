//! The stream of a node's changes: whole, in order, only what is committed, and harmless.

mod harness;
mod replica;

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use harness::events::EventStream;
use harness::{Connection, Launch, Node, item, item_with, wait_for};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replica::Replica;
use serde_json::{Value, json};

const SHARDS: u32 = 3;

fn launch(dir: &std::path::Path) -> Launch {
    Launch::on(dir).set(&format!("namespaces.resourcelease.shards={SHARDS}"))
}

/// A page of a shard's events.
fn page(node: &Node, query: &str) -> (u16, Value) {
    node.admin(&format!("/omnirelay/control/replication?{query}"))
}

/// Takes in all events that are there.
fn follow(node: &Node, shard: u32, replica: &mut Replica, limit: u32) {
    let mut next = replica.last + 1;
    loop {
        let (code, page) = page(node, &format!("shard={shard}&from={next}&limit={limit}"));
        assert_eq!(code, 200, "{page}");
        let events = page["events"].as_array().expect("events");
        for event in events {
            assert_eq!(event["shardId"], shard);
            replica.apply(event);
        }
        next = page["next"].as_u64().expect("a number");
        if events.is_empty() {
            return;
        }
    }
}

fn counts(replicas: &[Replica]) -> [u64; 3] {
    replicas
        .iter()
        .map(Replica::counts)
        .fold([0; 3], |sum, counts| {
            [0, 1, 2].map(|at| sum[at] + counts[at])
        })
}

fn told(node: &Node) -> [u64; 3] {
    let [pending, leased, delayed, dead] = node.counts();
    [pending + delayed, leased, dead]
}

/// What a client has in hand.
#[derive(Default)]
struct Held {
    tokens: Vec<Value>,
    sequence_ids: Vec<u64>,
    drained: Vec<Value>,
}

/// Does something that a client may do.
fn act(client: &mut Connection, random: &mut StdRng, held: &mut Held) {
    match random.random_range(0..16) {
        0..5 => enqueue(client, random, held),
        5..8 => {
            let peer = format!("w{}", random.random_range(0..3));
            let wish = json!({"waitMs": 0, "peerId": peer, "leaseMs": 60_000});
            let reply = client.call("lease", wish);
            if reply.status == 200 {
                held.tokens.push(reply.json()["ownershipToken"].clone());
            }
        }
        8..12 if !held.tokens.is_empty() => settle(client, random, held),
        12 if !held.sequence_ids.is_empty() => {
            let at = random.random_range(0..held.sequence_ids.len());
            let id = held.sequence_ids.swap_remove(at);
            client.call("cancel", json!({"sequenceIds": [id]})).ok();
        }
        13 => {
            let dead = client.call("deadLetters", json!({"maxItems": 2})).ok();
            for item in dead["items"].as_array().into_iter().flatten() {
                let ids = json!({"sequenceIds": [item["sequenceId"]]});
                client.call("redrive", ids).ok();
            }
        }
        14 => {
            let mut wish = json!({"maxItems": random.random_range(1..4)});
            if random.random_ratio(1, 2) {
                wish["requestId"] = format!("drain-{}", random.random_range(0..1_000)).into();
            }
            let drained = client.call("drain", wish).ok();
            let items = drained["items"].as_array().cloned();
            held.drained.extend(items.unwrap_or_default());
        }
        15 if !held.drained.is_empty() => {
            let many = random.random_range(1..=held.drained.len());
            let items = held.drained.split_off(held.drained.len() - many);
            client.call("restore", json!({"items": items})).ok();
        }
        _ => {}
    }
}

fn enqueue(client: &mut Connection, random: &mut StdRng, held: &mut Held) {
    let mut more = json!({"priority": random.random_range(0..3)});
    if random.random_ratio(1, 4) {
        more["delayMs"] = random.random_range(0..50).into();
    }
    if random.random_ratio(1, 4) {
        more["maxAttempts"] = random.random_range(1..3).into();
    }
    if random.random_ratio(1, 8) {
        more["ttlMs"] = random.random_range(1..200).into();
    }
    let id = format!("r{}", random.random_range(0..20));
    let enqueued = client.call("enqueue", item_with(&id, &more)).ok();
    let sequence_id = enqueued["sequenceId"].as_u64();
    held.sequence_ids.extend(sequence_id);
}

/// The item may be gone, because it was cancelled: then there is nothing to settle.
fn settle(client: &mut Connection, random: &mut StdRng, held: &mut Held) {
    let token = held
        .tokens
        .swap_remove(random.random_range(0..held.tokens.len()));
    match random.random_range(0..3) {
        0 => {
            let beat = json!({"ownershipToken": token, "extendMs": 100_000});
            if client.call("heartbeat", beat).status == 200 {
                held.tokens.push(token);
            }
        }
        1 => drop(client.call("complete", json!({"ownershipToken": token}))),
        _ => {
            let failure = json!({
                "ownershipToken": token, "reason": "because", "errorCode": "e",
                "requeue": random.random_ratio(2, 3), "delayMs": 1,
                "metadata": {"a": "b"},
            });
            client.call("fail", failure);
        }
    }
}

/// Every item that the node shows, leased ones aside.
fn shown(client: &mut Connection) -> BTreeMap<u64, replica::Item> {
    let mut shown = BTreeMap::new();
    for operation in ["peek", "deadLetters"] {
        let mut ask = json!({"maxItems": 100});
        loop {
            let page = client.call(operation, ask.clone()).ok();
            for item in page["items"].as_array().into_iter().flatten() {
                let id = item["sequenceId"].as_u64().expect("a number");
                shown.insert(id, replica::from_pending(item));
            }
            if page["cursor"].is_null() {
                break;
            }
            ask["cursor"] = page["cursor"].clone();
        }
    }
    shown
}

/// Every item that the events tell of, leased ones aside.
fn rebuilt(replicas: &[Replica]) -> BTreeMap<u64, replica::Item> {
    let items = replicas.iter().flat_map(|replica| &replica.items);
    items
        .filter(|(_, item)| !matches!(item.state, replica::State::Leased { .. }))
        .map(|(id, item)| (*id, item.clone()))
        .collect()
}

#[test]
fn the_events_alone_rebuild_the_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = StdRng::seed_from_u64(7);
    let mut replicas = vec![Replica::default(); SHARDS as usize];
    let mut held = Held::default();
    let mut node = launch(dir.path()).start();
    for round in 0..6 {
        let mut client = node.connect();
        for _ in 0..150 {
            act(&mut client, &mut random, &mut held);
        }
        wait_for("the events tell what the node says", || {
            for (shard, replica) in (0..).zip(&mut replicas) {
                follow(&node, shard, replica, random.random_range(1..100));
            }
            let is_same =
                counts(&replicas) == told(&node) && rebuilt(&replicas) == shown(&mut client);
            is_same.then_some(())
        });
        if round % 2 == 1 {
            node.kill();
            node = launch(dir.path()).start();
        }
    }
    // One who reads it all at once from the start knows the same.
    for (shard, replica) in (0..).zip(&mut replicas) {
        let mut again = Replica::default();
        follow(&node, shard, &mut again, 10_000);
        follow(&node, shard, replica, 10_000);
        let last = replica.last.max(again.last);
        follow(&node, shard, &mut again, 10_000);
        assert!(again.last >= last && (again.last > last || again == *replica));
    }
}

#[test]
fn a_snapshot_tells_what_the_events_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = StdRng::seed_from_u64(11);
    let node = launch(dir.path()).start();
    let mut client = node.connect();
    let mut held = Held::default();
    for _ in 0..300 {
        act(&mut client, &mut random, &mut held);
    }
    for shard in 0..SHARDS {
        let (mut all, mut brief) = (Replica::default(), Replica::default());
        let (code, answer) = page(&node, &format!("shard={shard}&snapshot=true"));
        assert_eq!(code, 200);
        let events = answer["events"].as_array().expect("events");
        events.iter().for_each(|event| brief.apply(event));
        assert_eq!(answer["next"], brief.last + 1);
        assert!(events.len() == brief.items.len().max(1));
        follow(&node, shard, &mut all, 100);
        // What happened since the snapshot, by time alone.
        let last = all.last;
        follow(&node, shard, &mut brief, 100);
        follow(&node, shard, &mut all, 100);
        assert!(brief.last >= last);
        assert_eq!(
            all.items.keys().collect::<Vec<_>>(),
            brief.items.keys().collect::<Vec<_>>()
        );
        for (id, item) in &all.items {
            assert_eq!(item, &brief.items[id]);
        }
    }
    let (_, empty) = page(
        &launch(tempfile::tempdir().expect("a directory").path()).start(),
        "shard=0&snapshot=true",
    );
    assert_eq!(empty["events"][0]["metadata"]["snapshot.of"], "0");
}

#[test]
fn a_stream_goes_on_where_it_was_across_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = launch(dir.path()).start();
    let mut replica = Replica::default();
    let mut last = None;
    for round in 0..4 {
        let path = "/omnirelay/control/replication/stream?shard=1";
        let mut stream = EventStream::open(node.admin_address, path, last).expect("a stream");
        let worker = {
            let mut client = node.connect();
            std::thread::spawn(move || {
                let mut sequence_ids = Vec::new();
                for n in 0..200 {
                    match client.try_call("enqueue", &item(&format!("r{n}"))) {
                        Ok(reply) if reply.status == 200 => {
                            let reply = reply.json();
                            if reply["receipt"]["shard"] == 1 {
                                sequence_ids.push(reply["sequenceId"].as_u64().expect("a number"));
                            }
                        }
                        _ => break,
                    }
                }
                sequence_ids
            })
        };
        // In the midst of it, then what is still on its way.
        for _ in 0..20 {
            let sent = stream.next().expect("an event");
            assert_eq!(sent.id, sent.data["sequenceNumber"].as_u64());
            replica.apply(&sent.data);
            last = sent.id;
        }
        if round < 3 {
            node.kill();
            while let Some(sent) = stream.next() {
                replica.apply(&sent.data);
                last = sent.id;
            }
            worker.join().expect("it ends");
            node = launch(dir.path()).start();
            continue;
        }
        let acknowledged = worker.join().expect("it ends");
        while !acknowledged.iter().all(|id| replica.items.contains_key(id)) {
            let sent = stream.next().expect("an event");
            replica.apply(&sent.data);
        }
        // What was shown before each kill is what is on disk, event by event.
        let mut again = Replica::default();
        follow(&node, 1, &mut again, 1_000);
        while replica.last < again.last {
            replica.apply(&stream.next().expect("an event").data);
        }
        assert!(again == replica);
        node.terminate();
        let end = std::iter::from_fn(|| stream.next())
            .last()
            .expect("a farewell");
        assert_eq!(
            (end.name.as_str(), &end.data["code"]),
            ("end", &json!("replication.not_serving"))
        );
        node.wait();
        return;
    }
}

#[test]
fn a_reader_that_takes_nothing_is_dropped_and_disturbs_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = launch(dir.path()).start();
    let mut client = node.connect();
    let mut large = item("large");
    large["payload"]["body"] = "QUJD".repeat(200_000).into();
    for _ in 0..40 {
        client.call("enqueue", large.clone()).ok();
    }
    let shard = client.call("enqueue", large).ok()["receipt"]["shard"].clone();
    let path = format!(
        "GET /omnirelay/control/replication/stream?shard={shard} HTTP/1.1\r\nhost: x\r\n\r\n"
    );
    let mut stalled = TcpStream::connect(node.admin_address).expect("a connection");
    std::io::Write::write_all(&mut stalled, path.as_bytes()).expect("it is taken");
    wait_for("the reader is there", || {
        (metric(&node, "readers") == 1.0).then_some(())
    });
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    while metric(&node, "readers_dropped_total") == 0.0 {
        let call = Instant::now();
        client.call("enqueue", item("small")).ok();
        slowest = slowest.max(call.elapsed());
        assert!(started.elapsed() < harness::BOUND, "it is never dropped");
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    wait_for("its place is free again", || {
        (metric(&node, "readers") == 0.0).then_some(())
    });
    // Another reads all of it meanwhile and after.
    let mut replica = Replica::default();
    let shard = shard.as_u64().and_then(|shard| u32::try_from(shard).ok());
    follow(&node, shard.expect("a number"), &mut replica, 10_000);
    assert!(replica.items.len() >= 41);
}

/// A metric of the stream.
fn metric(node: &Node, name: &str) -> f64 {
    let name = format!("omnirelay_resourcelease_replication_{name} ");
    let text = node.admin_text("/metrics");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name.as_str()));
    line.expect("a sample").parse().expect("a number")
}

#[test]
fn what_cannot_be_read_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = launch(dir.path()).start();
    for (query, code, words) in [
        ("shard=99", 404, "no shard 99"),
        ("from=1", 400, "?shard=0"),
        ("shard=x", 400, "shard is `x`"),
        ("shard=0&limit=0", 400, "limit is 0"),
        ("shard=0&snapshot=1", 400, "true or false"),
        ("shard=0&colour=red", 400, "`colour` is not understood"),
    ] {
        let (status, answer) = page(&node, query);
        let message = answer["message"].as_str().expect("a message");
        assert_eq!(status, code, "{query}: {answer}");
        assert!(message.contains(words), "{query}: {message}");
    }
    let stream = "/omnirelay/control/replication/stream?shard=99";
    let refused = EventStream::open(node.admin_address, stream, None);
    assert_eq!(refused.err(), Some(404));
    // Beyond what there is: nothing, until there is something.
    let (code, answer) = page(&node, "shard=0&from=1000&wait_ms=50");
    assert_eq!((code, &answer), (200, &json!({"events": [], "next": 1000})));
    let (_, overview) = page(&node, "");
    assert_eq!(
        overview["shards"].as_array().map(Vec::len),
        Some(SHARDS as usize)
    );
    assert_eq!(overview["shards"][0]["oldest"], 1);
}

/// Takes in all events of a shard that are there, and keeps them.
fn record(node: &Node, shard: u32, replica: &mut Replica, events: &mut Vec<Value>) {
    loop {
        let next = replica.last + 1;
        let (code, page) = page(node, &format!("shard={shard}&from={next}&limit=100"));
        assert_eq!(code, 200, "{page}");
        let found = page["events"].as_array().expect("events");
        found.iter().for_each(|event| replica.apply(event));
        events.extend(found.iter().cloned());
        if found.is_empty() {
            return;
        }
    }
}

#[test]
fn what_a_trimmed_log_still_tells_is_the_same_and_the_rest_is_in_a_snapshot() {
    let dir = tempfile::tempdir().expect("a directory");
    let launch = || launch(dir.path()).set("history_bytes=0");
    let mut node = launch().start();
    let mut client = node.connect();
    let mut random = StdRng::seed_from_u64(5);
    let mut held = Held::default();
    for _ in 0..100 {
        act(&mut client, &mut random, &mut held);
    }
    let mut replicas = vec![Replica::default(); SHARDS as usize];
    let mut events = vec![Vec::new(); SHARDS as usize];
    let mut large = item("");
    large["payload"]["body"] = "QUJD".repeat(200_000).into();
    large["priority"] = 200.into();
    wait_for("the log has given up its beginning", || {
        for n in 0..30 {
            large["payload"]["resourceId"] = format!("large-{n}").into();
            client.call("enqueue", large.clone()).ok();
            let lease = client.call("lease", json!({"waitMs": 0})).ok();
            let token = json!({"ownershipToken": lease["ownershipToken"]});
            client.call("complete", token).ok();
            for shard in 0..SHARDS {
                let at = shard as usize;
                record(&node, shard, &mut replicas[at], &mut events[at]);
            }
        }
        let (_, told) = page(&node, "");
        let shards = told["shards"].as_array().expect("shards");
        let is_trimmed = |shard: &Value| shard["oldest"].as_u64().is_some_and(|lsn| lsn > 1);
        shards.iter().all(is_trimmed).then_some(())
    });
    for restart in [false, true] {
        if restart {
            node.kill();
            node = launch().start();
        }
        for shard in 0..SHARDS {
            let at = shard as usize;
            record(&node, shard, &mut replicas[at], &mut events[at]);
            let (code, refused) = page(&node, &format!("shard={shard}&from=1"));
            assert_eq!(
                (code, &refused["code"]),
                (400, &json!("replication.out_of_range"))
            );
            let oldest = refused["oldestLsn"].as_u64().expect("a number");
            let (_, kept) = page(&node, &format!("shard={shard}&limit=10000"));
            let kept = kept["events"].as_array().expect("events");
            for event in kept {
                let number = event["sequenceNumber"].as_u64().expect("a number");
                let known = events[at]
                    .iter()
                    .find(|known| known["sequenceNumber"] == number);
                let Some(known) = known else { continue };
                let mut known = known.clone();
                if event["peerId"].is_null() {
                    known["peerId"] = Value::Null;
                }
                assert_eq!(event, &known);
            }
            // The log may have given up more between the two calls.
            let first = kept
                .first()
                .and_then(|first| first["sequenceNumber"].as_u64());
            assert!(first.is_none_or(|first| first >= oldest));

            let mut brief = Replica::default();
            let (_, told) = page(&node, &format!("shard={shard}&from=1&snapshot=true"));
            let told = told["events"].as_array().expect("events");
            told.iter().for_each(|event| brief.apply(event));
            record(&node, shard, &mut replicas[at], &mut events[at]);
            follow(&node, shard, &mut brief, 100);
            record(&node, shard, &mut replicas[at], &mut events[at]);
            assert_eq!(brief.last, replicas[at].last);
            assert_eq!(brief.items.len(), replicas[at].items.len());
            for (id, item) in &replicas[at].items {
                assert_eq!(item, &brief.items[id]);
            }
        }
    }
}
