"""Drives a node over gRPC with Google's own client, from the shipped .proto files alone.

usage: stock_client.py ADDRESS PROTO_DIR PID

Prints each check's name once it holds; exits with 1 at the first that does not. The last check
sends SIGTERM to PID.
"""

import concurrent.futures
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status
from grpc_tools import protoc

ADDRESS, PROTO_DIR, PID = sys.argv[1], sys.argv[2], int(sys.argv[3])
SERVICE = "omnirelay.resourcelease.v1.ResourceLease"


def compiled():
    """The messages and the stub, made from the shipped file."""
    out = tempfile.mkdtemp()
    name = "omnirelay/resourcelease/v1/resourcelease"
    well_known = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    code = protoc.main(
        ["protoc", f"-I{PROTO_DIR}", f"-I{well_known}", f"--python_out={out}"]
        + [f"--grpc_python_out={out}", f"{name}.proto"]
    )
    assert code == 0, "the shipped .proto compiles"
    sys.path.insert(0, out)
    module = name.replace("/", ".")
    return importlib.import_module(module + "_pb2"), importlib.import_module(module + "_pb2_grpc")


pb, pb_grpc = compiled()
channel = grpc.insecure_channel(ADDRESS)
stub = pb_grpc.ResourceLeaseStub(channel)


def enqueue(body=b"work", resource="orders", **fields):
    payload = pb.Payload(
        resource_type="table", resource_id=resource, payload_encoding="text", body=body
    )
    return pb.EnqueueRequest(payload=payload, **fields)


def refused(call, code):
    try:
        call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        return error
    raise AssertionError(f"it was not refused with {code}")


def trailers(error):
    return {key: value for key, value in error.trailing_metadata()}


def an_items_life():
    enqueued = stub.Enqueue(enqueue())
    assert enqueued.receipt.durability == "disk", enqueued
    lease = stub.Lease(pb.LeaseRequest(peer_id="worker", wait_ms=1000))
    assert lease.payload.body == b"work" and lease.owner_peer_id == "worker", lease
    assert lease.attempt == 1 and lease.sequence_id == enqueued.sequence_id
    token = lease.ownership_token
    assert stub.Heartbeat(pb.HeartbeatRequest(ownership_token=token)).success
    assert stub.Complete(pb.CompleteRequest(ownership_token=token)).success
    stats = stub.Stats(pb.StatsRequest(namespace="resourcelease")).stats
    assert (stats.pending_count, stats.active_lease_count) == (0, 0), stats
    return token


def errors_say_what_and_how(token):
    error = refused(
        lambda: stub.Complete(pb.CompleteRequest(ownership_token=token)), grpc.StatusCode.ABORTED
    )
    said = trailers(error)
    assert said["omnirelay-error-code"] == "resourcelease.lease.fenced", said
    assert said["omnirelay-status"] == "ABORTED", said
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "resourcelease.lease.fenced" and info.domain == "omnirelay", info
    assert info.metadata["reason"] == "completed", info
    unknown = pb.StatsRequest(namespace="no such \u00fc 100 %")
    error = refused(lambda: stub.Stats(unknown), grpc.StatusCode.NOT_FOUND)
    assert "no such \u00fc 100 %" in error.details(), error.details()
    error = refused(lambda: stub.Enqueue(pb.EnqueueRequest()), grpc.StatusCode.INVALID_ARGUMENT)
    assert trailers(error)["omnirelay-error-code"] == "resourcelease.payload.required"


def deadlines_hold():
    began = time.monotonic()
    refused(
        lambda: stub.Lease(pb.LeaseRequest(wait_ms=60_000), timeout=0.3),
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )
    assert time.monotonic() - began < 5


def a_cancelled_wait_takes_nothing():
    waiting = stub.Lease.future(pb.LeaseRequest(wait_ms=60_000), timeout=60)
    time.sleep(0.2)
    waiting.cancel()
    time.sleep(0.2)
    stub.Enqueue(enqueue())
    lease = stub.Lease(pb.LeaseRequest(wait_ms=5_000))
    assert lease.attempt == 1, lease
    stub.Complete(pb.CompleteRequest(ownership_token=lease.ownership_token))


def gzip_both_ways():
    body = b"a" * 200_000
    with grpc.insecure_channel(ADDRESS, compression=grpc.Compression.Gzip) as zipped:
        other = pb_grpc.ResourceLeaseStub(zipped)
        other.Enqueue(enqueue(body))
        lease, call = other.Lease.with_call(pb.LeaseRequest(wait_ms=5_000))
        assert lease.payload.body == body
        sent = dict(call.initial_metadata())
        assert sent.get("grpc-encoding", "gzip") == "gzip", sent
        other.Complete(pb.CompleteRequest(ownership_token=lease.ownership_token))
    with grpc.insecure_channel(ADDRESS, compression=grpc.Compression.Deflate) as deflated:
        other = pb_grpc.ResourceLeaseStub(deflated)
        refused(lambda: other.Enqueue(enqueue(body)), grpc.StatusCode.UNIMPLEMENTED)


def large_messages_are_refused_and_the_connection_lives():
    for body in (b"a" * (5 << 20), os.urandom(20 << 20)):
        error = refused(lambda: stub.Enqueue(enqueue(body)), grpc.StatusCode.INVALID_ARGUMENT)
        code = trailers(error)["omnirelay-error-code"]
        assert code == "resourcelease.payload.too_large", code
    with grpc.insecure_channel(ADDRESS, compression=grpc.Compression.Gzip) as zipped:
        bomb = enqueue(b"\0" * (64 << 20))
        other = pb_grpc.ResourceLeaseStub(zipped)
        refused(lambda: other.Enqueue(bomb), grpc.StatusCode.INVALID_ARGUMENT)
    stub.Stats(pb.StatsRequest())


def garbage_is_refused():
    raw = channel.unary_unary(f"/{SERVICE}/Enqueue")
    error = refused(lambda: raw(b"\xff\xff\xff"), grpc.StatusCode.INVALID_ARGUMENT)
    assert trailers(error)["omnirelay-error-code"] == "rpc.body.malformed"
    two = channel.stream_unary(f"/{SERVICE}/Stats")
    refused(lambda: two(iter([b"", b""])), grpc.StatusCode.INVALID_ARGUMENT)
    none = channel.stream_unary(f"/{SERVICE}/Stats")
    refused(lambda: none(iter([])), grpc.StatusCode.INVALID_ARGUMENT)
    for path in (f"/{SERVICE}/NoSuch", "/grpc.health.v1.Health/NoSuch"):
        refused(lambda: channel.unary_unary(path)(b""), grpc.StatusCode.UNIMPLEMENTED)


def yarpc_by_path():
    call = channel.unary_unary("/resourcelease/stats")
    metadata = [("rpc-caller", "tests"), ("rpc-service", "queue")]
    reply = pb.StatsResponse.FromString(call(b"", metadata=metadata))
    assert reply.stats.pending_count == 0, reply
    reply = json.loads(call(b"{}", metadata=metadata + [("rpc-encoding", "json")]))
    assert reply["stats"]["pendingCount"] == 0, reply
    error = refused(lambda: call(b""), grpc.StatusCode.INVALID_ARGUMENT)
    assert trailers(error)["omnirelay-error-code"] == "rpc.header.missing"
    other = channel.unary_unary("/nowhere/stats")
    refused(lambda: other(b"", metadata=metadata), grpc.StatusCode.NOT_FOUND)


def many_at_once():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        def cycle(n):
            stub.Enqueue(enqueue(str(n).encode(), resource=f"r{n}"))
            lease = stub.Lease(pb.LeaseRequest(wait_ms=20_000), timeout=30)
            stub.Complete(pb.CompleteRequest(ownership_token=lease.ownership_token))
            return lease.payload.body
        bodies = sorted(pool.map(cycle, range(400)))
    assert bodies == sorted(str(n).encode() for n in range(400))


def reflection_is_enough():
    database = ProtoReflectionDescriptorDatabase(channel)
    assert SERVICE in database.get_services()
    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName(SERVICE).FindMethodByName("Stats")
    request = message_factory.GetMessageClass(method.input_type)()
    response = message_factory.GetMessageClass(method.output_type)
    call = channel.unary_unary(
        f"/{SERVICE}/Stats",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    assert call(request).stats.pending_count == 0


def health_until_the_end():
    health = health_pb2_grpc.HealthStub(channel)
    for service in ("", SERVICE):
        status = health.Check(health_pb2.HealthCheckRequest(service=service)).status
        assert status == health_pb2.HealthCheckResponse.SERVING
    nothing = health_pb2.HealthCheckRequest(service="none.Such")
    refused(lambda: health.Check(nothing), grpc.StatusCode.NOT_FOUND)
    unknown = next(health.Watch(nothing))
    assert unknown.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    refused(
        lambda: list(health.Watch(health_pb2.HealthCheckRequest(), timeout=0.3)),
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )
    # A stream that nobody ends must not keep the node from ending.
    method = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    ended = threading.Event()
    idle = channel.stream_stream(method)(iter(ended.wait, True))
    watch = health.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    os.kill(PID, signal.SIGTERM)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    refused(lambda: next(watch), grpc.StatusCode.UNAVAILABLE)
    refused(lambda: next(idle), grpc.StatusCode.UNAVAILABLE)
    ended.set()


token = an_items_life()
print("an item's life", flush=True)
errors_say_what_and_how(token)
print("errors say what and how", flush=True)
for check in (
    deadlines_hold,
    a_cancelled_wait_takes_nothing,
    gzip_both_ways,
    large_messages_are_refused_and_the_connection_lives,
    garbage_is_refused,
    yarpc_by_path,
    many_at_once,
    reflection_is_enough,
    health_until_the_end,
):
    check()
    print(check.__name__.replace("_", " "), flush=True)
