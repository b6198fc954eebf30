//! Whether a reply is what a step expects, and what is captured from it.

use std::collections::BTreeMap;

use omnirelay_net::rpc::{self, Code};
use serde_json::{Value, json};

use super::step::{Expect, Name, Pointer};
use super::variables::Variables;
use crate::cli::failure::Failure;

/// A refusal as a document, of the same form over every transport.
pub(super) fn error_document(error: &rpc::Error) -> Value {
    json!({
        "message": error.message,
        "status": error.code.grpc_name(),
        "code": error.error_code,
        "metadata": error.metadata,
    })
}

/// Checks an RPC's reply: `refused` is what the server refused, `document` what it said.
///
/// # Errors
/// What the server refused where success is expected; `script.expect` for any other difference.
pub(super) fn reply(
    expect: &Expect,
    refused: Option<&rpc::Error>,
    document: &Value,
    variables: &Variables,
) -> Result<(), Failure> {
    let is_refusal_expected =
        expect.code.is_some() || expect.status.is_some_and(|status| status != Code::Ok);
    if let (Some(error), false) = (refused, is_refusal_expected) {
        return Err(error.clone().into());
    }
    let said = match refused {
        Some(error) => format!(
            "{} ({}): {}",
            error.error_code,
            error.code.name(),
            error.message
        ),
        None => "success".into(),
    };
    if let Some(wanted) = expect.status {
        let status = refused.map_or(Code::Ok, |error| error.code);
        if status != wanted {
            return Err(unmet(format!(
                "status {} was expected, the reply is {said}",
                wanted.name()
            )));
        }
    }
    if let Some(wanted) = &expect.code {
        let wanted = variables.fill(wanted).map_err(unmet)?;
        if refused.is_none_or(|error| error.error_code != wanted) {
            return Err(unmet(format!(
                "code {wanted} was expected, the reply is {said}"
            )));
        }
    }
    body(&expect.body, document, variables)
}

/// Checks that a document holds what is expected.
///
/// # Errors
/// `script.expect`.
pub(super) fn body(
    expected: &BTreeMap<Pointer, Value>,
    document: &Value,
    variables: &Variables,
) -> Result<(), Failure> {
    for (pointer, wanted) in expected {
        let wanted = variables.fill_document(wanted).map_err(unmet)?;
        let Pointer(pointer) = pointer;
        match document.pointer(pointer) {
            Some(found) if *found == wanted => {}
            Some(found) => {
                return Err(unmet(format!(
                    "{pointer} is {}, {} was expected",
                    short(found),
                    short(&wanted)
                )));
            }
            None => {
                return Err(unmet(format!(
                    "{pointer} is not there, {} was expected; the reply is {}",
                    short(&wanted),
                    short(document)
                )));
            }
        }
    }
    Ok(())
}

/// Takes values out of a document.
///
/// # Errors
/// `script.capture` for a place that is not there.
pub(super) fn capture(
    wanted: &BTreeMap<Name, Pointer>,
    document: &Value,
) -> Result<BTreeMap<String, Value>, Failure> {
    let mut captured = BTreeMap::new();
    for (Name(name), Pointer(pointer)) in wanted {
        let value = document.pointer(pointer).ok_or_else(|| {
            Failure::failed(
                "script.capture",
                format!(
                    "there is no {pointer} for `{name}`; the reply is {}",
                    short(document)
                ),
                "correct the step's `capture`; --output json shows whole replies",
            )
        })?;
        captured.insert(name.clone(), value.clone());
    }
    Ok(captured)
}

fn unmet(message: String) -> Failure {
    Failure::failed(
        "script.expect",
        message,
        "--output json shows whole replies",
    )
}

/// A document as JSON, cut where it is long.
fn short(document: &Value) -> String {
    const CHARS_MAX: usize = 200;
    let text = document.to_string();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
