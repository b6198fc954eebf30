"""Follows a node's replication stream with Google's own client, from the shipped .proto files alone.

usage: subscriber.py ADDRESS ADMIN_ADDRESS PROTO_DIR PID

The node has one shard and keeps as little history as it can. Prints each check's name once it
holds; exits with 1 at the first that does not. The last check sends SIGTERM to PID.
"""

import importlib
import json
import os
import signal
import sys
import tempfile
import time
import urllib.error
import urllib.request

import grpc
from google.protobuf import json_format
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from grpc_tools import protoc

ADDRESS, ADMIN, PROTO_DIR, PID = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
SERVICE = "omnirelay.replication.v1.Replication"
READERS_MAX = 32
BOUND_S = 30


def compiled():
    """The messages and the stubs, made from the shipped files."""
    out = tempfile.mkdtemp()
    names = ("omnirelay/resourcelease/v1/resourcelease", "omnirelay/replication/v1/replication")
    well_known = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    code = protoc.main(
        ["protoc", f"-I{PROTO_DIR}", f"-I{well_known}", f"--python_out={out}"]
        + [f"--grpc_python_out={out}"]
        + [f"{name}.proto" for name in names]
    )
    assert code == 0, "the shipped .proto files compile"
    sys.path.insert(0, out)
    modules = [name.replace("/", ".") + suffix for name in names for suffix in ("_pb2", "_pb2_grpc")]
    return [importlib.import_module(module) for module in modules]


queue_pb, queue_grpc, pb, pb_grpc = compiled()
channel = grpc.insecure_channel(ADDRESS)
queue = queue_grpc.ResourceLeaseStub(channel)
stub = pb_grpc.ReplicationStub(channel)


def enqueue(body=b"work", resource="orders", **fields):
    payload = queue_pb.Payload(
        resource_type="table", resource_id=resource, payload_encoding="text", body=body,
        attributes={"a": "b"},
    )
    return queue.Enqueue(queue_pb.EnqueueRequest(payload=payload, **fields))


def lease():
    return queue.Lease(queue_pb.LeaseRequest(peer_id="worker", wait_ms=5_000))


def subscribe(start=None, stub=stub, **fields):
    if start is not None:
        fields["from"] = start  # a word of Python's own
    return stub.Subscribe(pb.SubscribeRequest(**{"shard": 0, **fields}), timeout=2 * BOUND_S)


def take(stream, many):
    return [next(stream) for _ in range(many)]


def page(query):
    """Status and answer of the HTTP form."""
    url = f"http://{ADMIN}/omnirelay/control/replication?shard=0&{query}"
    try:
        with urllib.request.urlopen(url, timeout=BOUND_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def last_number():
    return page("limit=10000")[1]["next"] - 1


def metric(name):
    with urllib.request.urlopen(f"http://{ADMIN}/metrics", timeout=BOUND_S) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + " ") or line.startswith(name + "{"):
                return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no metric {name}")


def readers():
    return metric("omnirelay_resourcelease_replication_readers")


def wait_for(what, holds):
    end = time.monotonic() + BOUND_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def refused(stream, status, code):
    try:
        for _ in stream:
            pass
    except grpc.RpcError as error:
        assert error.code() == status, f"{error.code()}: {error.details()}"
        said = dict(error.trailing_metadata())
        assert said["omnirelay-error-code"] == code, said
        info = error_details_pb2.ErrorInfo()
        assert rpc_status.from_call(error).details[0].Unpack(info)
        assert info.reason == code, info
        return info.metadata
    raise AssertionError(f"it was not refused with {code}")


def events_are_those_of_the_http_form():
    """Of every kind that a client can cause."""
    stream = subscribe()
    enqueue(priority=3, max_attempts=9, ttl_ms=3_600_000)
    got = lease()
    token = got.ownership_token
    queue.Heartbeat(queue_pb.HeartbeatRequest(ownership_token=token, extend_ms=600_000))
    queue.Fail(
        queue_pb.FailRequest(
            ownership_token=token, reason="because", error_code="e", metadata={"k": "v"}
        )
    )
    queue.Complete(queue_pb.CompleteRequest(ownership_token=lease().ownership_token))
    second = enqueue(resource="users")
    token = lease().ownership_token
    queue.Fail(queue_pb.FailRequest(ownership_token=token, requeue=False))
    queue.Redrive(queue_pb.RedriveRequest(sequence_ids=[second.sequence_id]))
    drained = queue.Drain(queue_pb.DrainRequest())
    assert len(drained.items) == 1, drained
    enqueue(resource="other")
    queue.Restore(queue_pb.RestoreRequest(items=drained.items))
    for item in queue.Peek(queue_pb.PeekRequest()).items:
        queue.Cancel(queue_pb.CancelRequest(sequence_ids=[item.sequence_id]))
    status, told = page("limit=10000")
    assert status == 200, told
    expected = [json_format.ParseDict(event, pb.Event()) for event in told["events"]]
    events = take(stream, len(expected))
    stream.cancel()
    for event, other in zip(events, expected):
        assert event == other, f"over gRPC:\n{event}\nover HTTP:\n{other}"
    assert [event.sequence_number for event in events] == list(range(1, len(events) + 1))
    kinds = {event.event_type for event in events}
    wanted = {
        "EpochStarted", "Enqueue", "LeaseGranted", "Heartbeat", "Failed", "Completed", "Redriven",
        "DrainSnapshot", "RestoreSnapshot", "Cancelled",
    }
    assert kinds == wanted, kinds ^ wanted
    assert any(event.item.payload.body == b"work" for event in events)
    assert not any(event.HasField("principal") and not event.principal for event in events)


def whoever_comes_back_misses_nothing_and_gets_nothing_twice():
    first = last_number() + 1
    many, seen = 300, []
    start = first
    stream = subscribe(start)
    for n in range(many):
        enqueue(resource=f"r{n}")
        if n % 50 == 49:
            seen += take(stream, 10)
            stream.cancel()
            start = seen[-1].sequence_number + 1
            stream = subscribe(start)
    seen += take(stream, many - len(seen))
    stream.cancel()
    assert [event.sequence_number for event in seen] == list(range(first, first + many))
    assert [event.payload.resource_id for event in seen] == [f"r{n}" for n in range(many)]
    queue.Drain(queue_pb.DrainRequest(max_items=1_000))


def gzip_is_understood():
    start = last_number() + 1
    enqueue(body=b"a" * 100_000)
    with grpc.insecure_channel(ADDRESS, compression=grpc.Compression.Gzip) as zipped:
        stream = subscribe(start, stub=pb_grpc.ReplicationStub(zipped))
        assert next(stream).payload.body == b"a" * 100_000
        sent = dict(stream.initial_metadata())
        assert sent.get("grpc-encoding", "gzip") == "gzip", sent
        stream.cancel()
    queue.Complete(queue_pb.CompleteRequest(ownership_token=lease().ownership_token))


def what_cannot_be_is_refused():
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    refused(subscribe(shard=None), invalid, "replication.request")
    unknown = grpc.StatusCode.NOT_FOUND
    refused(subscribe(shard=99), unknown, "replication.shard_unknown")
    publish = channel.stream_unary(f"/{SERVICE}/Publish")
    try:
        publish(iter([]))
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
    else:
        raise AssertionError("there is no Publish")


def places_are_few_shared_and_free_again_at_once():
    wait_for("all earlier places are free", lambda: readers() == 0)
    start = last_number() + 1
    url = f"http://{ADMIN}/omnirelay/control/replication/stream?shard=0&from={start}"
    over_http = urllib.request.urlopen(url, timeout=BOUND_S)
    streams = [subscribe(start) for _ in range(READERS_MAX - 1)]
    wait_for("all places are taken", lambda: readers() == READERS_MAX)
    refused(subscribe(start), grpc.StatusCode.UNAVAILABLE, "replication.busy")
    began = time.monotonic()
    streams.pop().cancel()
    wait_for("its place is free", lambda: readers() == READERS_MAX - 1)
    assert time.monotonic() - began < 5
    streams.append(subscribe(start))
    wait_for("it is taken again", lambda: readers() == READERS_MAX)
    enqueue(resource="for all")
    for stream in streams:
        event = next(stream)
        assert (event.sequence_number, event.payload.resource_id) == (start, "for all")
        stream.cancel()
    over_http.close()
    wait_for("all places are free", lambda: readers() == 0)
    queue.Complete(queue_pb.CompleteRequest(ownership_token=lease().ownership_token))


def what_is_given_up_is_out_of_range():
    end = time.monotonic() + 2 * BOUND_S
    status, told = page("from=1")
    while status == 200:
        assert time.monotonic() < end, "the log never gives up its beginning"
        for n in range(10):
            enqueue(body=b"abc" * 200_000, resource=f"large-{n}", priority=200)
            queue.Complete(queue_pb.CompleteRequest(ownership_token=lease().ownership_token))
        status, told = page("from=1&limit=1")
    kept = enqueue(resource="kept")
    metadata = refused(subscribe(1), grpc.StatusCode.OUT_OF_RANGE, "replication.out_of_range")
    oldest = int(metadata["oldestLsn"])
    assert oldest >= told["oldestLsn"] > 1, (oldest, told)
    stream = subscribe(oldest)
    assert next(stream).sequence_number == oldest
    stream.cancel()
    stream = subscribe(1, snapshot=True)
    items = [next(stream)]
    while len(items) < int(items[0].metadata["snapshot.of"]):
        items.append(next(stream))
    assert [event.event_type for event in items] == ["Snapshot"] * len(items), items
    assert items[-1].item.sequence_id == kept.sequence_id, items
    enqueue(resource="behind it")
    event = next(stream)
    assert event.sequence_number == items[-1].sequence_number + 1, event
    assert event.payload.resource_id == "behind it", event
    stream.cancel()


def reflection_and_health_know_the_service():
    assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()
    health = health_pb2_grpc.HealthStub(channel)
    status = health.Check(health_pb2.HealthCheckRequest(service=SERVICE)).status
    assert status == health_pb2.HealthCheckResponse.SERVING


def the_end_of_the_node_is_told():
    start = last_number() + 1
    stream = subscribe(start)
    enqueue(resource="last")
    assert next(stream).payload.resource_id == "last"
    os.kill(PID, signal.SIGTERM)
    refused(stream, grpc.StatusCode.UNAVAILABLE, "replication.not_serving")


for check in (
    events_are_those_of_the_http_form,
    whoever_comes_back_misses_nothing_and_gets_nothing_twice,
    gzip_is_understood,
    what_cannot_be_is_refused,
    places_are_few_shared_and_free_again_at_once,
    what_is_given_up_is_out_of_range,
    reflection_and_health_know_the_service,
    the_end_of_the_node_is_told,
):
    check()
    print(check.__name__.replace("_", " "), flush=True)
