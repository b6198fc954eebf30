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

prop_compose! {
    fn error_info()(message in text(), code in option::of(text()), metadata in pairs())
        -> ErrorInfo {
        ErrorInfo { message, code, metadata }
    }
}

prop_compose! {
    fn pending_item()(
        payload in option::of(payload()),
        (attempt, sequence_id) in (any::<u32>(), integer()),
        (enqueued_at, ready_at, expires_at, since) in (time(), time(), time(), time()),
        (last_error, last_ownership_token) in (option::of(error_info()), option::of(token())),
        (dead_letter, origin) in (any::<bool>(), text()),
        (priority, max_attempts) in (option::of(any::<u32>()), option::of(any::<u32>())),
        state in option::of(text()),
    ) -> PendingItem {
        PendingItem {
            payload, attempt, enqueued_at, last_error, sequence_id, last_ownership_token,
            dead_letter, origin, priority, max_attempts, ready_at, expires_at, state, since,
        }
    }
}

prop_compose! {
    fn change_result()(
        success in any::<bool>(),
        receipt in option::of(receipt()),
        error in option::of(error()),
    ) -> ChangeResult {
        ChangeResult { success, receipt, error }
    }
}

prop_compose! {
    fn explained()(
        (sequence_id, state) in (integer(), text()),
        (since, enqueued_at, lease_expires_at, expires_at) in (time(), time(), time(), time()),
        reasons in vec((text(), text(), pairs()), 0..3),
        (attempt, max_attempts) in (any::<u32>(), any::<u32>()),
        last_error in option::of(error_info()),
        (shard, priority) in (option::of(any::<u32>()), option::of(any::<u32>())),
        texts in [option::of(text()), option::of(text()), option::of(text()), option::of(text())],
    ) -> ExplainResponse {
        let reasons = reasons
            .into_iter()
            .map(|(code, message, metadata)| Reason { code, message, metadata })
            .collect();
        let [owner_peer_id, resource_type, resource_id, partition_key] = texts;
        ExplainResponse {
            sequence_id, state, since, reasons, attempt, max_attempts, enqueued_at, last_error,
            owner_peer_id, lease_expires_at, shard, priority, resource_type, resource_id,
            partition_key, expires_at,
        }
    }
}

/// The calls about items outside a lease.
fn item_call() -> BoxedStrategy<Call> {
    let page = || {
        (
            option::of(any::<u32>()),
            option::of(text()),
            option::of(text()),
        )
    };
    let ids = || (vec(integer(), 0..4), option::of(text()));
    prop_oneof![
        page().prop_map(|(max_items, cursor, namespace)| Call::Peek(PeekRequest {
            max_items,
            cursor,
            namespace
        })),
        page().prop_map(
            |(max_items, cursor, namespace)| Call::DeadLetters(DeadLettersRequest {
                max_items,
                cursor,
                namespace
            })
        ),
        ids().prop_map(|(sequence_ids, namespace)| Call::Redrive(RedriveRequest {
            sequence_ids,
            namespace
        })),
        ids().prop_map(|(sequence_ids, namespace)| Call::Cancel(CancelRequest {
            sequence_ids,
            namespace
        })),
        (integer(), option::of(text())).prop_map(|(sequence_id, namespace)| {
            Call::Explain(ExplainRequest {
                sequence_id,
                namespace,
            })
        }),
        (page(), option::of(any::<u32>())).prop_map(
            |((max_items, request_id, namespace), shard)| {
                Call::Drain(DrainRequest {
                    max_items,
                    shard,
                    request_id,
                    namespace,
                })
            }
        ),
        (vec(pending_item().boxed(), 0..3), option::of(text()))
            .prop_map(|(items, namespace)| Call::Restore(RestoreRequest { items, namespace })),
    ]
    .boxed()
}

/// The replies about items outside a lease.
fn item_reply() -> BoxedStrategy<Reply> {
    let page = || (vec(pending_item().boxed(), 0..3), option::of(text()));
    let results = || vec(change_result(), 0..4);
    prop_oneof![
        page().prop_map(|(items, cursor)| Reply::Peek(PeekResponse { items, cursor })),
        page()
            .prop_map(|(items, cursor)| Reply::DeadLetters(DeadLettersResponse { items, cursor })),
        results().prop_map(|results| Reply::Redrive(RedriveResponse { results })),
        results().prop_map(|results| Reply::Cancel(CancelResponse { results })),
        explained().boxed().prop_map(Reply::Explain),
        (vec(pending_item().boxed(), 0..3), any::<bool>())
            .prop_map(|(items, more)| Reply::Drain(DrainResponse { items, more })),
        (any::<u32>(), any::<u32>()).prop_map(|(restored_count, duplicate_count)| {
            Reply::Restore(RestoreResponse {
                restored_count,
                duplicate_count,
            })
        }),
    ]
    .boxed()
}

fn call() -> BoxedStrategy<Call> {
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
        item_call(),
    ]
    .boxed()
}

fn reply() -> BoxedStrategy<Reply> {
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
        item_reply(),
    ]
    .boxed()
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
                    batch.items.iter().for_each(|item| drop(validate_enqueue(&item.view())));
                }
                Call::Settle(batch) => {
                    batch.items.iter().for_each(|item| drop(validate_settle_item(&item.view())));
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

fn restorable() -> PendingItem {
    PendingItem {
        payload: Some(Payload {
            resource_type: "table".into(),
            resource_id: "users/7".into(),
            payload_encoding: "text/plain".into(),
            body: Bytes::from_static(b"hi"),
            ..Payload::default()
        }),
        attempt: 2,
        enqueued_at: Some(Timestamp {
            seconds: 1_800_000_000,
            nanos: 0,
        }),
        last_error: Some(ErrorInfo {
            message: "disk full".into(),
            ..ErrorInfo::default()
        }),
        sequence_id: 17,
        origin: "000102030405060708090a0b0c0d0e0f".into(),
        priority: Some(9),
        ..PendingItem::default()
    }
}

#[test]
fn a_drained_item_in_json_reads_as_documented() {
    let reply = Reply::Drain(DrainResponse {
        items: vec![restorable()],
        more: true,
    });
    let expected = concat!(
        r#"{"items":[{"payload":{"resourceType":"table","resourceId":"users/7","#,
        r#""payloadEncoding":"text/plain","body":"aGk="},"attempt":2,"#,
        r#""enqueuedAt":"2027-01-15T08:00:00Z","lastError":{"message":"disk full"},"#,
        r#""sequenceId":17,"deadLetter":false,"origin":"000102030405060708090a0b0c0d0e0f","#,
        r#""priority":9}],"more":true}"#,
    );
    assert_eq!(json(&reply), expected);
}

/// Breaks one item of a restore.
type Breakage = fn(&mut PendingItem);

#[test]
fn a_restore_that_is_wrong_is_refused_by_item_and_field_alike_in_both_encodings() {
    let broken: [(Breakage, &str); 17] = [
        (|item| item.payload = None, "items[1].payload is missing"),
        (
            |item| item.payload.as_mut().unwrap().resource_id.clear(),
            "items[1].payload.resourceId is blank",
        ),
        (
            |item| item.payload.as_mut().unwrap().partition_key = Some("k".repeat(513)),
            "items[1].payload.partitionKey has 513 bytes; at most 512 are allowed",
        ),
        (
            |item| item.sequence_id = 0,
            "items[1].sequenceId is 0; it takes 1 to 9007199254740991",
        ),
        (
            |item| item.origin.clear(),
            "items[1].origin: `` is not 32 hex digits",
        ),
        (
            |item| item.origin.push('0'),
            "items[1].origin: `000102030405060708090a0b0c0d0e0f0` is not 32 hex digits",
        ),
        (
            |item| item.origin = "+00102030405060708090a0b0c0d0e0f".into(),
            "items[1].origin: `+00102030405060708090a0b0c0d0e0f` is not 32 hex digits",
        ),
        (
            |item| item.attempt = 65_536,
            "items[1].attempt is 65536; it takes 0 to 65535",
        ),
        (
            |item| item.max_attempts = Some(0),
            "items[1].maxAttempts is 0; it takes 1 to 65535",
        ),
        (
            |item| item.priority = Some(256),
            "items[1].priority is 256; it takes 0 to 255",
        ),
        (
            |item| item.enqueued_at = None,
            "items[1].enqueuedAt is missing",
        ),
        (
            |item| item.enqueued_at.as_mut().unwrap().seconds = -1,
            "items[1].enqueuedAt is not a time from 1970 to 2262",
        ),
        (
            |item| {
                item.expires_at = Some(Timestamp {
                    seconds: 253_402_300_799,
                    nanos: 0,
                });
            },
            "items[1].expiresAt is not a time from 1970 to 2262",
        ),
        (
            |item| item.expires_at = item.enqueued_at,
            "items[1].expiresAt is 0 ms after enqueuedAt; it takes 1 to 4294967295 (49 days)",
        ),
        (
            |item| item.last_error.as_mut().unwrap().message = "m".repeat(4_097),
            "items[1].lastError.message has 4097 bytes; at most 4096 are allowed",
        ),
        (
            |item| item.last_error.as_mut().unwrap().code = Some("c".repeat(513)),
            "items[1].lastError.code has 513 bytes; at most 512 are allowed",
        ),
        (
            |item| {
                item.last_ownership_token = Some(OwnershipToken {
                    lease_id: "l".repeat(513),
                    ..OwnershipToken::default()
                });
            },
            "items[1].lastOwnershipToken.leaseId has 513 bytes; at most 512 are allowed",
        ),
    ];
    let sent = |items: Vec<PendingItem>, encoding| {
        let call = Call::Restore(RestoreRequest {
            items,
            namespace: None,
        });
        let body = encode_call(encoding, &call).unwrap();
        validate_call(&decode_call(Procedure::Restore, encoding, &body).unwrap())
    };
    for encoding in [Encoding::Json, Encoding::Proto] {
        assert_eq!(sent(vec![restorable(), restorable()], encoding), Ok(()));
        for (breakage, message) in &broken {
            let mut item = restorable();
            breakage(&mut item);
            let error = sent(vec![restorable(), item], encoding).unwrap_err();
            assert_eq!(error.message, *message);
        }
        let error = sent(Vec::new(), encoding).unwrap_err();
        assert!(error.is(rpc::codes::PENDING_ITEM_REQUIRED), "{error}");
    }
}

#[test]
fn a_list_of_ids_is_bounded_alike_in_both_encodings() {
    for (ids, allowed) in [(0, false), (1, true), (1_000, true), (1_001, false)] {
        let call = Call::Cancel(CancelRequest {
            sequence_ids: (0..ids).collect(),
            namespace: None,
        });
        let heard = [Encoding::Json, Encoding::Proto].map(|encoding| {
            let body = encode_call(encoding, &call).unwrap();
            let read = decode_call(Procedure::Cancel, encoding, &body);
            read.and_then(|read| validate_call(&read))
        });
        assert_eq!(heard[0], heard[1]);
        assert_eq!(heard[0].is_ok(), allowed, "{ids}");
    }
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
