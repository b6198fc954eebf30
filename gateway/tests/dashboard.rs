//! The dashboard as a person meets it: in Chromium, against the real process.

mod browser;
mod harness;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use browser::Browser;
use harness::{Connection, Launch, Node, Reply, Request, item, wait_for};
use serde_json::{Value, json};

fn url(node: &Node) -> String {
    format!("http://{}/", node.admin_address)
}

/// A browser with a node's dashboard that shows its first figures.
fn open(node: &Node) -> Option<Browser> {
    let mut browser = Browser::start()?;
    browser.size(1280, 900);
    browser.prefer("light");
    browser.open(&url(node));
    browser.wait(
        "the first figures",
        "document.querySelector('#age').textContent === 'live'",
    );
    Some(browser)
}

fn enqueue(connection: &mut Connection, resource: &str) -> u64 {
    let reply = connection.call("enqueue", item(resource)).ok();
    reply["sequenceId"].as_u64().expect("a number")
}

#[test]
fn figures_appear_and_move_and_an_item_is_explained_by_keyboard_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .set("namespaces.resourcelease.shards=1")
        .set("namespaces.resourcelease.capacity=10")
        .start();
    let Some(mut browser) = open(&node) else {
        return;
    };
    // Whoever has nothing yet is told what to do.
    let hint = browser.text("#e-namespaces");
    assert!(
        hint.contains("No work yet") && hint.contains(&node.address.to_string()),
        "{hint}"
    );

    let mut connection = node.connect();
    let theirs = "<img src=x onerror=boom()>\u{202e}";
    let ids: Vec<u64> = (0..8).map(|_| enqueue(&mut connection, theirs)).collect();
    // The ninth finds the gate closed.
    let ninth = Request::call("enqueue", &item("orders")).header("Context-TTL-MS", "50");
    assert_eq!(connection.request(&ninth).status, 429);
    browser.wait(
        "the items",
        "document.querySelector('#t-waiting').textContent === '8'",
    );
    browser.wait(
        "the rate",
        "parseFloat(document.querySelector('#t-enqueue').textContent) > 0",
    );
    browser.wait(
        "the latency",
        "/\\d (µs|ms)/.test(document.querySelector('#calls').innerText)",
    );
    browser.wait("a line", "document.querySelector('#c-depth polyline')");
    browser.wait(
        "the events",
        "document.querySelectorAll('#events tr').length >= 8",
    );
    browser.wait(
        "the gate",
        "document.querySelector('#transitions').innerText.includes('holds back')",
    );
    browser.wait(
        "the shards",
        "document.querySelector('#cores').innerText.includes('serving')",
    );
    let lease = connection.call("lease", json!({"peerId": "worker-7"})).ok();
    browser.wait(
        "the lease",
        "document.querySelector('#t-active').textContent === '1'",
    );
    let fail = json!({"ownershipToken": lease["ownershipToken"], "requeue": false});
    connection.call("fail", fail).ok();
    browser.wait(
        "the dead letter",
        "document.querySelector('#t-dead').textContent === '1'",
    );
    // What strangers wrote is text, and nothing but.
    let events = browser.text("#events");
    assert!(
        events.contains("<img src=x onerror=boom()>\u{fffd}"),
        "{events}"
    );
    assert_eq!(browser.eval("document.images.length"), 0);

    browser.press("Tab");
    assert_eq!(browser.eval("document.activeElement.className"), "skip");
    assert_eq!(
        browser.eval("getComputedStyle(document.activeElement).outlineStyle"),
        "solid"
    );
    browser.press("?");
    browser.wait("the shortcuts", "document.querySelector('#shortcuts').open");
    browser.press("Escape");
    browser.wait("they close", "!document.querySelector('#shortcuts').open");
    browser.press("e");
    assert_eq!(browser.eval("document.activeElement.id"), "x-item");
    let waiting = ids
        .iter()
        .find(|id| lease["sequenceId"] != **id)
        .expect("one that waits");
    browser.enter(&waiting.to_string());
    browser.press("Enter");
    let says = format!(
        "document.querySelector('#explanation').textContent.includes('Item {waiting} is waiting')"
    );
    browser.wait("the explanation", &says);
    let told = browser.text("#explanation");
    assert!(
        told.contains("no worker waits") && told.contains("<img src=x"),
        "{told}"
    );
    browser.eval("document.querySelector('#x-item').select()");
    browser.enter("seven");
    browser.press("Enter");
    browser.wait(
        "a refusal",
        "document.querySelector('#explanation').textContent.includes('is no sequence id')",
    );

    assert_eq!(browser.complaints(), Vec::<String>::new());
    let asked: Vec<_> = browser.told("Network.requestWillBeSent").collect();
    assert!(asked.len() >= 5, "{asked:?}");
    for request in asked {
        let address = request["request"]["url"].as_str().expect("an address");
        assert!(
            address.starts_with(&url(&node)) || address.starts_with("data:"),
            "{address}"
        );
    }
}

#[test]
fn it_is_light_or_dark_fits_a_phone_and_can_be_paused() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::demo_on(dir.path()).start();
    let Some(mut browser) = open(&node) else {
        return;
    };
    const COLOUR: &str = "getComputedStyle(document.body).backgroundColor";
    let light = browser.eval(COLOUR);
    browser.prefer("dark");
    let dark = browser.eval(COLOUR);
    assert_ne!(light, dark);
    // The toggle goes before what the system prefers, and is remembered.
    browser.press("t");
    assert_eq!(
        (browser.eval(COLOUR), browser.text("#theme")),
        (light.clone(), "Theme: light".into())
    );
    browser.open(&url(&node));
    assert_eq!(browser.eval(COLOUR), light);
    browser.press("t");
    browser.prefer("light");
    assert_eq!(
        (browser.eval(COLOUR), browser.text("#theme")),
        (dark, "Theme: dark".into())
    );

    browser.size(360, 740);
    let item = "document.querySelector('#events button')";
    browser.wait("an event", item);
    browser.eval(&format!("{item}.click()"));
    browser.wait(
        "an explanation",
        "document.querySelector('#explanation').hasChildNodes()",
    );
    assert_eq!(browser.eval("document.documentElement.scrollWidth"), 360);
    // Cells may cut a name short, but nothing else reaches over the edge.
    let beyond = browser.eval(
        "[...document.querySelectorAll('main *, header *, footer *')]
           .filter(e => e.getBoundingClientRect().right > innerWidth + .5)
           .filter(e => !e.closest('svg, .unseen'))
           .map(e => e.outerHTML.slice(0, 80))",
    );
    assert_eq!(beyond, json!([]));

    browser.press("p");
    browser.wait(
        "it stands still",
        "document.querySelector('#age').textContent.startsWith('paused')",
    );
    let samples = || node.over_cores("/walRecords");
    let (before, shown) = (samples(), browser.text("#events"));
    wait_for("more happens", || (samples() > before + 20).then_some(()));
    assert_eq!(browser.text("#events"), shown);
    browser.press("p");
    browser.wait(
        "it goes on",
        "document.querySelector('#age').textContent === 'live'",
    );
    browser.wait(
        "it has moved",
        &format!(
            "document.querySelector('#events').textContent !== {}",
            json!(shown)
        ),
    );
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_node_that_was_killed_is_said_and_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let Some(mut browser) = open(&node) else {
        return;
    };
    enqueue(&mut node.connect(), "orders");
    browser.wait(
        "the item",
        "document.querySelector('#t-waiting').textContent === '1'",
    );
    let (address, admin) = (node.address, node.admin_address);
    node.kill();
    browser.wait("it is said", "document.querySelector('#connection').textContent.includes('Connection lost, trying again')");
    browser.wait(
        "how old",
        "/^[1-9]\\d* s old$/.test(document.querySelector('#age').textContent)",
    );
    assert_eq!(
        browser.eval("document.body.classList.contains('stale')"),
        true
    );
    assert_eq!(browser.text("#t-waiting"), "1", "what was known stays");

    let node = Launch::on(dir.path())
        .listen(address)
        .admin_listen(admin)
        .start();
    browser.wait(
        "it is found",
        "document.querySelector('#connection').hidden",
    );
    browser.wait(
        "it is live",
        "document.querySelector('#age').textContent === 'live'",
    );
    assert_eq!(
        browser.eval("document.body.classList.contains('stale')"),
        false
    );
    enqueue(&mut node.connect(), "orders");
    browser.wait(
        "the next item",
        "document.querySelector('#t-waiting').textContent === '2'",
    );
}

/// Makes the picture in the README. See docs/testing.md.
#[test]
#[ignore = "writes docs/dashboard.png, and takes two minutes so that the charts are full"]
fn the_picture_of_the_readme() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path())
        .cores(2)
        .set("namespaces.resourcelease.capacity=650")
        .set("namespaces.resourcelease.cooldown=5s")
        .set("namespaces.\"resourcelease.users\".shards=8")
        .start();
    let mut browser = open(&node).expect("a browser");
    let begun = Instant::now();
    let is_over = || begun.elapsed() > Duration::from_secs(140);
    thread::scope(|scope| {
        let node = &node;
        scope.spawn(move || produce(node, "resourcelease", 1, is_over));
        scope.spawn(move || produce(node, "resourcelease", 2, is_over));
        scope.spawn(move || produce(node, "resourcelease.users", 12, is_over));
        for worker in 1..=3 {
            scope.spawn(move || work(node, "resourcelease", worker, is_over));
        }
        scope.spawn(move || work(node, "resourcelease.users", 4, is_over));
        // The picture is of a node at work.
        while begun.elapsed() < Duration::from_secs(120) {
            thread::sleep(Duration::from_millis(100));
        }
        let failed = "[...document.querySelectorAll('#events tr')]
            .find(row => row.textContent.includes('failed'))?.querySelector('button').click()";
        let is_told = "document.querySelector('#explanation h3')";
        while browser.eval(&format!("({failed}, Boolean({is_told}))")) != json!(true) && !is_over()
        {
            thread::sleep(Duration::from_millis(100));
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/dashboard.png");
        std::fs::write(&path, browser.screenshot()).expect("it is written");
        let smaller = Command::new("pngquant")
            .args(["--force", "--ext", ".png", "--speed", "1", "--strip"])
            .arg(&path)
            .status();
        let is_smaller = smaller.is_ok_and(|status| status.success());
        assert!(is_smaller, "apt-get install pngquant");
        let size = std::fs::metadata(&path).expect("it is there").len();
        assert!(size <= 200_000, "{size} bytes");
    });
}

fn call(connection: &mut Connection, namespace: &str, operation: &str, body: &Value) -> Reply {
    let procedure = format!("{namespace}::{operation}");
    let request = Request::procedure(&procedure, "json", body.to_string());
    connection.request(&request.header("Context-TTL-MS", "400"))
}

/// Brings work in waves, so that there is something to see.
fn produce(node: &Node, namespace: &str, ms: u64, is_over: impl Fn() -> bool) {
    let mut connection = node.connect();
    let begun = Instant::now();
    let mut at = 0;
    while !is_over() {
        at += 1;
        let kind = ["orders", "invoices", "sessions", "ledger"][at % 4];
        let item = item(&format!("{kind}-{}", at % 97));
        call(&mut connection, namespace, "enqueue", &item);
        let is_high = begun.elapsed().as_secs() % 40 < 22;
        thread::sleep(Duration::from_millis(if is_high { ms } else { 12 * ms }));
    }
}

/// Does work, of which some fails.
fn work(node: &Node, namespace: &str, worker: usize, is_over: impl Fn() -> bool) {
    let mut connection = node.connect();
    let mut at = worker;
    while !is_over() {
        at += 1;
        let wish = json!({"peerId": format!("worker-{worker}"), "waitMs": 300});
        let lease = call(&mut connection, namespace, "lease", &wish);
        if lease.status != 200 {
            continue;
        }
        let token = lease.json()["ownershipToken"].clone();
        let failed = json!({
            "ownershipToken": token, "reason": "the replica did not answer in time",
            "requeue": !at.is_multiple_of(480), "delayMs": 20_000,
        });
        match at % 12 {
            0 => call(&mut connection, namespace, "fail", &failed),
            _ => call(
                &mut connection,
                namespace,
                "complete",
                &json!({"ownershipToken": token}),
            ),
        };
    }
}
