//! A node as a child process, ended with the test at the latest.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{BOUND, Connection, Request, wait_for};

/// Happens in the child between fork and exec.
type BeforeExec = Box<dyn FnMut() -> io::Result<()> + Send + Sync>;

/// How a node is to be started: on one core, on ports that the system picks, with the smallest
/// segments.
pub struct Launch {
    command: &'static str,
    dir: PathBuf,
    cores: String,
    listen: String,
    admin_listen: String,
    settings: Vec<String>,
    env: Vec<(String, String)>,
    before_exec: Option<BeforeExec>,
    is_unread: bool,
}

impl Launch {
    pub fn on(dir: &Path) -> Launch {
        Launch {
            command: "serve",
            dir: dir.to_owned(),
            cores: "1".into(),
            listen: "127.0.0.1:0".into(),
            admin_listen: "127.0.0.1:0".into(),
            settings: vec!["segment_bytes=8388608".into()],
            env: Vec::new(),
            before_exec: None,
            is_unread: false,
        }
    }

    /// A demo instead, which picks cores and settings itself.
    pub fn demo_on(dir: &Path) -> Launch {
        Launch {
            command: "demo",
            settings: Vec::new(),
            ..Launch::on(dir)
        }
    }

    pub fn cores(mut self, cores: usize) -> Launch {
        self.cores = cores.to_string();
        self
    }

    /// On these CPUs, as `--cores` takes them.
    pub fn cpus(mut self, cpus: &str) -> Launch {
        self.cores = cpus.into();
        self
    }

    pub fn listen(mut self, address: SocketAddr) -> Launch {
        self.listen = address.to_string();
        self
    }

    pub fn admin_listen(mut self, address: SocketAddr) -> Launch {
        self.admin_listen = address.to_string();
        self
    }

    /// With a configuration key, `key=value`.
    pub fn set(mut self, setting: &str) -> Launch {
        self.settings.push(setting.into());
        self
    }

    /// With a variable in its otherwise empty environment.
    pub fn env(mut self, name: &str, value: &str) -> Launch {
        self.env.push((name.into(), value.into()));
        self
    }

    /// With a stderr that nobody reads until [`Node::listen`].
    pub fn unread(mut self) -> Launch {
        self.is_unread = true;
        self
    }

    /// Has the child do something before it becomes the node.
    ///
    /// # Safety
    /// `act` runs between fork and exec: only what is async-signal-safe.
    pub unsafe fn before_exec(
        mut self,
        act: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> Launch {
        self.before_exec = Some(Box::new(act));
        self
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Node {
        let dir = self.dir.clone();
        let mut node = self.spawn();
        (node.address, node.admin_address) = node.addresses(&dir);
        wait_for("the node is ready", || {
            (node.admin("/readyz").0 == 200).then_some(())
        });
        node
    }

    /// The same, where its admin endpoints speak TLS: until it says that it is ready.
    pub fn start_with_tls(self) -> Node {
        let dir = self.dir.clone();
        let mut node = self.spawn();
        (node.address, node.admin_address) = node.addresses(&dir);
        wait_for("the node is ready", || {
            node.said().contains(" is ready: ").then_some(())
        });
        node
    }

    /// Starts it and waits until it ends by itself.
    pub fn ended(self) -> Ended {
        self.spawn().wait()
    }

    /// Starts it and kills it at some moment, ready or not.
    pub fn kill_after(self, moment: Duration) {
        let node = self.spawn();
        thread::sleep(moment);
        node.kill();
    }

    fn spawn(self) -> Node {
        let mut command = Command::new(env!("CARGO_BIN_EXE_omnirelay"));
        command
            .env_clear()
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.arg(self.command).arg("--data-dir").arg(&self.dir);
        if self.command == "serve" {
            command.args(["--cores", &self.cores]);
        }
        command.args([
            "--listen",
            &self.listen,
            "--admin-listen",
            &self.admin_listen,
        ]);
        for setting in &self.settings {
            command.args(["--set", setting]);
        }
        if let Some(act) = self.before_exec {
            // SAFETY: whoever gave it vouched for it.
            unsafe { command.pre_exec(act) };
        }
        let mut child = command.spawn().expect("the node starts");
        let stderr = child.stderr.take().expect("stderr is piped");
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut node = Node {
            child,
            said: Arc::default(),
            unread: Some(stderr),
            listener: None,
            address: nowhere,
            admin_address: nowhere,
        };
        if !self.is_unread {
            node.listen();
        }
        node
    }
}

fn listen_to(stderr: ChildStderr, said: &Mutex<String>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    while stderr
        .read_until(b'\n', &mut line)
        .is_ok_and(|bytes| bytes > 0)
    {
        let text = String::from_utf8_lossy(&line);
        said.lock().expect("nobody panics with it").push_str(&text);
        line.clear();
    }
}

/// How a node ended.
#[derive(Debug)]
pub struct Ended {
    /// `None` if a signal ended it.
    pub code: Option<i32>,
    /// Everything it wrote on stderr.
    pub said: String,
}

impl Ended {
    /// Asserts that it refused to start, and what it said about it.
    pub fn refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.said);
        for word in words {
            assert!(
                self.said.contains(word),
                "`{word}` is not in: {}",
                self.said
            );
        }
    }
}

/// A running node.
pub struct Node {
    child: Child,
    said: Arc<Mutex<String>>,
    /// What it writes on, as long as nobody reads it.
    unread: Option<ChildStderr>,
    listener: Option<JoinHandle<()>>,
    /// Where it serves RPC.
    pub address: SocketAddr,
    /// Where its admin endpoints are.
    pub admin_address: SocketAddr,
}

impl Node {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// A connection that one of its cores serves: the kernel chooses by a hash of both addresses.
    /// Nobody else may connect meanwhile.
    pub fn connect_to(&self, core: usize) -> Connection {
        const TRIES: usize = 64;
        let accepted = || -> Vec<u64> {
            let (_, told) = self.admin("/omnirelay/introspect");
            let cores = told["cores"].as_array().expect("a list of cores");
            let count = |core: &Value| core["connections"]["accepted"].as_u64();
            cores.iter().filter_map(count).collect()
        };
        let mut before = accepted();
        for _ in 0..TRIES {
            let connection = self.connect();
            let after = wait_for("the connection is accepted", || {
                let after = accepted();
                (after.iter().sum::<u64>() > before.iter().sum()).then_some(after)
            });
            if after[core] > before[core] {
                return connection;
            }
            before = after;
        }
        panic!("none of {TRIES} connections is served by core {core}");
    }

    /// Begins to read what it writes on stderr.
    pub fn listen(&mut self) {
        let stderr = self.unread.take().expect("nobody reads it yet");
        let said = Arc::clone(&self.said);
        self.listener = Some(thread::spawn(move || listen_to(stderr, &said)));
    }

    /// Everything it has written on stderr so far.
    pub fn said(&self) -> String {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// Status and body of an admin endpoint; status 0 while it does not answer.
    pub fn admin(&self, path: &str) -> (u16, Value) {
        let asked = Connection::try_open(self.admin_address).and_then(|mut connection| {
            connection.send(&Request::get(path))?;
            connection.receive()
        });
        match asked {
            Ok(reply) => (
                reply.status,
                serde_json::from_slice(&reply.body).unwrap_or(Value::Null),
            ),
            Err(_) => (0, Value::Null),
        }
    }

    /// The text of an admin endpoint.
    pub fn admin_text(&self, path: &str) -> String {
        let mut connection = Connection::open(self.admin_address);
        let reply = connection.request(&Request::get(path));
        String::from_utf8(reply.body).expect("text")
    }

    /// The sum over all cores of a number in the introspection.
    pub fn over_cores(&self, pointer: &str) -> u64 {
        let (_, told) = self.admin("/omnirelay/introspect");
        let cores = told["cores"].as_array().expect("a list of cores");
        cores
            .iter()
            .filter_map(|core| core.pointer(pointer)?.as_u64())
            .sum()
    }

    /// Pending, leased, delayed and dead items of the default namespace.
    pub fn counts(&self) -> [u64; 4] {
        let stats = self.connect().call("stats", json!({})).ok();
        [
            "pendingCount",
            "activeLeaseCount",
            "delayedCount",
            "deadLetterCount",
        ]
        .map(|field| stats["stats"][field].as_u64().expect("a count"))
    }

    /// Ends it as a power failure would end the process.
    pub fn kill(mut self) {
        self.child.kill().expect("the node can be killed");
        self.child.wait().expect("the node ends");
    }

    /// Asks it to end, as a supervisor does.
    pub fn terminate(&self) {
        let pid = libc::pid_t::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: kill has no memory effects, and the child has not been waited for, so the pid is its own.
        let sent = unsafe { libc::kill(pid, libc::SIGTERM) };
        assert_eq!(sent, 0, "the node takes signals");
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("the node can be waited for")
            .is_none()
    }

    /// Waits until it has ended.
    pub fn wait(mut self) -> Ended {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the node can be waited for") {
                break status;
            }
            assert!(
                started.elapsed() < BOUND,
                "the node does not end: {}",
                self.said()
            );
            thread::sleep(Duration::from_millis(5));
        };
        if let Some(listener) = self.listener.take() {
            listener.join().expect("stderr is read");
        }
        Ended {
            code: status.code(),
            said: self.said(),
        }
    }

    /// Drains it.
    pub fn stop(self) -> Ended {
        self.terminate();
        self.wait()
    }

    fn addresses(&mut self, dir: &Path) -> (SocketAddr, SocketAddr) {
        let pid = self.pid();
        // A file system that only the child has mounted is seen through the child.
        let seen_by_child = PathBuf::from(format!("/proc/{pid}/root{}", dir.display()));
        let files = [dir.join("node.json"), seen_by_child.join("node.json")];
        let started = Instant::now();
        loop {
            let told = files.iter().find_map(|file| {
                let told: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
                (told["pid"] == json!(pid)).then_some(told)
            });
            if let Some(told) = told {
                let address = |key: &str| told[key].as_str().and_then(|text| text.parse().ok());
                return address("listen")
                    .zip(address("admin_listen"))
                    .expect("two addresses");
            }
            assert!(
                self.runs(),
                "the node ended before it was ready: {}",
                self.said()
            );
            assert!(
                started.elapsed() < BOUND,
                "the node does not say where it is: {}",
                self.said()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
