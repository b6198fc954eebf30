//! A script as it is written, checked as a whole.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use omnirelay_net::rpc::TraceContext;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::address::{self, Address};
use super::super::introspect;
use super::super::secure::Trust;
use super::super::target::{self, Target};
use super::step::{Delay, Introspect, Name, Request};
use super::variables::{Variables, named_in};

/// Most steps of a script.
const STEPS_MAX: usize = 10_000;

/// What steps that do not say it get from the command line.
#[derive(Debug)]
pub(super) struct Defaults {
    pub(super) address: Address,
    pub(super) admin_address: Address,
    pub(super) trust: Trust,
    pub(super) caller: String,
    /// The trace that requests belong to, whatever they say.
    pub(super) trace: Option<TraceContext>,
}

/// A step and its place in the script.
#[derive(Debug)]
pub(super) struct Step {
    /// From 1.
    pub(super) number: usize,
    pub(super) action: Action,
}

/// What a step does.
#[derive(Debug)]
pub(super) enum Action {
    Request(Box<Request>, Body),
    Introspect(Introspect),
    Delay(Delay),
}

/// What a request sends.
#[derive(Debug)]
pub(super) enum Body {
    /// An empty message.
    Nothing,
    /// A text with variables in it.
    Text(String),
    /// A document with variables in its texts.
    Document(Value),
    /// As it is.
    Bytes(Bytes),
}

impl Step {
    /// The step's `type`.
    pub(super) fn kind(&self) -> &'static str {
        match self.action {
            Action::Request(..) => "request",
            Action::Introspect(_) => "introspect",
            Action::Delay(_) => "delay",
        }
    }

    /// What the script calls the step.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.action {
            Action::Request(request, _) => request.name.as_deref(),
            Action::Introspect(introspect) => introspect.name.as_deref(),
            Action::Delay(delay) => delay.name.as_deref(),
        }
    }

    /// What the step does, for a person.
    pub(super) fn title(&self) -> String {
        match (self.name(), &self.action) {
            (Some(name), _) => name.to_owned(),
            (None, Action::Request(request, _)) => format!("request {}", request.procedure),
            (None, Action::Introspect(_)) => "introspect".into(),
            (None, Action::Delay(delay)) => {
                format!(
                    "delay {}",
                    crate::config::value::DurationText(delay.duration)
                )
            }
        }
    }

    fn captured(&self) -> Vec<&Name> {
        match &self.action {
            Action::Request(request, _) => request.capture.keys().collect(),
            Action::Introspect(introspect) => introspect.capture.keys().collect(),
            Action::Delay(_) => Vec::new(),
        }
    }

    /// The texts that may name variables, with the fields they are in.
    fn templates(&self) -> Vec<(String, &str)> {
        let mut found = Vec::new();
        match &self.action {
            Action::Request(request, body) => {
                found.extend([
                    ("service".to_owned(), &*request.service),
                    ("procedure".to_owned(), &*request.procedure),
                ]);
                for (field, text) in [
                    ("address", &request.address),
                    ("url", &request.url),
                    ("caller", &request.caller),
                    ("shardKey", &request.shard_key),
                    ("expect.code", &request.expect.code),
                ] {
                    found.extend(text.as_deref().map(|text| (field.to_owned(), text)));
                }
                for (key, text) in &request.headers {
                    found.push((format!("headers.{key}"), text));
                }
                match body {
                    Body::Text(text) => found.push(("body".into(), text)),
                    Body::Document(document) => texts("body".into(), document, &mut found),
                    Body::Nothing | Body::Bytes(_) => {}
                }
                for (pointer, value) in &request.expect.body {
                    texts(format!("expect.body.{}", pointer.0), value, &mut found);
                }
            }
            Action::Introspect(introspect) => {
                found.extend(introspect.url.as_deref().map(|url| ("url".to_owned(), url)));
                for (pointer, value) in &introspect.expect.body {
                    texts(format!("expect.body.{}", pointer.0), value, &mut found);
                }
            }
            Action::Delay(_) => {}
        }
        found
    }
}

/// The texts within a document, with their paths.
fn texts<'a>(path: String, document: &'a Value, found: &mut Vec<(String, &'a str)>) {
    match document {
        Value::String(text) => found.push((path, text)),
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                texts(format!("{path}[{at}]"), item, found);
            }
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                texts(format!("{path}.{key}"), value, found);
            }
        }
        _ => {}
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    /// For people.
    #[serde(default)]
    #[allow(dead_code, reason = "it is there to be written")]
    description: Option<String>,
    steps: Vec<Value>,
}

/// Reads a script that lies in `dir`, and everything it needs but the servers' replies.
///
/// # Errors
/// What is wrong, with line or step and field.
pub(super) fn parse(text: &[u8], dir: &Path, given: &Variables) -> Result<Vec<Step>, String> {
    if !text.trim_ascii_start().starts_with(b"{") {
        return Err("it is no JSON object {\"steps\": [...]}".into());
    }
    let mut from = serde_json::Deserializer::from_slice(text);
    let script: Script = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let path = error.path().to_string();
        match &*path {
            "." => error.into_inner().to_string(),
            _ => format!("{path}: {}", error.into_inner()),
        }
    })?;
    from.end().map_err(|error| error.to_string())?;
    match script.steps.len() {
        0 => return Err("it has no steps".into()),
        1..=STEPS_MAX => {}
        more => return Err(format!("it has {more} steps; {STEPS_MAX} are allowed")),
    }
    let mut known: Vec<String> = given.names().map(str::to_owned).collect();
    let mut steps = Vec::new();
    for (at, document) in script.steps.into_iter().enumerate() {
        let number = at + 1;
        let step = Step {
            number,
            action: action(document, dir).map_err(|reason| format!("step {number}{reason}"))?,
        };
        let kind = step.kind();
        check_texts(&step, &known).map_err(|reason| format!("step {number} ({kind}): {reason}"))?;
        known.extend(step.captured().into_iter().map(|name| name.0.clone()));
        steps.push(step);
    }
    Ok(steps)
}

/// Errors begin as they go on behind the step's number.
fn action(mut document: Value, dir: &Path) -> Result<Action, String> {
    const TYPES: &str = "request, introspect or delay";
    let Some(fields) = document.as_object_mut() else {
        return Err(format!(": it needs to be an object with a `type`: {TYPES}"));
    };
    let kind = match fields.remove("type") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(format!(": type: it needs to be a text: {TYPES}")),
        None => return Err(format!(": it has no `type`: {TYPES}")),
    };
    let of_kind = |reason: String| format!(" ({kind}): {reason}");
    match &*kind {
        "request" => {
            let mut request: Request = read(document).map_err(of_kind)?;
            let body = body(&mut request, dir).map_err(of_kind)?;
            check_target(&request).map_err(of_kind)?;
            Ok(Action::Request(Box::new(request), body))
        }
        "introspect" => {
            let introspect: Introspect = read(document).map_err(of_kind)?;
            if let Some(url) = introspect.url.as_deref().filter(|url| !url.contains("${")) {
                target::split_url("the URL", url, introspect::PATH)
                    .map_err(|failure| of_kind(format!("url: {}", failure.message)))?;
            }
            Ok(Action::Introspect(introspect))
        }
        "delay" => read(document).map(Action::Delay).map_err(of_kind),
        _ => Err(format!(": type: `{kind}` is none: {TYPES}")),
    }
}

fn read<T: DeserializeOwned>(document: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(document).map_err(|error| match &*error.path().to_string() {
        "." => error.into_inner().to_string(),
        path => format!("{path}: {}", error.inner()),
    })
}

/// What the request sends; it takes the body out of it.
fn body(request: &mut Request, dir: &Path) -> Result<Body, String> {
    let (body, file) = (request.body.take(), request.body_file.take());
    match (body, file, request.body_base64.take()) {
        (None, None, None) => Ok(Body::Nothing),
        (Some(Value::String(text)), None, None) => Ok(Body::Text(text)),
        (Some(document), None, None) => Ok(Body::Document(document)),
        (None, Some(file), None) => {
            let file = dir.join(file);
            let bytes = std::fs::read(&file)
                .map_err(|error| format!("bodyFile: cannot read {}: {error}", file.display()))?;
            Ok(Body::Bytes(bytes.into()))
        }
        (None, None, Some(text)) => match STANDARD.decode(text.trim()) {
            Ok(bytes) => Ok(Body::Bytes(bytes.into())),
            Err(error) => Err(format!("bodyBase64: it is not base64: {error}")),
        },
        _ => Err("it has more than one of body, bodyFile and bodyBase64".into()),
    }
}

/// Checks what names the server, as far as there are no variables in it.
fn check_target(request: &Request) -> Result<(), String> {
    let known = |text: &Option<String>| text.clone().filter(|text| !text.contains("${"));
    if request.address.is_some() && request.url.is_some() {
        return Err("it has both address and url".into());
    }
    if let Some(text) = known(&request.address) {
        address::parse(&text).map_err(|reason| format!("address: {reason}"))?;
    }
    let url = known(&request.url);
    let anywhere = Address {
        scheme: None,
        host_port: String::new(),
    };
    Target::new(request.transport, &anywhere, url.as_deref())
        .map_err(|failure| format!("url: {}", failure.message))?;
    Ok(())
}

/// Checks that every variable has a value when the step comes.
fn check_texts(step: &Step, known: &[String]) -> Result<(), String> {
    for (field, text) in step.templates() {
        let names = named_in(text).map_err(|reason| format!("{field}: {reason}"))?;
        if let Some(name) = names
            .iter()
            .find(|name| !known.iter().any(|known| known == *name))
        {
            let nearest = known
                .iter()
                .filter(|known| strsim::damerau_levenshtein(known, name) <= 2)
                .map(|known| format!("; is it `${{{known}}}`?"))
                .next();
            return Err(format!(
                "{field}: `${{{name}}}` is captured by no step before this one, nor given with --var{}",
                nearest.unwrap_or_default()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let given = [("who".to_owned(), "me".to_owned())].into_iter().collect();
        parse(text.as_bytes(), Path::new("/nowhere"), &given).unwrap_err()
    }

    fn step(fields: &str) -> String {
        refused(&format!(
            r#"{{"steps": [{{"type": "delay", "duration": "1s"}}, {{{fields}}}]}}"#
        ))
    }

    const REQUEST: &str = r#""type": "request", "service": "s", "procedure": "a::b""#;

    fn request(fields: &str) -> String {
        step(&format!("{REQUEST}, {fields}"))
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_line() {
        insta::assert_snapshot!(refused("{\n\"steps\": [}"), @"steps[0]: expected value at line 2 column 11");
        insta::assert_snapshot!(refused(r#"{"stesp": []}"#), @"stesp: unknown field `stesp`, expected `description` or `steps` at line 1 column 8");
        insta::assert_snapshot!(refused(r#"{"steps": []}"#), @"it has no steps");
        insta::assert_snapshot!(refused("[]"), @r#"it is no JSON object {"steps": [...]}"#);
        insta::assert_snapshot!(refused(r#"{"steps": [{}]} x"#), @"trailing characters at line 1 column 17");
    }

    #[test]
    fn what_is_wrong_with_a_step_is_said_with_its_number_and_field() {
        insta::assert_snapshot!(step(r#""duration": "1s""#), @"step 2: it has no `type`: request, introspect or delay");
        insta::assert_snapshot!(step(r#""type": "wait""#), @"step 2: type: `wait` is none: request, introspect or delay");
        insta::assert_snapshot!(step(r#""type": "delay", "duration": "1""#), @"step 2 (delay): duration: a duration is a number and a unit: 1500ms, 30s, 10m, 12h or 30d");
        insta::assert_snapshot!(step(r#""type": "delay", "duration": "2d""#), @"step 2 (delay): duration: it is longer than a day");
        insta::assert_snapshot!(step(r#""type": "request", "service": "s""#), @"step 2 (request): missing field `procedure`");
        insta::assert_snapshot!(step(r#""type": "introspect", "url": "quic://h""#), @"step 2 (introspect): url: the URL quic://h: it begins neither with https:// nor with http://");
        insta::assert_snapshot!(request(r#""bdy": 1"#), @"step 2 (request): bdy: unknown field `bdy`, expected one of `name`, `transport`, `address`, `url`, `service`, `procedure`, `caller`, `encoding`, `headers`, `shardKey`, `body`, `bodyFile`, `bodyBase64`, `timeout`, `expect`, `capture`");
        insta::assert_snapshot!(request(r#""transport": "udp""#), @"step 2 (request): transport: unknown variant `udp`, expected one of `http`, `grpc`, `quic`");
        insta::assert_snapshot!(request(r#""encoding": "xml""#), @"step 2 (request): encoding: encoding `xml` is not supported; use json, proto or raw");
        insta::assert_snapshot!(request(r#""expect": {"status": "abort"}"#), @"step 2 (request): expect.status: `abort` is no status; is it `aborted`?");
        insta::assert_snapshot!(request(r#""expect": {"body": {"a.b": 1}}"#), @r#"step 2 (request): expect.body.a.b: `a.b` is no JSON pointer: write /a/b, or "" for the whole document"#);
        insta::assert_snapshot!(request(r#""capture": {"a-b": "/a"}"#), @"step 2 (request): capture.a-b: `a-b` is no name: it has letters, digits and _, and does not begin with a digit");
        insta::assert_snapshot!(request(r#""body": {}, "bodyFile": "x""#), @"step 2 (request): it has more than one of body, bodyFile and bodyBase64");
        insta::assert_snapshot!(request(r#""bodyFile": "x""#), @"step 2 (request): bodyFile: cannot read /nowhere/x: No such file or directory (os error 2)");
        insta::assert_snapshot!(request(r#""bodyBase64": "?""#), @"step 2 (request): bodyBase64: it is not base64: Invalid symbol 63, offset 0.");
        insta::assert_snapshot!(request(r#""address": "localhost""#), @"step 2 (request): address: an address is host:port, such as 127.0.0.1:7420 or [::1]:7420; it names no port");
        insta::assert_snapshot!(request(r#""transport": "grpc", "url": "http://h""#), @"step 2 (request): url: a URL is for transport http: gRPC's path is the procedure's");
        insta::assert_snapshot!(request(r#""transport": "quic", "url": "http://h""#), @"step 2 (request): url: a URL is for transport http: frames over QUIC have no path");
    }

    #[test]
    fn a_variable_needs_a_value_before_it_is_used() {
        insta::assert_snapshot!(request(r#""body": {"by": ["${who}", "${hwo}"]}"#), @"step 2 (request): body.by[1]: `${hwo}` is captured by no step before this one, nor given with --var; is it `${who}`?");
        insta::assert_snapshot!(request(r#""headers": {"k": "${token}"}, "capture": {"token": ""}"#), @"step 2 (request): headers.k: `${token}` is captured by no step before this one, nor given with --var");
        insta::assert_snapshot!(request(r#""expect": {"body": {"/a": "${b"}}"#), @"step 2 (request): expect.body./a: `${` has no end `}`; write `$${` for the characters themselves");
    }
}
