//! What ships for operators: the rules and the dashboard, against a real Prometheus that scrapes
//! the demo, and the example configurations.

mod harness;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harness::{Connection, Launch, Request, is_there, wait_for};
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn skip() -> bool {
    let absent = !is_there("prometheus") || !is_there("promtool");
    if absent {
        eprintln!("SKIPPED: no prometheus and promtool; apt-get install prometheus");
    }
    absent
}

#[test]
fn every_example_is_a_configuration_or_a_script() {
    let examples = fs::read_dir(deploy().join("examples")).expect("the examples");
    let mut checked = 0;
    for example in examples {
        let path = example.expect("an entry").path();
        let check = match path.extension().and_then(|end| end.to_str()) {
            Some("toml") => ["config", "validate", "--config"],
            Some("json") => ["script", "run", "--dry-run"],
            _ => continue,
        };
        let output = Command::new(env!("CARGO_BIN_EXE_omnirelay"))
            .args(check)
            .arg(&path)
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{}: {output:?}", path.display());
        checked += 1;
    }
    assert!(checked >= 4, "{checked}");
}

#[test]
fn the_rules_are_rules() {
    if skip() {
        return;
    }
    let config = deploy().join("prometheus/prometheus.yml");
    let output = Command::new("promtool")
        .args(["check", "config"])
        .arg(config)
        .output()
        .expect("promtool runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("24 rules found"), "{said}");
}

/// A Prometheus of the test's own, ended with it.
struct Prometheus {
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    fn scraping(target: SocketAddr, dir: &Path) -> Prometheus {
        let config = fs::read_to_string(deploy().join("prometheus/prometheus.yml"));
        let config = config
            .expect("the shipped configuration")
            .replace("127.0.0.1:7421", &target.to_string())
            .replace("scrape_interval: 5s", "scrape_interval: 1s")
            .replace("evaluation_interval: 15s", "evaluation_interval: 1s");
        fs::write(dir.join("prometheus.yml"), config).expect("it is written");
        let rules = "omnirelay.rules.yml";
        fs::copy(deploy().join("prometheus").join(rules), dir.join(rules)).expect("it is copied");
        let free = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let address = free.expect("a free port");
        let child = Command::new("prometheus")
            .current_dir(dir)
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus starts");
        Prometheus { child, address }
    }

    /// What an API answers, if it does.
    fn api(&self, path: &str) -> Option<Value> {
        let mut connection = Connection::try_open(self.address).ok()?;
        connection.send(&Request::get(path)).ok()?;
        let reply = connection.receive().ok()?;
        (reply.status == 200).then(|| serde_json::from_slice(&reply.body).expect("JSON"))
    }

    /// The series that a query finds.
    fn query(&self, expression: &str) -> usize {
        let encoded: String = expression
            .bytes()
            .map(|byte| format!("%{byte:02X}"))
            .collect();
        let found = self.api(&format!("/api/v1/query?query={encoded}"));
        let found = found.unwrap_or_else(|| panic!("refused: {expression}"));
        found["data"]["result"].as_array().map_or(0, Vec::len)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every query of the dashboard, with its variables as Grafana fills them in.
fn queries() -> Vec<String> {
    let text = fs::read_to_string(deploy().join("grafana/omnirelay.json")).expect("a dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let fill = |expression: &str| {
        let expression = expression.replace("$__rate_interval", "10s");
        ["$job", "$instance", "$namespace"]
            .iter()
            .fold(expression, |text, name| text.replace(name, ".+"))
    };
    targets
        .flatten()
        .map(|target| fill(target["expr"].as_str().expect("an expression")))
        .collect()
}

#[test]
fn every_query_of_the_dashboard_finds_something_in_the_demo() {
    if skip() {
        return;
    }
    let (data, own) = (tempfile::tempdir(), tempfile::tempdir());
    let (data, own) = (data.expect("a directory"), own.expect("a directory"));
    let demo = Launch::demo_on(data.path()).start();
    let prometheus = Prometheus::scraping(demo.admin_address, own.path());
    // Some calls fail, as in real life.
    let refused = demo.connect().call("noSuch", serde_json::json!({}));
    assert_eq!(refused.status, 501, "{refused:?}");

    let queries = queries();
    assert!(queries.len() >= 40, "{}", queries.len());
    for query in queries {
        wait_for(&format!("an answer to {query}"), || {
            (prometheus.api("/api/v1/targets").is_some() && prometheus.query(&query) > 0)
                .then_some(())
        });
    }
    for record in [
        "omnirelay:items:sum",
        "omnirelay:fill:ratio",
        "omnirelay:rpc_requests:rate5m",
    ] {
        wait_for(record, || (prometheus.query(record) > 0).then_some(()));
    }
    let rules = prometheus.api("/api/v1/rules").expect("the rules");
    let groups = rules["data"]["groups"].as_array().expect("groups");
    let rules = groups.iter().filter_map(|group| group["rules"].as_array());
    for rule in rules.flatten() {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "the demo is well: {rule}");
    }
}
