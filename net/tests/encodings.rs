//! JSON and protobuf carry the same messages, and nothing on the wire can harm a reader.

use std::collections::BTreeMap;

use bytes::Bytes;
use omnirelay_net::messages::*;
use omnirelay_net::rpc::{
    self, Call, Encoding, Procedure, Reply, RequestHead, decode_call, decode_reply, encode_call,
    encode_reply, error_response, reply_response, validate_call, validate_enqueue,
    validate_settle_item,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

fn integer() -> impl Strategy<Value = u64> {
    prop_oneof![0..=9_u64, 0..=JSON_INTEGER_MAX, Just(JSON_INTEGER_MAX)]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9/._-]{0,12}",
        "\\PC{0,6}",
        Just("\u{0}\"\\\n\u{1F600}".to_owned())
    ]
}

fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
    btree_map(text(), text(), 0..4)
}

fn time() -> impl Strategy<Value = Option<Timestamp>> {
    let nanos = prop_oneof![Just(0), Just(5_000_000), Just(120_000), 0..1_000_000_000];
    let second = -62_135_596_800..=253_402_300_799_i64;
    option::of((second, nanos).prop_map(|(seconds, nanos)| Timestamp { seconds, nanos }))
}

prop_compose! {
    fn payload()(
        (resource_type, resource_id, payload_encoding) in (text(), text(), text()),
        (partition_key, request_id) in (option::of(text()), option::of(text())),
        body in vec(any::<u8>(), 0..64),
        attributes in pairs(),
    ) -> Payload {
        let body = Bytes::from(body);
        Payload {
            resource_type, resource_id, partition_key, payload_encoding, body, attributes,
            request_id,
        }
    }
}

prop_compose! {
    fn token()(sequence_id in integer(), attempt in any::<u32>(), lease_id in text())
        -> OwnershipToken {
        OwnershipToken { sequence_id, attempt, lease_id }
    }
}

prop_compose! {
    fn stats()(counts in [integer(), integer(), integer(), integer()]) -> Stats {
        let [pending_count, active_lease_count, delayed_count, dead_letter_count] = counts;
        Stats { pending_count, active_lease_count, delayed_count, dead_letter_count }
    }
}

prop_compose! {
    fn receipt()(shard in any::<u32>(), lsn in integer(), durability in text()) -> Receipt {
        Receipt { shard, lsn, durability }
    }
}

prop_compose! {
    fn error()(message in text(), status in text(), code in text(), metadata in pairs()) -> Error {
        Error { message, status, code, metadata }
    }
}

prop_compose! {
    fn enqueue()(
        payload in option::of(payload()),
        delay_ms in option::of(integer()),
        priority in option::of(any::<u32>()),
        max_attempts in option::of(any::<u32>()),
        ttl_ms in option::of(integer()),
        namespace in option::of(text()),
    ) -> EnqueueRequest {
        EnqueueRequest { payload, delay_ms, priority, max_attempts, ttl_ms, namespace }
    }
}

prop_compose! {
    fn enqueued()(
        sequence_id in integer(),
        duplicate in any::<bool>(),
        stats in option::of(stats()),
        receipt in option::of(receipt()),
    ) -> EnqueueResponse {
        EnqueueResponse { sequence_id, duplicate, stats, receipt }
    }
}

fn enqueue_result() -> impl Strategy<Value = EnqueueResult> {
    proptest::result::maybe_ok(enqueued(), error()).prop_map(EnqueueResult::from)
}

prop_compose! {
    fn leased()(
        payload in option::of(payload()),
        (sequence_id, attempt) in (integer(), any::<u32>()),
        (enqueued_at, lease_expires_at) in (time(), time()),
        last_error in option::of((text(), option::of(text()), pairs())),
        ownership_token in option::of(token()),
        owner_peer_id in text(),
        lease_for_ms in integer(),
    ) -> LeaseResponse {
        let last_error = last_error
            .map(|(message, code, metadata)| ErrorInfo { message, code, metadata });
        LeaseResponse {
            payload, sequence_id, attempt, enqueued_at, last_error, ownership_token,
            owner_peer_id, lease_expires_at, lease_for_ms,
        }
    }
}

prop_compose! {
    fn settle_item()(
        ownership_token in option::of(token()),
        action in prop_oneof![Just("complete".to_owned()), Just("fail".to_owned()), text()],
        (reason, error_code) in (option::of(text()), option::of(text())),
        requeue in option::of(any::<bool>()),
        (delay_ms, extend_ms) in (option::of(integer()), option::of(integer())),
        metadata in pairs(),
    ) -> SettleItem {
        SettleItem {
            ownership_token, action, reason, error_code, requeue, delay_ms, metadata, extend_ms,
        }
    }
}

prop_compose! {
    fn settle_result()(
        success in any::<bool>(),
        receipt in option::of(receipt()),
        lease_expires_at in time(),
        lease_for_ms in option::of(integer()),
        error in option::of(error()),
    ) -> SettleResult {
        SettleResult { success, receipt, lease_expires_at, lease_for_ms, error }
    }
}

fn call() -> impl Strategy<Value = Call> {
    let asked = || {
        (
            option::of(text()),
            option::of(integer()),
            option::of(integer()),
        )
    };
    let lease = || {
        (
            asked(),
            option::of(text()),
            any::<u32>(),
            option::of(text()),
        )
    };
    prop_oneof![
        enqueue().prop_map(Call::Enqueue),
        (vec(enqueue(), 0..4), option::of(text())).prop_map(|(items, namespace)| {
            Call::EnqueueBatch(EnqueueBatchRequest { items, namespace })
        }),
        lease().prop_map(
            |((peer_id, wait_ms, lease_ms), partition_key, _, namespace)| {
                Call::Lease(LeaseRequest {
                    peer_id,
                    wait_ms,
                    lease_ms,
                    partition_key,
                    namespace,
                })
            }
        ),
        lease().prop_map(
            |((peer_id, wait_ms, lease_ms), partition_key, max_items, namespace)| {
                Call::LeaseBatch(LeaseBatchRequest {
                    peer_id,
                    wait_ms,
                    lease_ms,
                    partition_key,
                    max_items,
                    namespace,
                })
            }
        ),
        (option::of(token()), option::of(integer())).prop_map(|(ownership_token, extend_ms)| {
            Call::Heartbeat(HeartbeatRequest {
                ownership_token,
                extend_ms,
                namespace: None,
            })
        }),
        option::of(token()).prop_map(|ownership_token| {
            Call::Complete(CompleteRequest {
                ownership_token,
                namespace: None,
            })
        }),
        settle_item().prop_map(|item| Call::Fail(FailRequest {
            ownership_token: item.ownership_token,
            reason: item.reason,
            error_code: item.error_code,
            requeue: item.requeue,
            delay_ms: item.delay_ms,
            metadata: item.metadata,
            namespace: None,
        })),
        vec(settle_item(), 0..4).prop_map(|items| {
            Call::Settle(SettleRequest {
                items,
                namespace: None,
            })
        }),
        option::of(text()).prop_map(|namespace| Call::Stats(StatsRequest { namespace })),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    let done = || (any::<bool>(), option::of(receipt()));
    prop_oneof![
        enqueued().prop_map(Reply::Enqueue),
        vec(enqueue_result(), 0..4)
            .prop_map(|results| Reply::EnqueueBatch(EnqueueBatchResponse { results })),
        leased().prop_map(Reply::Lease),
        vec(leased(), 0..4).prop_map(|leases| Reply::LeaseBatch(LeaseBatchResponse { leases })),
        (any::<bool>(), time(), integer()).prop_map(|(success, lease_expires_at, lease_for_ms)| {
            Reply::Heartbeat(HeartbeatResponse {
                success,
                lease_expires_at,
                lease_for_ms,
            })
        }),
        done().prop_map(|(success, receipt)| {
            Reply::Complete(CompleteResponse { success, receipt })
        }),
        done().prop_map(|(success, receipt)| Reply::Fail(FailResponse { success, receipt })),
        vec(settle_result(), 0..4).prop_map(|results| Reply::Settle(SettleResponse { results })),
        option::of(stats()).prop_map(|stats| Reply::Stats(StatsResponse { stats })),
    ]
}

fn procedure() -> impl Strategy<Value = Procedure> {
    proptest::sample::select(Procedure::ALL.to_vec())
}

proptest! {
    #[test]
    fn a_call_is_the_same_in_json_and_in_protobuf(call in call()) {
        for encoding in [Encoding::Json, Encoding::Proto] {
            let body = encode_call(encoding, &call).unwrap();
            let read = decode_call(call.procedure(), encoding, &body).unwrap();
            prop_assert_eq!(&read, &call);
        }
    }

    #[test]
    fn a_reply_is_the_same_in_json_and_in_protobuf(reply in reply()) {
        for encoding in [Encoding::Json, Encoding::Proto] {
            let body = encode_reply(encoding, &reply);
            let read = decode_reply(reply.procedure(), encoding, &body).unwrap();
            prop_assert_eq!(&read, &reply);
        }
    }

    #[test]
    fn bytes_of_any_kind_never_panic_a_reader(
        procedure in procedure(),
        bytes in vec(any::<u8>(), 0..200),
    ) {
        let body = Bytes::from(bytes);
        for encoding in [Encoding::Json, Encoding::Proto, Encoding::Raw] {
            let _ = decode_call(procedure, encoding, &body);
            let _ = decode_reply(procedure, encoding, &body);
        }
    }

    /// Damage of a valid body gets further into a reader than noise does.
    #[test]
    fn a_damaged_body_never_panics_a_reader(
        call in call(),
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        for encoding in [Encoding::Json, Encoding::Proto] {
            let mut bytes = encode_call(encoding, &call).unwrap().to_vec();
            if bytes.is_empty() {
                continue;
            }
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            let Ok(read) = decode_call(call.procedure(), encoding, &bytes.into()) else {
                continue;
            };
            let _ = validate_call(&read);
            match &read {
                Call::EnqueueBatch(batch) => {
                    batch.items.iter().for_each(|item| drop(validate_enqueue(item)));
                }
                Call::Settle(batch) => {
                    batch.items.iter().for_each(|item| drop(validate_settle_item(item)));
                }
                _ => {}
            }
        }
    }
}

fn json(reply: &Reply) -> String {
    String::from_utf8(encode_reply(Encoding::Json, reply).to_vec()).unwrap()
}

#[test]
fn a_lease_in_json_reads_as_documented() {
    let reply = Reply::Lease(LeaseResponse {
        payload: Some(Payload {
            resource_type: "table".into(),
            resource_id: "users/7".into(),
            payload_encoding: "text/plain".into(),
            body: Bytes::from_static(b"hi"),
            ..Payload::default()
        }),
        sequence_id: 17,
        attempt: 1,
        enqueued_at: Some(Timestamp {
            seconds: 1_800_000_000,
            nanos: 250_000_000,
        }),
        last_error: None,
        ownership_token: Some(OwnershipToken {
            sequence_id: 17,
            attempt: 1,
            lease_id: "0190a6f2-0000-8000-8000-000000000000".into(),
        }),
        owner_peer_id: "worker-1".into(),
        lease_expires_at: Some(Timestamp {
            seconds: 1_800_000_030,
            nanos: 0,
        }),
        lease_for_ms: 30_000,
    });
    let expected = concat!(
        r#"{"payload":{"resourceType":"table","resourceId":"users/7","#,
        r#""payloadEncoding":"text/plain","body":"aGk="},"#,
        r#""sequenceId":17,"attempt":1,"enqueuedAt":"2027-01-15T08:00:00.250Z","#,
        r#""ownershipToken":{"sequenceId":17,"attempt":1,"#,
        r#""leaseId":"0190a6f2-0000-8000-8000-000000000000"},"#,
        r#""ownerPeerId":"worker-1","leaseExpiresAt":"2027-01-15T08:00:30Z","leaseForMs":30000}"#,
    );
    assert_eq!(json(&reply), expected);
}

#[test]
fn a_refused_entry_of_a_batch_shows_its_error_alone() {
    let error = Error {
        message: "payload.resourceId is blank".into(),
        status: "INVALID_ARGUMENT".into(),
        code: "resourcelease.payload.resource_id_required".into(),
        metadata: BTreeMap::new(),
    };
    let good = EnqueueResponse {
        sequence_id: 5,
        ..EnqueueResponse::default()
    };
    let results = vec![
        EnqueueResult::from(Ok(good)),
        EnqueueResult::from(Err(error)),
    ];
    let expected = concat!(
        r#"{"results":[{"sequenceId":5,"duplicate":false},"#,
        r#"{"error":{"message":"payload.resourceId is blank","status":"INVALID_ARGUMENT","#,
        r#""code":"resourcelease.payload.resource_id_required"}}]}"#,
    );
    assert_eq!(
        json(&Reply::EnqueueBatch(EnqueueBatchResponse { results })),
        expected
    );
}

#[test]
fn times_are_read_with_any_offset_and_refused_without_one() {
    let read = |time: &str| {
        let body = format!(r#"{{"success":true,"leaseExpiresAt":"{time}"}}"#);
        match decode_reply(Procedure::Heartbeat, Encoding::Json, &body.into()) {
            Ok(Reply::Heartbeat(reply)) => Ok(reply.lease_expires_at.unwrap()),
            Ok(_) => unreachable!("a heartbeat decodes as one"),
            Err(error) => Err(error.message),
        }
    };
    let noon = Timestamp {
        seconds: 1_769_860_800,
        nanos: 0,
    };
    assert_eq!(read("2026-01-31T12:00:00Z"), Ok(noon));
    assert_eq!(read("2026-01-31T14:00:00+02:00"), Ok(noon));
    for time in [
        "2026-01-31",
        "2026-01-31T12:00:00",
        "2026-01-31T12:00:00.123456",
        "noon",
        "",
    ] {
        let message = read(time).unwrap_err();
        assert!(
            message.contains("leaseExpiresAt: `") && message.contains("is not an RFC 3339 time"),
            "{message}"
        );
    }
}

#[test]
fn times_beyond_any_calendar_are_written_without_harm() {
    for seconds in [i64::MIN, -62_135_596_801, 253_402_300_800, i64::MAX] {
        for nanos in [i32::MIN, -1, 0, i32::MAX] {
            let reply = Reply::Heartbeat(HeartbeatResponse {
                success: true,
                lease_expires_at: Some(Timestamp { seconds, nanos }),
                lease_for_ms: 0,
            });
            assert!(json(&reply).contains("leaseExpiresAt"));
        }
    }
}

/// The answer to a call of `stats`, as a transcript of the whole dialogue.
#[test]
fn a_dialogue_over_http() {
    let mut request = http::Request::post(rpc::PATH)
        .header("rpc-caller", "reports")
        .header("rpc-service", "größe")
        .header("rpc-procedure", "resourcelease::stats")
        .header("rpc-encoding", "json")
        .body(Bytes::from_static(b"{}"))
        .unwrap();
    let answer = |request: &http::Request<Bytes>| {
        let head = RequestHead::parse(request.headers()).unwrap();
        let reply = Procedure::parse(&head.procedure).and_then(|(_, procedure)| {
            decode_call(procedure, head.encoding, request.body())?;
            let stats = Some(Stats::default());
            Ok(Reply::Stats(StatsResponse { stats }))
        });
        let response = match reply {
            Ok(reply) => reply_response(&head.service, Some(3), head.encoding, &reply),
            Err(error) => error_response(Some(&head.service), None, &error),
        };
        let mut lines = vec![response.status().to_string()];
        for (name, value) in response.headers() {
            lines.push(format!(
                "{name}: {}",
                String::from_utf8_lossy(value.as_bytes())
            ));
        }
        lines[1..].sort();
        lines.push(String::from_utf8(response.body().to_vec()).unwrap());
        lines
    };
    let counts = r#""pendingCount":0,"activeLeaseCount":0,"delayedCount":0,"deadLetterCount":0"#;
    let expected = [
        "200 OK",
        "content-type: application/json",
        "rpc-service: größe",
        "rpc-shard-key: 3",
        "rpc-status: success",
        &format!(r#"{{"stats":{{{counts}}}}}"#),
    ];
    assert_eq!(answer(&request), expected);

    *request.body_mut() = Bytes::from_static(b"{");
    let message = "malformed JSON: EOF while parsing an object at line 1 column 1";
    let expected = [
        "400 Bad Request",
        "content-type: application/json",
        "rpc-error-code: invalid-argument",
        &format!("rpc-error-message: {message}"),
        "rpc-service: größe",
        "rpc-status: error",
        &format!(
            r#"{{"message":"{message}","status":"INVALID_ARGUMENT","code":"rpc.body.malformed","metadata":{{}}}}"#
        ),
    ];
    assert_eq!(answer(&request), expected);
}
