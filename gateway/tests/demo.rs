//! The demo's parts as processes of their own, and its pages.

mod harness;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use harness::{BOUND, Connection, Launch, Reply, Request, wait_for};
use serde_json::{Value, json};

/// The script that starts the parts, ended with the test.
struct Script {
    child: Child,
    listen: SocketAddr,
    admin: SocketAddr,
}

impl Script {
    fn start(dir: &Path) -> Script {
        let [listen, admin] = free_addresses();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/mesh-demo/run");
        let child = Command::new(script)
            .env("BIN", env!("CARGO_BIN_EXE_omnirelay"))
            .env("MESHDEMO_LISTEN", listen.to_string())
            .env("MESHDEMO_ADMIN_LISTEN", admin.to_string())
            .env("MESHDEMO_DATA_DIR", dir)
            .env("MESHDEMO_SEEDER_INTERVAL", "50ms")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash is there");
        Script {
            child,
            listen,
            admin,
        }
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: kill has no memory effects, and the child has not been waited for, so the pid is its own.
        unsafe { libc::kill(pid, signal) };
    }

    fn wait(&mut self) -> Option<i32> {
        let started = Instant::now();
        loop {
            match self.child.try_wait().expect("it can be waited for") {
                Some(status) => return status.code(),
                None => assert!(started.elapsed() < BOUND, "the script does not end"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(libc::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

/// Two addresses that nobody listens on, as far as one can tell beforehand.
fn free_addresses() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("it is bound"))
}

fn ask(address: SocketAddr, request: &Request) -> Option<Reply> {
    let mut connection = Connection::try_open(address).ok()?;
    connection.send(request).ok()?;
    connection.receive().ok()
}

fn enqueue(admin: SocketAddr, body: impl Into<Vec<u8>>) -> Reply {
    let mut request = Request::get("/demo/enqueue")
        .method("POST")
        .header("Content-Type", "application/json");
    request.body = body.into();
    ask(admin, &request).expect("an answer")
}

fn peers(admin: SocketAddr) -> Option<Value> {
    let reply = ask(admin, &Request::get("/demo/lease-health"))?;
    (reply.status == 200).then(|| reply.json())
}

#[test]
fn its_parts_run_as_processes_of_their_own_until_the_script_is_told_to_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut script = Script::start(dir.path());
    wait_for("both workers complete work", || {
        let health = peers(script.admin)?;
        let peers = health["peers"].as_array().expect("a list");
        let done = |name: &str| {
            let mut named = peers.iter().filter(|peer| peer["peerId"] == name);
            named.any(|peer| peer["completed"].as_u64() > Some(0))
        };
        (done("mesh-worker-a") && done("mesh-worker-b")).then_some(())
    });
    script.signal(libc::SIGTERM);
    assert_eq!(script.wait(), Some(0));
    for address in [script.listen, script.admin] {
        assert!(
            Connection::try_open(address).is_err(),
            "{address} is served"
        );
    }
}

#[test]
fn its_pages_show_work_that_comes_in_and_is_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::demo_on(dir.path()).start();
    let order = json!({"resourceType": "demo.order", "resourceId": "external-cli",
        "partitionKey": "tenant-42", "namespace": "resourcelease.mesh"});
    let reply = enqueue(node.admin_address, order.to_string());
    assert_eq!(
        reply.status,
        200,
        "{:?}",
        String::from_utf8_lossy(&reply.body)
    );
    let sequence_id = reply.json()["sequenceId"].clone();

    let done = wait_for("a worker completes it", || {
        let (status, recent) = node.admin("/demo/replication?limit=500");
        assert_eq!(status, 200, "{recent}");
        let events = recent["events"].as_array().expect("a list");
        let is_done = |event: &&Value| {
            event["namespace"] == "resourcelease.mesh"
                && event["sequenceId"] == sequence_id
                && event["eventType"] == "Completed"
        };
        events.iter().find(is_done).cloned()
    });
    let (status, health) = node.admin("/demo/lease-health");
    assert_eq!(status, 200);
    let names: Vec<_> = health["peers"].as_array().expect("a list").iter().collect();
    let worker = names.iter().find(|peer| peer["peerId"] == done["peerId"]);
    let worker = worker.unwrap_or_else(|| panic!("{done} is by none of {names:?}"));
    assert_eq!(worker["isHealthy"], true, "{worker}");
    assert!(worker["completed"].as_u64() > Some(0), "{worker}");

    let (_, backpressure) = node.admin("/demo/backpressure");
    assert_eq!(backpressure["namespaces"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_cannot_be_enqueued_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::demo_on(dir.path()).start();
    let admin = node.admin_address;
    for (body, status, word) in [
        ("{", 400, "EOF"),
        (r#"{"resourceType": "a"}"#, 422, "resourceId"),
        (
            r#"{"resourceType": "a", "resourceId": "b", "colour": 1}"#,
            422,
            "colour",
        ),
        (
            r#"{"resourceType": " ", "resourceId": "b"}"#,
            400,
            "resource_type_required",
        ),
        (
            r#"{"resourceType": "a", "resourceId": "b", "namespace": "other"}"#,
            404,
            "resourcelease.namespace.unknown",
        ),
    ] {
        let reply = enqueue(admin, body);
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, status, "{body}: {said}");
        assert!(said.contains(word), "{body}: {said}");
    }
    let long = vec![b' '; 1 << 20];
    assert_eq!(enqueue(admin, long).status, 413);
    let mut form = Request::get("/demo/enqueue").method("POST");
    form.body = br#"{"resourceType": "a", "resourceId": "b"}"#.to_vec();
    assert_eq!(
        ask(admin, &form).expect("an answer").status,
        415,
        "a page elsewhere may not post"
    );
    let (status, told) = node.admin("/demo/enqueue");
    assert_eq!((status, &told["allowed"]), (405, &json!(["POST"])));
}

#[test]
fn roles_that_make_no_sense_are_refused() {
    for (arguments, word) in [
        (&["--roles", "diagnostics"][..], "add dispatcher"),
        (
            &["--roles", "dispatcher", "--worker-peer-id", "a"],
            "add worker",
        ),
        (
            &["--roles", "seeder", "--seeder-interval", "0s"],
            "--seeder-interval",
        ),
        (
            &["--roles", "seeder", "--rpc-url", "https://h/"],
            "with http://",
        ),
        (&["--roles", "everything"], "possible values"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_omnirelay"))
            .env_clear()
            .arg("demo")
            .args(arguments)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}
