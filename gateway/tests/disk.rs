//! Disks that are full or read-only, and directories and ports that somebody else has.

mod harness;

use std::fs;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::{Connection, Launch, Reply, item, mounts, segments, wait_for};
use serde_json::{Value, json};

/// Room for six of the smallest segments.
const DISK_BYTES: u64 = 50 << 20;
/// What something else takes of it.
const BALLAST_BYTES: usize = 16 << 20;
/// What fills the queue's part quickly.
const BODY_BYTES: usize = 768 << 10;

fn enqueue_large(client: &mut Connection, number: usize) -> Reply {
    let mut request = item(&format!("large-{number}"));
    request["payload"]["body"] = STANDARD.encode(vec![b'x'; BODY_BYTES]).into();
    client.call("enqueue", request)
}

fn complete_one(client: &mut Connection) -> Value {
    let lease = client.call("lease", json!({"waitMs": 0})).ok();
    client
        .call(
            "complete",
            json!({"ownershipToken": lease["ownershipToken"]}),
        )
        .ok();
    lease
}

#[test]
fn a_full_disk_refuses_new_work_ends_old_work_and_clears_by_itself() {
    if !mounts::allowed("a_full_disk_refuses_new_work_ends_old_work_and_clears_by_itself") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    // SAFETY: the closure makes system calls only.
    let mut node =
        unsafe { Launch::on(dir.path()).before_exec(mounts::tmpfs(dir.path(), DISK_BYTES)) }
            .start();
    let inside = PathBuf::from(format!("/proc/{}/root{}", node.pid(), dir.path().display()));
    let ballast = inside.join("something-else");
    fs::write(&ballast, vec![0; BALLAST_BYTES]).expect("the ballast fits");

    let mut client = node.connect();
    let mut taken = 0;
    let refusal = loop {
        let reply = enqueue_large(&mut client, taken);
        if reply.status != 200 {
            break reply;
        }
        taken += 1;
        assert!(taken < 100, "the disk never gets full");
    };
    assert_eq!(
        (refusal.status, refusal.code().as_str()),
        (429, "resourcelease.storage.full")
    );
    assert_eq!(refusal.header("rpc-error-code"), Some("resource-exhausted"));
    assert_eq!(refusal.json()["status"], "RESOURCE_EXHAUSTED");
    assert!(taken > 10, "it was full after {taken}");
    // Whether the disk is full is known once it has refused a segment; from then on even the
    // smallest new work is refused at once.
    wait_for("the node knows", || {
        (node.admin("/readyz").1["storageFull"] == true).then_some(())
    });
    assert_eq!(
        enqueue_large(&mut client, taken).code(),
        "resourcelease.storage.full"
    );
    assert_eq!(node.counts(), [u64::try_from(taken).expect("few"), 0, 0, 0]);

    // Everything that was admitted can be handed out, failed, kept and completed.
    let lease = client.call("lease", json!({"waitMs": 0})).ok();
    let token = json!({"ownershipToken": lease["ownershipToken"]});
    client.call("heartbeat", token.clone()).ok();
    client
        .call(
            "fail",
            json!({"ownershipToken": lease["ownershipToken"], "delayMs": 0}),
        )
        .ok();
    for _ in 0..taken / 2 {
        complete_one(&mut client);
    }
    assert!(node.runs());

    fs::remove_file(&ballast).expect("the ballast can go");
    wait_for("the node takes work again", || {
        (enqueue_large(&mut client, 1_000).status == 200).then_some(())
    });
    wait_for("the node says so", || {
        (node.admin("/readyz").1["storageFull"] == false).then_some(())
    });
    let left = node.counts()[0];
    for _ in 0..left {
        complete_one(&mut client);
    }
    assert_eq!(node.counts(), [0; 4]);
    let ended = node.stop();
    assert_eq!(ended.code, Some(0));
    assert_eq!(
        ended
            .said
            .matches("no room for another log segment")
            .count(),
        1,
        "{}",
        ended.said
    );
    assert_eq!(
        ended.said.matches("the disk has room again").count(),
        1,
        "{}",
        ended.said
    );
}

#[test]
fn a_read_only_directory_is_refused_by_name_and_left_alone() {
    if !mounts::allowed("a_read_only_directory_is_refused_by_name_and_left_alone") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    node.connect().call("enqueue", item("users")).ok();
    node.kill();
    let before = segments::contents(dir.path());
    // SAFETY: the closure makes system calls only.
    let ended =
        unsafe { Launch::on(dir.path()).before_exec(mounts::read_only(dir.path())) }.ended();
    ended.refused(&[
        &dir.path().display().to_string(),
        "Read-only file system",
        "serve.data_dir",
    ]);
    assert!(
        before == segments::contents(dir.path()),
        "files were changed"
    );
    assert_eq!(Launch::on(dir.path()).start().counts(), [1, 0, 0, 0]);
}

#[test]
fn a_directory_that_is_a_file_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("data");
    fs::write(&file, "mine").expect("a file");
    Launch::on(&file)
        .ended()
        .refused(&[&file.display().to_string(), "serve.data_dir"]);
    assert_eq!(fs::read(&file).expect("the file"), b"mine");
}

#[test]
fn a_directory_in_use_is_refused_with_its_user_and_disturbs_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    node.connect().call("enqueue", item("users")).ok();
    let before = fs::read(dir.path().join("node.json")).expect("a node file");
    let ended = Launch::on(dir.path()).ended();
    ended.refused(&[
        &dir.path().display().to_string(),
        "in use",
        &node.pid().to_string(),
        "serve.data_dir",
    ]);
    assert_eq!(
        fs::read(dir.path().join("node.json")).expect("a node file"),
        before
    );
    assert_eq!(node.counts(), [1, 0, 0, 0]);
    assert_eq!(node.stop().code, Some(0));
}

#[test]
fn a_port_in_use_is_refused_by_name_and_never_shared() {
    let (mine, other) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let node = Launch::on(mine.path()).start();
    let ended = Launch::on(other.path()).listen(node.address).ended();
    ended.refused(&[
        "listen",
        &node.address.to_string(),
        "another process",
        "serve.listen",
    ]);
    let ended = Launch::on(other.path())
        .admin_listen(node.admin_address)
        .ended();
    ended.refused(&[
        "admin_listen",
        &node.admin_address.to_string(),
        "another process",
        "serve.listen",
    ]);
    // A node whose ports were free after all starts where the refused ones did not.
    let second = Launch::on(other.path()).start();
    second.connect().call("enqueue", item("users")).ok();
    assert_eq!(node.counts(), [0; 4]);
}
