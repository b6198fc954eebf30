//! Draining, restoring, listing and changing items, as the command line says and does it.

mod cli_support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use cli_support::scripted::Scripted;
use cli_support::{Outcome, command, outcome};
use omnirelay_net::messages::{
    self, CancelResponse, ChangeResult, DeadLettersResponse, DrainRequest, DrainResponse,
    ErrorInfo, ExplainResponse, LeaseResponse, Payload, PeekResponse, PendingItem, Reason, Receipt,
    RedriveResponse, RestoreResponse, Timestamp,
};
use omnirelay_net::rpc::{Call, Error, Reply};

fn lease(server: &Scripted, arguments: &[&str]) -> Outcome {
    lease_in(Path::new("/"), server, arguments)
}

fn lease_in(dir: &Path, server: &Scripted, arguments: &[&str]) -> Outcome {
    outcome(
        command(dir)
            .arg("lease")
            .args(arguments)
            .env("OMNIRELAY_ADDRESS", &server.address),
    )
}

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

fn item(sequence_id: u64) -> PendingItem {
    PendingItem {
        payload: Some(Payload {
            resource_type: "table".into(),
            resource_id: format!("users/{sequence_id}"),
            payload_encoding: "application/json".into(),
            body: "{}".into(),
            ..Payload::default()
        }),
        attempt: 1,
        max_attempts: Some(16),
        enqueued_at: at(1_800_000_000),
        sequence_id,
        origin: "000102030405060708090a0b0c0d0e0f".into(),
        ..PendingItem::default()
    }
}

/// A queue of `count` items that can be drained, and remembers what each request was given.
fn drainable(count: u64) -> Scripted {
    let mut left = (1..=count).map(item).collect::<Vec<_>>();
    let mut given: BTreeMap<String, Vec<PendingItem>> = BTreeMap::new();
    Scripted::start(move |call| {
        let Call::Drain(request) = call else {
            return Err(Error::procedure_unknown("it only drains"));
        };
        let id = request
            .request_id
            .clone()
            .expect("every drain can be repeated");
        let max = request.max_items.expect("every drain says how many") as usize;
        let items = given
            .entry(id)
            .or_insert_with(|| left.drain(..max.min(left.len())).collect());
        Ok(Reply::Drain(DrainResponse {
            items: items.clone(),
            more: !left.is_empty(),
        }))
    })
}

/// Takes in whatever comes, each item once.
fn restorable() -> Scripted {
    let mut there = BTreeMap::new();
    Scripted::start(move |call| {
        let Call::Restore(request) = call else {
            return Err(Error::procedure_unknown("it only restores"));
        };
        let before = there.len();
        there.extend(
            request
                .items
                .iter()
                .map(|item| (item.sequence_id, item.clone())),
        );
        let added = u32::try_from(there.len() - before).unwrap();
        Ok(Reply::Restore(RestoreResponse {
            restored_count: added,
            duplicate_count: u32::try_from(request.items.len()).unwrap() - added,
        }))
    })
}

fn drains(server: &Scripted) -> Vec<DrainRequest> {
    let calls = server.calls().into_iter();
    calls
        .map(|call| match call {
            Call::Drain(request) => request,
            other => panic!("{other:?} is no drain"),
        })
        .collect()
}

#[test]
fn what_is_drained_can_be_restored_elsewhere_and_again_without_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (drainable(2_345), restorable());
    let drain = [
        "drain",
        "--all",
        "--request-id",
        "r",
        "--out",
        "items.jsonl",
        "--shard",
        "3",
    ];
    insta::assert_snapshot!(lease_in(dir.path(), &from, &drain), @"2345 items drained (request id r)");
    let asked: Vec<_> = drains(&from)
        .into_iter()
        .map(|request| {
            (
                request.request_id.unwrap(),
                request.max_items,
                request.shard,
            )
        })
        .collect();
    let page = |id: &str| (id.to_owned(), Some(1_000), Some(3));
    assert_eq!(
        asked,
        [page("r"), page("r.2"), page("r.3"), page("r.4")],
        "until there is nothing: an id that was used before has pages to give again"
    );

    let restore = ["restore", "items.jsonl"];
    insta::assert_snapshot!(lease_in(dir.path(), &to, &restore), @r"
    RESTORED  THERE ALREADY
    2345      0
    ");
    insta::assert_snapshot!(lease_in(dir.path(), &to, &[&restore[..], &["-o", "json"]].concat()), @r#"{"restoredCount":0,"duplicateCount":2345}"#);
    let mut sent = Vec::new();
    for call in to.calls() {
        let Call::Restore(request) = call else {
            panic!("{call:?} is no restore");
        };
        assert!(request.items.len() <= 1_000);
        sent.extend(request.items);
    }
    assert!(
        sent[..2_345]
            .iter()
            .eq(&(1..=2_345).map(item).collect::<Vec<_>>())
    );

    // The items are safe in the file: no second drain may take its place.
    insta::assert_snapshot!(lease_in(dir.path(), &from, &drain), @r"
    error[cli.output]: cannot make items.jsonl: File exists (os error 17)
    help: name a file that is not there yet with --out; nothing was drained
    exit 1
    ");
    assert_eq!(drains(&from), []);
    // The same id gives the same items again.
    let again = lease(&from, &["drain", "--all", "--request-id", "r"]);
    let kept = std::fs::read_to_string(dir.path().join("items.jsonl")).unwrap();
    assert!(again.stdout == kept, "{}", again.stderr);
}

#[test]
fn a_drain_takes_as_many_as_it_is_told_and_says_that_there_are_more() {
    let server = drainable(3_000);
    let drained = lease(&server, &["drain", "--max", "1500", "--request-id", "r"]);
    assert_eq!(drained.stdout.lines().count(), 1_500);
    assert_eq!(
        drained.stderr,
        "1500 items drained (request id r); there are more: run it again with another id, or with --all\n"
    );
    let sizes: Vec<_> = drains(&server)
        .iter()
        .map(|request| request.max_items)
        .collect();
    assert_eq!(sizes, [Some(1_000), Some(500)]);
    // Without an id it makes one up, so that a drain can always be repeated.
    let ids = [0, 1].map(|_| {
        lease(&server, &["drain", "--max", "1"]);
        drains(&server).remove(0).request_id.unwrap()
    });
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids.map(|id| id.len()), [32, 32]);
}

#[test]
fn items_that_cannot_be_written_are_not_lost() {
    let server = drainable(10);
    let full = outcome(
        command(Path::new("/"))
            .args(["lease", "drain", "--request-id", "r"])
            .env("OMNIRELAY_ADDRESS", &server.address)
            .stdout(std::fs::File::create("/dev/full").unwrap()),
    );
    insta::assert_snapshot!(full, @r"
    error[cli.output]: cannot write the drained items to stdout: No space left on device (os error 28); 0 items had been written
    help: run it again with --request-id r within the namespace's dedupe window: it gives the same items again, then goes on
    exit 1
    ");
    // A reader that has gone away is as bad.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut unread = command(Path::new("/"));
    unread.args(["lease", "drain", "--request-id", "r"]);
    unread.args(["--address", &server.address]);
    let ended = unread.stdout(writer).output().unwrap();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let again = lease(&server, &["drain", "--request-id", "r"]);
    assert_eq!(again.stdout.lines().count(), 10, "{again}");
}

#[test]
fn a_drain_that_is_interrupted_says_how_to_go_on() {
    let mut pages = 0;
    let server = Scripted::start(move |_| {
        pages += 1;
        if pages == 2 {
            return Err(Error::durability_lost(
                "the log of shard 3 cannot be written",
            ));
        }
        Ok(Reply::Drain(DrainResponse {
            items: vec![item(1)],
            more: true,
        }))
    });
    let drained = lease(&server, &["drain", "--all", "--request-id", "r"]);
    insta::assert_snapshot!(drained.stderr, @r"
    error[resourcelease.durability.lost]: the log of shard 3 cannot be written; 1 items had been written
    help: run it again with --request-id r within the namespace's dedupe window: it gives the same items again, then goes on
    ");
    assert_eq!((drained.stdout.lines().count(), drained.code), (1, Some(1)));
}

#[test]
fn a_restore_reads_a_pipe_and_names_the_line_that_is_wrong() {
    let server = restorable();
    let restore = |input: &str| {
        let mut child = command(Path::new("/"))
            .args(["lease", "restore", "--address", &server.address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        Outcome {
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            code: output.status.code(),
        }
    };
    let line = |id: u64| serde_json::to_string(&item(id)).unwrap();
    insta::assert_snapshot!(restore(&format!("{}\n\n{}", line(1), line(2))), @r"
    RESTORED  THERE ALREADY
    2         0
    ");
    insta::assert_snapshot!(restore(""), @r"
    RESTORED  THERE ALREADY
    0         0
    ");
    let many: String = (1..=1_100).map(|id| line(id) + "\n").collect();
    insta::assert_snapshot!(restore(&format!("{many}{{\"attempt\": 70000}}\n")), @r"
    error[resourcelease.payload.required]: line 1101: payload is missing; all up to line 1000 is restored
    help: correct the line; then run the same command again: items that are there already are not added twice
    exit 1
    ");
    insta::assert_snapshot!(restore("items\n"), @r"
    error[rpc.body.malformed]: line 1: malformed JSON: expected value at line 1 column 1
    help: correct the line; then run the same command again: items that are there already are not added twice
    exit 1
    ");
    insta::assert_snapshot!(lease(&server, &["restore", "absent.jsonl"]), @r"
    error[cli.input]: cannot read absent.jsonl: No such file or directory (os error 2)
    help: name a readable file, or - for stdin
    exit 1
    ");
}

#[test]
fn listings_are_paged_until_there_are_as_many_as_were_asked_for() {
    // Pages of two, one of them empty.
    let server = Scripted::start(|call| {
        let (dead, cursor) = match call {
            Call::Peek(request) => (false, request.cursor.clone()),
            Call::DeadLetters(request) => (true, request.cursor.clone()),
            _ => return Err(Error::procedure_unknown("it only lists")),
        };
        let (ids, next) = match cursor.as_deref() {
            None => (1..3, Some("a")),
            Some("a") => (3..3, Some("b")),
            Some(_) => (3..5, None),
        };
        let listed = |id| {
            let mut item = item(id);
            item.state = Some(if dead { "dead" } else { "waiting" }.into());
            item.since = at(1_800_000_060);
            item.last_error = dead.then(|| ErrorInfo {
                message: "disk full".into(),
                ..ErrorInfo::default()
            });
            item
        };
        let items = ids.map(listed).collect();
        let cursor = next.map(str::to_owned);
        Ok(if dead {
            Reply::DeadLetters(DeadLettersResponse { items, cursor })
        } else {
            Reply::Peek(PeekResponse { items, cursor })
        })
    });
    insta::assert_snapshot!(lease(&server, &["peek"]), @r"
    SEQUENCE  STATE    TYPE   ID       KEY  PRIORITY  ATTEMPT  ENQUEUED              READY  BODY
    1         waiting  table  users/1       0         1/16     2027-01-15T08:00:00Z         {}
    2         waiting  table  users/2       0         1/16     2027-01-15T08:00:00Z         {}
    3         waiting  table  users/3       0         1/16     2027-01-15T08:00:00Z         {}
    4         waiting  table  users/4       0         1/16     2027-01-15T08:00:00Z         {}
    ");
    insta::assert_snapshot!(lease(&server, &["dead-letters", "--max", "2"]), @r"
    SEQUENCE  TYPE   ID       KEY  ATTEMPT  ENQUEUED              DEAD SINCE            LAST ERROR  BODY
    1         table  users/1       1/16     2027-01-15T08:00:00Z  2027-01-15T08:01:00Z  disk full   {}
    2         table  users/2       1/16     2027-01-15T08:00:00Z  2027-01-15T08:01:00Z  disk full   {}
    there may be more: go on with --cursor a
    ");
    let rest = lease(&server, &["dead-letters", "--cursor", "a", "-o", "json"]);
    let ids: Vec<_> = rest
        .stdout
        .lines()
        .map(|line| {
            serde_json::from_str::<PendingItem>(line)
                .unwrap()
                .sequence_id
        })
        .collect();
    assert_eq!((ids, rest.code), (vec![3, 4], Some(0)));
}

#[test]
fn each_item_that_is_changed_or_not_is_told_and_one_that_is_not_fails_the_command() {
    let server = Scripted::start(|call| {
        let done = |lsn| ChangeResult {
            success: true,
            receipt: Some(Receipt {
                shard: 3,
                lsn,
                durability: "disk".into(),
            }),
            error: None,
        };
        let results = |ids: &[u64]| {
            let result = |&id: &u64| match id {
                7 => {
                    let refusal = Error::item_not_dead("the item is not a dead letter: it waits");
                    ChangeResult::from(messages::Error::from(refusal))
                }
                _ => done(100 + id),
            };
            ids.iter().map(result).collect()
        };
        match call {
            Call::Redrive(request) => Ok(Reply::Redrive(RedriveResponse {
                results: results(&request.sequence_ids),
            })),
            Call::Cancel(request) => Ok(Reply::Cancel(CancelResponse {
                results: results(&request.sequence_ids),
            })),
            _ => Err(Error::procedure_unknown("it only changes")),
        }
    });
    insta::assert_snapshot!(lease(&server, &["cancel", "5"]), @r"
    SEQUENCE  RESULT     SHARD  LSN  DURABILITY
    5         cancelled  3      105  disk
    ");
    insta::assert_snapshot!(lease(&server, &["redrive", "5", "7", "9"]), @r"
    SEQUENCE  RESULT                       SHARD  LSN  DURABILITY
    5         redriven                     3      105  disk
    7         resourcelease.item.not_dead
    9         redriven                     3      109  disk
    error[resourcelease.item.not_dead]: 1 of 3 items were not redriven; first 7: the item is not a dead letter: it waits
    help: `omnirelay lease explain` says where it stands; only dead letters are redriven
    exit 1
    ");
    insta::assert_snapshot!(lease(&server, &["cancel", "5", "-o", "json"]), @r#"{"sequenceId":5,"success":true,"receipt":{"shard":3,"lsn":105,"durability":"disk"}}"#);
    let ids: Vec<String> = (1_000..2_500).map(|id| id.to_string()).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    server.calls();
    let many = lease(&server, &[&["cancel"][..], &ids].concat());
    assert_eq!((many.stdout.lines().count(), many.code), (1_501, Some(0)));
    assert_eq!(server.calls().len(), 2, "batches of at most 1,000");
}

#[test]
fn an_explanation_is_text_for_people_and_json_for_programs() {
    let server = Scripted::start(|call| match call {
        Call::Explain(request) if request.sequence_id == 9 => {
            Err(Error::item_not_found("the item is not there"))
        }
        _ => Ok(Reply::Explain(ExplainResponse {
            sequence_id: 7,
            state: "delayed".into(),
            reasons: vec![Reason {
                code: "delayed".into(),
                message: "attempt 1 failed; it waits until 2027-01-15T08:00:00Z".into(),
                metadata: [("until".to_owned(), "2027-01-15T08:00:00Z".to_owned())].into(),
            }],
            attempt: 1,
            max_attempts: 16,
            ..ExplainResponse::default()
        })),
    });
    insta::assert_snapshot!(lease(&server, &["explain", "7"]), @r"
    item 7 is delayed
      attempt 1 failed; it waits until 2027-01-15T08:00:00Z [delayed]

    attempts  1 of 16
    ");
    insta::assert_snapshot!(lease(&server, &["explain", "7", "-o", "json"]), @r#"{"sequenceId":7,"state":"delayed","reasons":[{"code":"delayed","message":"attempt 1 failed; it waits until 2027-01-15T08:00:00Z","metadata":{"until":"2027-01-15T08:00:00Z"}}],"attempt":1,"maxAttempts":16}"#);
    insta::assert_snapshot!(lease(&server, &["explain", "9"]), @r"
    error[resourcelease.item.not_found]: the item is not there
    help: `omnirelay lease peek` and `lease dead-letters` show the items there are; look at --namespace, too
    exit 1
    ");
}

#[test]
fn a_worker_can_take_the_items_of_one_partition_key() {
    let server = Scripted::start(|call| {
        let key = match call {
            Call::Lease(request) => &request.partition_key,
            Call::LeaseBatch(request) => &request.partition_key,
            _ => &None,
        };
        match key.as_deref() {
            Some("gold") => Ok(match call {
                Call::Lease(_) => Reply::Lease(LeaseResponse::default()),
                _ => Reply::LeaseBatch(Default::default()),
            }),
            _ => Err(Error::none_available("nothing of this key")),
        }
    });
    for more in [&[][..], &["--max", "5"]] {
        let take = [&["take", "--partition-key", "gold"][..], more].concat();
        assert_eq!(lease(&server, &take).code, Some(0));
        assert_eq!(
            lease(&server, &[&["take"][..], more].concat()).code,
            Some(1)
        );
    }
}
