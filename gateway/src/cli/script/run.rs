//! Runs a script's steps in their order.

use std::time::Instant;

use bytes::Bytes;
use omnirelay_net::rpc::RequestHead;
use serde_json::Value;

use super::check;
use super::file::{Action, Body, Defaults, Step};
use super::report::{Done, Report};
use super::step::{Introspect, Request};
use super::variables::Variables;
use crate::cli::failure::Failure;
use crate::cli::request::reply_document;
use crate::cli::target::{self, Target, empty_body};
use crate::cli::{address, introspect};

/// Runs the steps, and reports each as it ends.
///
/// # Errors
/// Only what keeps the report from being written: a step that fails is in the report.
pub(super) async fn run(
    steps: &[Step],
    mut variables: Variables,
    defaults: &Defaults,
    continue_on_error: bool,
    report: &mut Report,
) -> Result<(), Failure> {
    for step in steps {
        let begun = Instant::now();
        let mut done = Done::default();
        let result = match &step.action {
            Action::Request(request, body) => {
                call(request, body, &mut variables, defaults, &mut done).await
            }
            Action::Introspect(wanted) => look(wanted, &mut variables, defaults, &mut done).await,
            Action::Delay(delay) => {
                tokio::time::sleep(delay.duration).await;
                Ok(())
            }
        };
        let is_failed = result.is_err();
        report.ended(step, begun.elapsed(), done, result)?;
        if is_failed && !continue_on_error {
            break;
        }
    }
    Ok(())
}

async fn call(
    request: &Request,
    body: &Body,
    variables: &mut Variables,
    defaults: &Defaults,
    done: &mut Done,
) -> Result<(), Failure> {
    let fill = |text: &str| variables.fill(text).map_err(without_value);
    let fill_or = |text: &Option<String>, default: &str| match text {
        Some(text) => fill(text),
        None => Ok(default.to_owned()),
    };
    let mut head = RequestHead::new(
        fill_or(&request.caller, &defaults.caller)?,
        fill(&request.service)?,
        fill(&request.procedure)?,
        request.encoding,
    );
    head.ttl = request.timeout;
    let shard_key = request.shard_key.as_deref().map(fill).transpose()?;
    head.shard_key = shard_key.map(Into::into);
    for (key, value) in &request.headers {
        head.headers.push((key.clone(), fill(value)?));
    }
    let body = match body {
        Body::Nothing => empty_body(request.encoding),
        Body::Text(text) => fill(text)?.into(),
        Body::Document(document) => {
            let filled = variables.fill_document(document).map_err(without_value)?;
            Bytes::from(filled.to_string())
        }
        Body::Bytes(bytes) => bytes.clone(),
    };
    let server = match &request.address {
        Some(text) => address::parse(&fill(text)?).map_err(without_value)?,
        None => defaults.address.clone(),
    };
    let url = request.url.as_deref().map(fill).transpose()?;
    let target = Target::new(request.transport, &server, url.as_deref())?;
    let answer = target.call(&defaults.trust, &head, body, defaults.trace);
    let reply = answer.await?.reply;
    let document = match &reply {
        Ok(body) => reply_document(body, request.encoding),
        Err(error) => check::error_document(error),
    };
    let document = done.reply.insert(document);
    check::reply(&request.expect, reply.as_ref().err(), document, variables)?;
    keep(check::capture(&request.capture, document)?, variables, done);
    Ok(())
}

async fn look(
    wanted: &Introspect,
    variables: &mut Variables,
    defaults: &Defaults,
    done: &mut Done,
) -> Result<(), Failure> {
    let (address, path) = match &wanted.url {
        Some(url) => {
            let url = variables.fill(url).map_err(without_value)?;
            target::split_url("the URL", &url, introspect::PATH)?
        }
        None => (
            defaults.admin_address.clone(),
            http::Uri::from_static(introspect::PATH),
        ),
    };
    let server = defaults.trust.server(&address)?;
    let document = introspect::document(&server, &path, wanted.timeout)
        .await
        .map_err(|failure| failure.of_option("--admin-address"))?;
    let document = done.reply.insert(document);
    check::body(&wanted.expect.body, document, variables)?;
    keep(check::capture(&wanted.capture, document)?, variables, done);
    Ok(())
}

fn keep(
    captured: std::collections::BTreeMap<String, Value>,
    variables: &mut Variables,
    done: &mut Done,
) {
    for (name, value) in &captured {
        variables.set(name, value.clone());
    }
    done.captured = captured;
}

fn without_value(reason: String) -> Failure {
    Failure::failed(
        "script.variable",
        reason,
        "put the steps before it right, or give the value with --var",
    )
}
