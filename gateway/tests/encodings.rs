//! The same calls in JSON and in protobuf have the same results.

mod harness;

use harness::{Connection, Launch, Request};
use omnirelay_net::messages::{
    CompleteRequest as Complete, EnqueueBatchRequest as EnqueueRequests, EnqueueRequest,
    FailRequest as Fail, HeartbeatRequest as Heartbeat, LeaseBatchRequest as LeaseBatch,
    LeaseRequest as Lease, OwnershipToken, Payload, SettleItem, SettleRequest as Settle,
};
use omnirelay_net::rpc::{self, Call, Encoding, Procedure};
use serde_json::Value;

/// Calls one node in one encoding.
struct Client {
    connection: Connection,
    encoding: Encoding,
}

impl Client {
    /// The reply or error as plain data.
    fn call(&mut self, call: &Call) -> Result<Value, Value> {
        let procedure = call.procedure();
        let body = rpc::encode_call(self.encoding, call).expect("the call can be encoded");
        let name = format!("resourcelease::{procedure}");
        let reply = self
            .connection
            .request(&Request::procedure(&name, self.encoding.name(), body));
        if reply.status != 200 {
            // Errors are JSON in every encoding.
            return Err(reply.json());
        }
        assert_eq!(
            reply.header("content-type"),
            Some(self.encoding.content_type())
        );
        Ok(as_json(procedure, self.encoding, &reply.body))
    }
}

/// A reply of either encoding as the JSON it would be.
fn as_json(procedure: Procedure, encoding: Encoding, body: &[u8]) -> Value {
    let body = bytes::Bytes::copy_from_slice(body);
    let reply = rpc::decode_reply(procedure, encoding, &body).expect("the reply can be read");
    serde_json::from_slice(&rpc::encode_reply(Encoding::Json, &reply)).expect("JSON")
}

fn payload(id: &str) -> Payload {
    Payload {
        resource_type: "täble".into(),
        resource_id: id.into(),
        partition_key: Some("p".into()),
        payload_encoding: "application/octet-stream".into(),
        body: vec![0, 255, 128, 10].into(),
        attributes: [
            ("a".to_owned(), "1".to_owned()),
            ("ö".to_owned(), String::new()),
        ]
        .into(),
        request_id: Some(format!("r-{id}")),
    }
}

/// A conversation that meets every procedure and several errors.
fn converse(client: &mut Client) -> Vec<Result<Value, Value>> {
    let enqueue = |id: &str| EnqueueRequest {
        payload: Some(payload(id)),
        priority: Some(7),
        ..Default::default()
    };
    let mut heard = vec![
        client.call(&Call::Lease(no_wait())),
        client.call(&Call::Enqueue(enqueue("a"))),
        client.call(&Call::Enqueue(enqueue("a"))),
        client.call(&Call::Enqueue(EnqueueRequest::default())),
    ];
    let batch = EnqueueRequests {
        items: vec![enqueue("b"), EnqueueRequest::default(), enqueue("c")],
        ..Default::default()
    };
    heard.push(client.call(&Call::EnqueueBatch(batch)));
    heard.push(client.call(&Call::Stats(Default::default())));
    let lease = client.call(&Call::Lease(no_wait()));
    let token = token(lease.as_ref().expect("an item waits"));
    heard.push(lease);
    heard.push(client.call(&Call::Heartbeat(Heartbeat {
        ownership_token: Some(token.clone()),
        extend_ms: Some(60_000),
        ..Default::default()
    })));
    let fail = Fail {
        ownership_token: Some(token.clone()),
        reason: Some("why".into()),
        error_code: Some("E".into()),
        delay_ms: Some(0),
        metadata: [("k".to_owned(), "v".to_owned())].into(),
        ..Default::default()
    };
    heard.push(client.call(&Call::Fail(fail)));
    heard.push(client.call(&Call::Complete(Complete {
        ownership_token: Some(token),
        ..Default::default()
    })));
    let batch = LeaseBatch {
        max_items: 10,
        wait_ms: Some(0),
        ..Default::default()
    };
    let leases = client.call(&Call::LeaseBatch(batch));
    let leased = leases.as_ref().expect("items wait")["leases"]
        .as_array()
        .expect("a list")
        .clone();
    heard.push(leases);
    let items = leased
        .iter()
        .zip(["complete", "heartbeat", "eat"])
        .map(|(lease, action)| SettleItem {
            ownership_token: Some(self::token(lease)),
            action: action.into(),
            ..Default::default()
        });
    heard.push(client.call(&Call::Settle(Settle {
        items: items.collect(),
        ..Default::default()
    })));
    heard.push(client.call(&Call::Stats(Default::default())));
    heard
}

fn no_wait() -> Lease {
    Lease {
        wait_ms: Some(0),
        ..Default::default()
    }
}

fn token(lease: &Value) -> OwnershipToken {
    serde_json::from_value(lease["ownershipToken"].clone()).expect("a token")
}

/// Takes out what differs between any two conversations: times and lease ids.
fn without_chance(heard: &mut Value) {
    match heard {
        Value::Object(fields) => {
            for (name, value) in fields {
                if matches!(name.as_str(), "leaseId" | "enqueuedAt" | "leaseExpiresAt") {
                    assert!(value.is_string(), "{name} is {value}");
                    *value = Value::Null;
                } else {
                    without_chance(value);
                }
            }
        }
        Value::Array(entries) => entries.iter_mut().for_each(without_chance),
        _ => {}
    }
}

#[test]
fn json_and_protobuf_hear_the_same() {
    let hear = |encoding| {
        let dir = tempfile::tempdir().expect("a directory");
        let node = Launch::on(dir.path()).start();
        let mut heard = converse(&mut Client {
            connection: node.connect(),
            encoding,
        });
        for one in &mut heard {
            without_chance(match one {
                Ok(reply) | Err(reply) => reply,
            });
        }
        heard
    };
    let (json, proto) = (hear(Encoding::Json), hear(Encoding::Proto));
    for (json, proto) in json.iter().zip(&proto) {
        assert_eq!(json, proto);
    }
    assert_eq!(json.len(), 13);
    let refused = json.iter().filter(|heard| heard.is_err()).count();
    assert_eq!(refused, 3, "{json:#?}");
}

#[test]
fn what_one_encoding_enqueued_the_other_leases() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = Launch::on(dir.path()).start();
    let clients = [Encoding::Json, Encoding::Proto];
    let [mut json, mut proto] = clients.map(|encoding| Client {
        connection: node.connect(),
        encoding,
    });
    let enqueue = |id: &str| {
        Call::Enqueue(EnqueueRequest {
            payload: Some(payload(id)),
            ..Default::default()
        })
    };
    let sent: Value = serde_json::to_value(payload("a")).expect("JSON");
    json.call(&enqueue("a")).expect("it is taken");
    assert_eq!(
        proto.call(&Call::Lease(no_wait())).expect("a lease")["payload"],
        sent
    );
    proto.call(&enqueue("b")).expect("it is taken");
    let lease = json.call(&Call::Lease(no_wait())).expect("a lease");
    assert_eq!(
        lease["payload"],
        serde_json::to_value(payload("b")).expect("JSON")
    );
    // The request id is the same one in both.
    assert_eq!(
        proto.call(&enqueue("a")).expect("it is known")["duplicate"],
        true
    );
}
