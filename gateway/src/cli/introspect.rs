//! `omnirelay introspect`: what a running node knows about itself.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use serde_json::Value;

use super::client::{Connection, block_on};
use super::failure::Failure;
use super::output::{self, Output, OutputArgs};

/// The document that the admin server gives.
const PATH: &str = "/omnirelay/introspect";

/// How long the node may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Show what a running node knows about itself
#[derive(Debug, clap::Args)]
#[command(
    after_help = "EXAMPLE:\n  omnirelay introspect\n  omnirelay introspect --output json | jq .namespaces"
)]
pub(super) struct IntrospectArgs {
    /// The node's admin address, as host:port
    #[arg(
        long,
        env = "OMNIRELAY_ADMIN_ADDRESS",
        hide_env_values = true,
        default_value = "127.0.0.1:7421"
    )]
    admin_address: String,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &IntrospectArgs) -> Result<(), Failure> {
    let address = &args.admin_address;
    let request = Request::get(PATH)
        .body(Bytes::new())
        .expect("a constant request");
    let response = block_on(async {
        let mut connection = Connection::open(address).await?;
        connection.send(request, LIMIT).await
    })
    .map_err(|failure| Failure {
        help: failure.help.replace("--address", "--admin-address"),
        ..failure
    })?;
    let document: Option<Value> = serde_json::from_slice(&response.body).ok();
    let (true, Some(document)) = (response.status.is_success(), document) else {
        return Err(Failure::failed(
            "cli.introspect",
            format!(
                "{address}{PATH} answered {} and no JSON document",
                response.status
            ),
            "is this the admin address of a node? its default port is 7421",
        ));
    };
    match args.output.output {
        Output::Json => output::json(&document),
        Output::Table => {
            let mut rows = Vec::new();
            flatten("", &document, &mut rows);
            output::table(&["KEY", "VALUE"], rows)
        }
    }
}

/// One row for each value, keyed by its path.
fn flatten(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let join = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                flatten(&join(key), value, rows);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (at, value) in items.iter().enumerate() {
                flatten(&join(&at.to_string()), value, rows);
            }
        }
        Value::String(text) => rows.push(vec![path.to_owned(), text.clone()]),
        other => rows.push(vec![path.to_owned(), other.to_string()]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_becomes_one_row_for_each_value() {
        let mut rows = Vec::new();
        flatten(
            "",
            &json!({"a": {"b": 1, "c": []}, "d": ["x", null]}),
            &mut rows,
        );
        assert_eq!(
            rows,
            [["a.b", "1"], ["a.c", "[]"], ["d.0", "x"], ["d.1", "null"]]
        );
    }
}
