//! A headless Chromium, driven over the pipe of its DevTools protocol.

#![allow(unreachable_pub, reason = "a module of a test")]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::BOUND;

/// As Debian and others call it.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser with one page, ended with the test.
pub struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: Value,
    last: u64,
    /// Everything it told without being asked.
    pub events: Vec<Value>,
    _profile: TempDir,
}

/// The program, if there is one.
fn program() -> Option<&'static str> {
    let runs = |program: &&str| {
        let asked = Command::new(program).arg("--version").output();
        asked.is_ok_and(|output| output.status.success())
    };
    PROGRAMS.into_iter().find(|program| runs(program))
}

impl Browser {
    /// Starts one with an empty page; `None`, said aloud, if there is no Chromium.
    pub fn start() -> Option<Browser> {
        let Some(program) = program() else {
            eprintln!("SKIPPED: no Chromium; apt-get install chromium");
            return None;
        };
        let profile = tempfile::tempdir().expect("a directory");
        let (its_in, to) = io::pipe().expect("a pipe");
        let (from, its_out) = io::pipe().expect("a pipe");
        let (its_in, its_out) = (OwnedFd::from(its_in), OwnedFd::from(its_out));
        let mut command = Command::new(program);
        command
            .args(["--headless=new", "--no-sandbox", "--disable-gpu"])
            .args(["--hide-scrollbars", "--remote-debugging-pipe"])
            .args(["--disable-background-networking", "--no-first-run"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (read, write) = (its_in.as_raw_fd(), its_out.as_raw_fd());
        // SAFETY: only fcntl and dup2 run between fork and exec, and both are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                // Out of the way first: either may be 3 or 4.
                let read = libc::fcntl(read, libc::F_DUPFD, 10);
                let write = libc::fcntl(write, libc::F_DUPFD, 10);
                if libc::dup2(read, 3) < 0 || libc::dup2(write, 4) < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("Chromium starts");
        drop((its_in, its_out));
        let (told, hears) = mpsc::channel();
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut message = Vec::new();
            while from
                .read_until(0, &mut message)
                .is_ok_and(|bytes| bytes > 0)
            {
                message.pop();
                let parsed = serde_json::from_slice(&message).expect("JSON");
                if told.send(parsed).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Browser {
            child,
            to: File::from(OwnedFd::from(to)),
            from: hears,
            session: Value::Null,
            last: 0,
            events: Vec::new(),
            _profile: profile,
        };
        let page = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    /// Has it do something, and gives its answer.
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": params});
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("the browser listens");
        let until = Instant::now() + BOUND;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message = self.from.recv_timeout(left);
            let message = message.unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] != self.last {
                self.events.push(message);
                continue;
            }
            assert!(message.get("error").is_none(), "{method}: {message}");
            return message["result"].clone();
        }
    }

    /// Opens an address and waits until it has loaded.
    pub fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url}));
        self.wait(
            &format!("{url} has loaded"),
            "document.readyState === 'complete'",
        );
    }

    /// What an expression is in the page.
    pub fn eval(&mut self, expression: &str) -> Value {
        let ask = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let told = self.call("Runtime.evaluate", ask);
        assert!(
            told.get("exceptionDetails").is_none(),
            "{expression}: {told}"
        );
        told["result"]["value"].clone()
    }

    /// Waits until an expression holds in the page.
    pub fn wait(&mut self, what: &str, expression: &str) {
        let started = Instant::now();
        while self.eval(&format!("Boolean({expression})")) != json!(true) {
            if started.elapsed() > BOUND {
                let text = self.eval("document.body.innerText");
                panic!("waited too long: {what}; the page says: {text}");
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The text of what a selector finds.
    pub fn text(&mut self, selector: &str) -> String {
        let text = self.eval(&format!(
            "document.querySelector({}).textContent",
            json!(selector)
        ));
        text.as_str().expect("text").to_owned()
    }

    /// Presses and lets go of a key: a character, or a name such as `Enter`.
    pub fn press(&mut self, key: &str) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            _ => 0,
        };
        let text = match key {
            "Enter" => Some("\r"),
            "Tab" | "Escape" => None,
            character => Some(character),
        };
        let mut event = json!({"type": "keyDown", "key": key, "windowsVirtualKeyCode": code});
        if let Some(text) = text {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", event);
        let up = json!({"type": "keyUp", "key": key, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", up);
    }

    /// Types one character after the other.
    pub fn enter(&mut self, text: &str) {
        for character in text.chars() {
            self.press(&character.to_string());
        }
    }

    /// The size of its window in CSS pixels.
    pub fn size(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// What its user prefers, as `prefers-color-scheme` tells pages.
    pub fn prefer(&mut self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// The whole page as a PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let ask = json!({"format": "png", "captureBeyondViewport": true, "clip": {
            "x": 0, "y": 0, "scale": 1,
            "width": self.eval("innerWidth"),
            "height": self.eval("document.documentElement.scrollHeight"),
        }});
        let shot = self.call("Page.captureScreenshot", ask);
        let text = shot["data"].as_str().expect("base64");
        STANDARD.decode(text).expect("base64")
    }

    /// The events of a method so far.
    pub fn told(&self, method: &str) -> impl Iterator<Item = &Value> {
        let events = self
            .events
            .iter()
            .filter(move |event| event["method"] == method);
        events.map(|event| &event["params"])
    }

    /// What a developer would see in red.
    pub fn complaints(&self) -> Vec<String> {
        let logged = self.told("Log.entryAdded").map(|told| &told["entry"]);
        let logged =
            logged.filter(|entry| entry["level"] == "error" || entry["level"] == "warning");
        let said = self.told("Runtime.consoleAPICalled");
        let thrown = self.told("Runtime.exceptionThrown");
        logged
            .chain(said)
            .chain(thrown)
            .map(Value::to_string)
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It ends what it has started only if it ends itself.
        let close = b"{\"id\":0,\"method\":\"Browser.close\"}\0";
        let asked = self.to.write_all(close);
        let until = Instant::now() + Duration::from_secs(5);
        while asked.is_ok() && Instant::now() < until {
            if self.child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
