"""Drives a node over QUIC with aioquic, from docs/protocol.md and the operations' .proto alone.

usage: stock_client.py ADDRESS CA_FILE WRONG_CA_FILE PROTO_DIR PROTOCOL_MD

Frames are built and read here by hand, as the document says; the hex of its example is sent and
compared as it stands there. Prints each check's name once it holds; exits with 1 at the first that
does not.
"""

import asyncio
import importlib
import json
import os
import re
import ssl
import sys
import tempfile

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from grpc_tools import protoc

ADDRESS, CA_FILE, WRONG_CA_FILE, PROTO_DIR, PROTOCOL_MD = sys.argv[1:]
HOST, PORT = ADDRESS.rsplit(":", 1)
BOUND_S = 30
MALFORMED = "rpc.frame.malformed"
INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 3, 4, 5
FAILED_PRECONDITION, ABORTED, UNIMPLEMENTED = 9, 10, 12
HELLO, WELCOME, CALL, REPLY, CANCEL, FAREWELL = 1, 2, 3, 4, 5, 6


def compiled():
    """The operations' messages, made from the shipped file."""
    out = tempfile.mkdtemp()
    name = "omnirelay/resourcelease/v1/resourcelease"
    well_known = os.path.join(os.path.dirname(protoc.__file__), "_proto")
    arguments = ["protoc", f"-I{PROTO_DIR}", f"-I{well_known}", f"--python_out={out}"]
    assert protoc.main(arguments + [f"{name}.proto"]) == 0, "the shipped .proto compiles"
    sys.path.insert(0, out)
    return importlib.import_module(name.replace("/", ".") + "_pb2")


pb = compiled()


# Protobuf by hand: varints, and fields that are varints or runs of bytes.


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data, at):
    """The value and where the next byte is; None where it is not all there."""
    value = 0
    for index in range(10):
        if at + index >= len(data):
            return None
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, at + index + 1
    raise AssertionError("a varint of more than 10 bytes")


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value


def message(fields):
    return b"".join(field(number, value) for number, value in fields)


def fields_of(data):
    """Each field's number and its last value."""
    fields, at = {}, 0
    while at < len(data):
        tag, at = read_varint(data, at)
        value, at = read_varint(data, at)
        assert tag & 7 in (0, 2), f"wire type {tag & 7}"
        if tag & 7 == 2:
            assert at + value <= len(data), "a field ends beyond its message"
            value, at = data[at : at + value], at + value
        fields[tag >> 3] = value
    return fields


def framed(body):
    return varint(len(body)) + body


def frame(kind, fields):
    return framed(field(kind, message(fields)))


def hello(version_min=1, version_max=1, features=0, caller="tests", service="queue"):
    fields = [(1, version_min), (2, version_max)]
    fields += [(3, features)] if features else []
    fields += [(4, caller)] if caller else []
    fields += [(5, service)] if service else []
    return frame(HELLO, fields)


def call(number, operation, body=b"", ttl_ms=20_000, encoding=0, more=()):
    """A call of the default namespace, or of a procedure where it names one."""
    procedure = operation if "::" in operation else f"resourcelease::{operation}"
    if not isinstance(body, bytes):
        body = body.SerializeToString()
    fields = [(1, number), (2, procedure), (3, body), (4, ttl_ms)]
    fields += [(5, encoding)] if encoding else []
    return frame(CALL, fields + list(more))


def cancel(number):
    return frame(CANCEL, [(1, number)])


class Refusal(Exception):
    """An error as it came: of a reply, or of a farewell."""

    def __init__(self, data):
        said = fields_of(data)
        self.status, self.code = said[1], said[2].decode()
        self.message = said.get(3, b"").decode()
        entry = fields_of(said[4]) if 4 in said else {}
        self.metadata = {entry[1].decode(): entry[2].decode()} if entry else {}
        super().__init__(f"{self.status} {self.code}: {self.message}")


class Stream:
    """One stream: what came on it, in frames."""

    def __init__(self, client):
        self.client = client
        self.number = None
        self.buffer = bytearray()
        self.frames = asyncio.Queue()
        self.raw = bytearray()
        self.ended = asyncio.get_running_loop().create_future()
        self.stopped_with = None
        self.calls = 0

    def send(self, data, end=False):
        quic = self.client._quic
        if self.number is None:
            self.number = quic.get_next_available_stream_id()
            self.client.streams[self.number] = self
        quic.send_stream_data(self.number, data, end_stream=end)
        self.client.transmit()
        return self

    def reset(self, code):
        self.client._quic.reset_stream(self.number, code)
        self.client.transmit()

    def stop(self, code):
        self.client._quic.stop_stream(self.number, code)
        self.client.transmit()

    def take(self, data):
        self.raw += data
        self.buffer += data
        while (start := read_varint(self.buffer, 0)) is not None:
            length, at = start
            if len(self.buffer) < at + length:
                return
            body = bytes(self.buffer[at : at + length])
            del self.buffer[: at + length]
            kinds = fields_of(body)
            assert len(kinds) == 1, f"exactly one field is set: {kinds}"
            ((kind, said),) = kinds.items()
            self.frames.put_nowait((kind, fields_of(said)))

    async def next(self, kind=None):
        """The fields of the next frame, which is of this kind."""
        came, fields = await within(self.frames.get())
        assert kind is None or came == kind, f"frame {came}: {fields}"
        return fields if kind else (came, fields)

    async def reply(self, number=None):
        """The next reply: its id and body."""
        fields = await self.next(REPLY)
        assert number in (None, fields[1]), fields
        assert (2 in fields) != (3 in fields), "a body or an error"
        if 3 in fields:
            raise Refusal(fields[3])
        return fields[1], fields[2]

    async def ask(self, operation, request, response):
        """A call and its reply, alone on the stream."""
        self.calls += 1
        self.send(call(self.calls, operation, request))
        return response.FromString((await self.reply(self.calls))[1])

    async def farewell(self):
        """The last frame, and that the stream is at its end."""
        fields = await self.next(FAREWELL)
        assert await within(self.ended) == 0, "a farewell is followed by the stream's end"
        assert self.frames.empty(), "a farewell is the last frame"
        return Refusal(fields[1])


class Client(QuicConnectionProtocol):
    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.streams = {}
        self.terminated = None

    def quic_event_received(self, event):
        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, events.StreamDataReceived):
            stream.take(event.data)
            if event.end_stream and not stream.ended.done():
                stream.ended.set_result(0)
        elif isinstance(event, events.StreamReset):
            if not stream.ended.done():
                stream.ended.set_result(event.error_code)
        elif isinstance(event, events.StopSendingReceived):
            stream.stopped_with = event.error_code
        elif isinstance(event, events.ConnectionTerminated):
            self.terminated = event

    def bare(self):
        return Stream(self)

    async def stream(self, **greeting):
        """A stream with the hellos exchanged."""
        stream = Stream(self).send(hello(**greeting))
        await stream.next(WELCOME)
        return stream


def connection(ca_file=CA_FILE, alpn="omnirelay/1", protocol=Client):
    configuration = QuicConfiguration(alpn_protocols=[alpn], is_client=True)
    configuration.verify_mode = ssl.CERT_REQUIRED
    configuration.load_verify_locations(ca_file)
    return connect(HOST, int(PORT), configuration=configuration, create_protocol=protocol)


async def within(awaitable):
    return await asyncio.wait_for(awaitable, BOUND_S)


def enqueue(body=b"work", resource="orders", **fields):
    payload = pb.Payload(
        resource_type="table", resource_id=resource, payload_encoding="text", body=body
    )
    return pb.EnqueueRequest(payload=payload, **fields)


async def stats(stream):
    return (await stream.ask("stats", pb.StatsRequest(), pb.StatsResponse)).stats


async def take_and_complete(stream):
    lease = await stream.ask("lease", pb.LeaseRequest(wait_ms=15_000), pb.LeaseResponse)
    request = pb.CompleteRequest(ownership_token=lease.ownership_token)
    assert (await stream.ask("complete", request, pb.CompleteResponse)).success
    return lease


async def refused(awaitable, code, status):
    try:
        got = await awaitable
    except Refusal as refusal:
        assert (refusal.code, refusal.status) == (code, status), refusal
        return refusal
    raise AssertionError(f"it was not refused with {code}: {got}")


def documented():
    """The frames of the document's example, by their names there."""
    with open(PROTOCOL_MD, encoding="utf-8") as document:
        example = document.read().split("### An example")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| `([0-9a-f ]+)` \|$", example, re.MULTILINE)
    return {name: bytes.fromhex(digits) for name, digits in rows}


async def the_worked_example_byte_by_byte(client):
    example = documented()
    stream = await client.stream()
    for number in range(3):
        await stream.ask("enqueue", enqueue(resource=f"example-{number}"), pb.EnqueueResponse)
    bare = client.bare().send(example["hello"] + example["call"], end=True)
    await within(bare.ended)
    assert bytes(bare.raw) == example["welcome"] + example["reply"], bare.raw.hex(" ")
    assert hello(caller="worker-1", service="omnirelay") == example["hello"]
    sent = [(1, 1), (2, "resourcelease::stats"), (4, 1000), (3, b"")]
    assert frame(CALL, sent) == example["call"]
    assert cancel(1) == example["cancel"]
    other = client.bare()
    other.take(example["refusal"])
    refusal = await refused(other.reply(1), "rpc.procedure.unknown", UNIMPLEMENTED)
    assert refusal.message == "no"
    for _ in range(3):
        await take_and_complete(stream)


async def the_connection_is_as_documented(client):
    # What the server allows is in its transport parameters, which aioquic keeps to itself.
    quic = client._quic
    assert quic._remote_max_streams_bidi == 7, quic._remote_max_streams_bidi
    assert quic._remote_max_streams_uni == 0
    assert quic._remote_max_datagram_frame_size is None
    assert quic._remote_max_stream_data_bidi_remote == 1 << 20
    assert quic._remote_max_data == 4 << 20, quic._remote_max_data
    assert quic._remote_max_idle_timeout == 60.0
    await within(client.ping())


async def as_many_streams_as_promised(client):
    async with connection() as other:
        # All at once: aioquic keeps back those that it may not open yet.
        streams = [other.bare().send(hello()) for _ in range(128)]
        for stream in streams:
            await stream.next(WELCOME)
        assert other._quic._remote_max_streams_bidi == 128
        await streams[-1].ask("stats", pb.StatsRequest(), pb.StatsResponse)


async def hellos(client):
    for greeting in ({}, {"version_max": 9}, {"features": 0xFF}):
        welcome = await client.bare().send(hello(**greeting)).next(WELCOME)
        assert welcome[1] == 1 and welcome.get(2, 0) == 0, welcome
        assert welcome[3].startswith(b"omnirelay/"), welcome
        assert welcome[4] > 16 << 20 and welcome[5] == 4096, welcome
    for versions in ((2, 9), (0, 0)):
        stream = client.bare().send(hello(*versions) + call(1, "stats"))
        farewell = await stream.farewell()
        assert farewell.code == "rpc.version.unsupported", farewell
        assert farewell.status == FAILED_PRECONDITION, farewell
    # A stream that is ended before it says anything, or after its hello, has nothing wrong.
    silent = client.bare().send(b"", end=True)
    assert await within(silent.ended) == 0 and not silent.raw
    greeted = client.bare().send(hello(), end=True)
    await greeted.next(WELCOME)
    assert await within(greeted.ended) == 0


async def an_items_life(client):
    stream = await client.stream()
    enqueued = await stream.ask("enqueue", enqueue(), pb.EnqueueResponse)
    assert enqueued.receipt.durability == "disk", enqueued
    request = pb.LeaseRequest(peer_id="worker", wait_ms=1000)
    lease = await stream.ask("lease", request, pb.LeaseResponse)
    assert lease.payload.body == b"work" and lease.owner_peer_id == "worker", lease
    assert lease.attempt == 1 and lease.sequence_id == enqueued.sequence_id
    token = lease.ownership_token
    request = pb.HeartbeatRequest(ownership_token=token)
    assert (await stream.ask("heartbeat", request, pb.HeartbeatResponse)).success
    request = pb.FailRequest(ownership_token=token, reason="no", error_code="E1", delay_ms=0)
    assert (await stream.ask("fail", request, pb.FailResponse)).success
    request = pb.LeaseRequest(wait_ms=15_000)
    again = await stream.ask("lease", request, pb.LeaseResponse)
    assert (again.attempt, again.last_error.code) == (2, "E1"), again
    complete = pb.CompleteRequest(ownership_token=again.ownership_token)
    assert (await stream.ask("complete", complete, pb.CompleteResponse)).success
    left = await stats(stream)
    assert (left.pending_count, left.active_lease_count) == (0, 0), left
    fenced = stream.ask("complete", complete, pb.CompleteResponse)
    refusal = await refused(fenced, "resourcelease.lease.fenced", ABORTED)
    assert refusal.metadata == {"reason": "completed"}, refusal.metadata


async def errors(client):
    stream = await client.stream()
    asked = (
        ("stat", b"", "rpc.procedure.unknown", UNIMPLEMENTED),
        ("nowhere::stats", b"", "resourcelease.namespace.unknown", NOT_FOUND),
        ("enqueue", b"", "resourcelease.payload.required", INVALID_ARGUMENT),
        ("enqueue", b"\xff\xff\xff", "rpc.body.malformed", INVALID_ARGUMENT),
        ("lease", pb.LeaseRequest(wait_ms=0), "resourcelease.lease.none_available", 4),
    )
    for operation, request, code, status in asked:
        stream.calls += 1
        stream.send(call(stream.calls, operation, request))
        await refused(stream.reply(stream.calls), code, status)
    stream.send(call(90, "stats", encoding=2))
    await refused(stream.reply(90), "rpc.encoding.unsupported", INVALID_ARGUMENT)
    stream.send(call(91, "stats", encoding=77))
    await refused(stream.reply(91), "rpc.encoding.unsupported", INVALID_ARGUMENT)
    stream.send(call(92, "stats", more=[(6, "x" * 513)]))
    await refused(stream.reply(92), "rpc.header.malformed", INVALID_ARGUMENT)
    many = [(15, message([(1, f"k{n}"), (2, "v")])) for n in range(128)]
    stream.send(call(93, "stats", more=many))
    await stream.reply(93)
    # Who calls, and what, has to be said in the hello or the call.
    nameless = await client.stream(caller=None, service=None)
    nameless.send(call(1, "stats"))
    await refused(nameless.reply(1), "rpc.header.missing", INVALID_ARGUMENT)
    nameless.send(call(2, "stats", more=[(6, "tests"), (7, "queue")]))
    await nameless.reply(2)


async def deadlines(client):
    stream = await client.stream()
    stream.send(call(1, "lease", pb.LeaseRequest(wait_ms=60_000), ttl_ms=300))
    await refused(stream.reply(1), "resourcelease.lease.none_available", DEADLINE_EXCEEDED)


async def json_bodies(client):
    stream = await client.stream()
    payload = {"resourceType": "table", "resourceId": "j", "payloadEncoding": "text", "body": "YQ=="}
    stream.send(call(1, "enqueue", json.dumps({"payload": payload}).encode(), encoding=1))
    enqueued = json.loads((await stream.reply(1))[1])
    assert enqueued["receipt"]["durability"] == "disk", enqueued
    stream.send(call(2, "lease", b'{"waitMs": 15000}', encoding=1))
    lease = json.loads((await stream.reply(2))[1])
    assert lease["payload"]["body"] == "YQ==" and lease["attempt"] == 1, lease
    request = json.dumps({"ownershipToken": lease["ownershipToken"]}).encode()
    stream.send(call(3, "complete", request, encoding=1))
    assert json.loads((await stream.reply(3))[1])["success"] is True
    stream.send(call(4, "complete", request, encoding=1))
    await refused(stream.reply(4), "resourcelease.lease.fenced", ABORTED)


async def batches(client):
    stream = await client.stream()
    items = [enqueue(str(n).encode(), resource=f"batch-{n}") for n in range(60)]
    request = pb.EnqueueBatchRequest(items=items)
    enqueued = await stream.ask("enqueueBatch", request, pb.EnqueueBatchResponse)
    assert len({result.sequence_id for result in enqueued.results}) == 60
    taken = []
    while len(taken) < 60:
        request = pb.LeaseBatchRequest(max_items=60, wait_ms=15_000)
        taken += (await stream.ask("leaseBatch", request, pb.LeaseBatchResponse)).leases
    assert sorted(int(lease.payload.body) for lease in taken) == list(range(60))
    request = pb.SettleRequest(
        items=[
            pb.SettleItem(ownership_token=lease.ownership_token, action="complete")
            for lease in taken
        ]
    )
    settled = await stream.ask("settle", request, pb.SettleResponse)
    assert [result.success for result in settled.results] == [True] * 60


async def pipelined_calls_out_of_order(client):
    # The calls go behind the hello without waiting for the welcome, in as few bytes at a time as
    # they come; the first call is the last to be answered.
    bodies = hello() + call(2**64 - 1, "lease", pb.LeaseRequest(wait_ms=15_000))
    bodies += call(0, "stats")
    stream = client.bare()
    for at in range(len(bodies)):
        stream.send(bodies[at : at + 1])
    await stream.next(WELCOME)
    fields = await stream.next(REPLY)
    assert fields.get(1, 0) == 0, fields
    stream.send(call(5, "enqueue", enqueue(b"late")))
    replies = dict([await stream.reply(), await stream.reply()])
    lease = pb.LeaseResponse.FromString(replies[2**64 - 1])
    assert lease.payload.body == b"late" and set(replies) == {5, 2**64 - 1}
    complete = pb.CompleteRequest(ownership_token=lease.ownership_token)
    stream.send(call(6, "complete", complete))
    await stream.reply(6)
    numbers = [1_000_000 - 7 * n for n in range(2_000)]
    stream.send(b"".join(call(number, "stats") for number in numbers), end=True)
    answered = [(await stream.reply())[0] for _ in numbers]
    assert sorted(answered) == sorted(numbers)
    assert await within(stream.ended) == 0 and stream.frames.empty()


async def one_call_on_each_stream(client):
    async def one(number):
        stream = client.bare().send(hello() + call(number, "stats"), end=True)
        await stream.next(WELCOME)
        await stream.reply(number)
        assert await within(stream.ended) == 0

    # More than may be open at a time: the rest wait until earlier ones have ended.
    await asyncio.gather(*(one(number) for number in range(1, 501)))


async def a_half_closed_stream_is_answered(client):
    request = pb.LeaseRequest(wait_ms=15_000)
    half = client.bare().send(hello() + call(1, "lease", request) + call(2, "stats"), end=True)
    await half.next(WELCOME)
    await half.reply(2)
    assert not half.ended.done()
    stream = await client.stream()
    await stream.ask("enqueue", enqueue(b"for the half"), pb.EnqueueResponse)
    lease = pb.LeaseResponse.FromString((await half.reply(1))[1])
    assert lease.payload.body == b"for the half"
    assert await within(half.ended) == 0
    request = pb.CompleteRequest(ownership_token=lease.ownership_token)
    await stream.ask("complete", request, pb.CompleteResponse)


async def a_cancelled_wait_leaves_no_lease(client):
    waiting = call(1, "lease", pb.LeaseRequest(wait_ms=60_000), ttl_ms=60_000)

    def by_cancel(stream):
        stream.send(cancel(1) + cancel(1) + cancel(99))

    def by_reset(stream):
        stream.reset(2)

    def by_stop(stream):
        stream.stop(2)

    for give_up in (by_cancel, by_reset, by_stop):
        stream = await client.stream()
        # The reply to what came behind it says that the lease has begun to wait.
        stream.send(waiting + call(2, "stats"))
        await stream.reply(2)
        give_up(stream)
        if give_up is by_cancel:
            stream.send(call(3, "stats"))
            await stream.reply(3)
        other = await client.stream()
        await other.ask("enqueue", enqueue(b"kept"), pb.EnqueueResponse)
        lease = await take_and_complete(other)
        assert (lease.attempt, lease.payload.body) == (1, b"kept"), (give_up, lease)
        if give_up is by_cancel:
            stream.send(call(4, "stats"), end=True)
            await stream.reply(4)
            assert await within(stream.ended) == 0 and stream.frames.empty(), "no late reply"
    async with connection() as closing:
        stream = await closing.stream()
        stream.send(waiting + call(2, "stats"))
        await stream.reply(2)
    other = await client.stream()
    await other.ask("enqueue", enqueue(b"kept"), pb.EnqueueResponse)
    assert (await take_and_complete(other)).attempt == 1


async def a_shards_events_as_they_happen(client):
    stream = await client.stream()
    put = await stream.ask("enqueue", enqueue(b"watched", resource="seen"), pb.EnqueueResponse)
    watching = await client.stream()

    def subscribe(number, shard, **fields):
        asked = message([(1, shard)] + [(2, fields["begin"])] if fields else [(1, shard)])
        return call(number, "omnirelay.replication.v1.Replication::Subscribe", asked)

    watching.send(subscribe(7, put.receipt.shard, begin=put.receipt.lsn))

    async def event():
        fields = await watching.next(REPLY)
        assert (fields[1], fields.get(5)) == (7, 1), "another reply follows"
        said = fields_of(fields[2])
        return said[1], said[3].decode()

    assert await event() == (put.receipt.lsn, "Enqueue")
    await take_and_complete(stream)
    assert await event() == (put.receipt.lsn + 1, "LeaseGranted")
    # Calls on the same stream are answered meanwhile.
    watching.send(call(8, "stats"))
    seen = []
    while len(seen) < 2:
        fields = await watching.next(REPLY)
        seen.append((fields[1], fields.get(5, 0)))
    assert sorted(seen) == [(7, 1), (8, 0)], seen
    watching.send(cancel(7) + subscribe(9, 1_000_000))
    await refused(watching.reply(9), "replication.shard_unknown", NOT_FOUND)
    watching.send(call(10, "omnirelay.replication.v1.Replication::Subscribe"))
    await refused(watching.reply(10), "replication.request", INVALID_ARGUMENT)
    await stream.ask("enqueue", enqueue(b"unseen", resource="seen"), pb.EnqueueResponse)
    await take_and_complete(stream)
    watching.send(call(11, "stats"), end=True)
    await watching.reply(11)
    assert await within(watching.ended) == 0 and watching.frames.empty(), "nothing is left of it"


async def malformed_frames_end_their_stream_alone(client):
    bystander = await client.stream()
    wait = pb.LeaseRequest(wait_ms=15_000)
    bystander.send(call(1, "lease", wait))
    open_call = call(7, "lease", pb.LeaseRequest(wait_ms=15_000))
    frame_bytes_max = (await client.bare().send(hello()).next(WELCOME))[4]
    cases = {
        "no varint": (hello() + b"\xff" * 11, False),
        "no protobuf": (hello() + framed(b"\x1a\x7f\x00"), False),
        "a field 0": (hello() + framed(b"\x02\x00"), False),
        "no hello": (call(1, "stats"), False),
        "two hellos": (hello() + hello(), False),
        "a long hello": (hello(caller="x" * 4090), False),
        "a frame beyond the limit": (hello() + varint(frame_bytes_max + 1), False),
        "a server's frame": (hello() + frame(REPLY, [(1, 1)]), False),
        "an open id": (hello() + open_call + open_call, False),
        "the end within a frame": (hello() + open_call[:-1], True),
        "the end within the hello": (hello()[:-1], True),
        "a kind to come": (frame(99, [(1, 1)]), False),
        "too many headers": (
            hello()
            + call(1, "stats", more=[(15, message([(1, str(n)), (2, "")])) for n in range(129)]),
            False,
        ),
        "HTTP": (b"GET / HTTP/1.1\r\nhost: " + b"x" * 100, False),
    }
    for name, (data, end) in cases.items():
        stream = client.bare().send(data, end=end)
        if data.startswith(hello()):
            await stream.next(WELCOME)
        farewell = await stream.farewell()
        assert (farewell.code, farewell.status) == (MALFORMED, INVALID_ARGUMENT), (name, farewell)
        if not end:
            await until(lambda: stream.stopped_with is not None)
            assert stream.stopped_with == 1, (name, stream.stopped_with)
    stream = await client.stream()
    await stream.ask("enqueue", enqueue(b"bystander"), pb.EnqueueResponse)
    lease = pb.LeaseResponse.FromString((await bystander.reply(1))[1])
    assert lease.payload.body == b"bystander", lease
    complete = pb.CompleteRequest(ownership_token=lease.ownership_token)
    await stream.ask("complete", complete, pb.CompleteResponse)


async def until(holds):
    async def poll():
        while not holds():
            await asyncio.sleep(0.005)

    await within(poll())


async def what_is_not_known_is_passed_over(client):
    stream = client.bare()
    stream.send(frame(HELLO, [(1, 1), (2, 1), (4, "tests"), (5, "queue"), (60, "later")]))
    await stream.next(WELCOME)
    stream.send(frame(99, [(1, 1)]) + frame(1000, [(1, "later")]))
    stream.send(call(1, "stats", more=[(99, "later"), (98, 1)]), end=True)
    await stream.reply(1)
    assert await within(stream.ended) == 0


async def large_bodies_both_ways(client):
    stream = await client.stream()
    body = os.urandom(4 << 20)
    await stream.ask("enqueue", enqueue(body), pb.EnqueueResponse)
    assert (await take_and_complete(stream)).payload.body == body
    large = stream.ask("enqueue", enqueue(body + b"x"), pb.EnqueueResponse)
    await refused(large, "resourcelease.payload.too_large", INVALID_ARGUMENT)
    # Three replies at once are three times what the server keeps for one who does not read.
    await stream.ask("enqueue", enqueue(body), pb.EnqueueResponse)
    stream.send(b"".join(call(100 + n, "peek") for n in range(3)))
    for _ in range(3):
        page = pb.PeekResponse.FromString((await stream.reply())[1])
        assert page.items[0].payload.body == body
    await take_and_complete(stream)


async def a_client_moves_to_another_address(client):
    stream = await client.stream()
    loop = asyncio.get_running_loop()
    for _ in range(6):
        before = client._transport
        # The protocol sends on the socket that it was given last.
        await loop.create_datagram_endpoint(lambda: client, local_addr=("::", 0))
        client.change_connection_id()
        await stats(stream)
        assert client._transport is not before
        before.abort()


async def a_closed_connection_and_the_next():
    async with connection() as client:
        await stats(await client.stream())
        client.close(error_code=0, reason_phrase="done")
        await within(client.wait_closed())
    async with connection() as client:
        await stats(await client.stream())


async def who_does_not_fit_is_refused():
    # TLS alerts: 48 (unknown CA) or 42 (bad certificate) is the client's, 120 is the server's.
    for given, alerts in (({"ca_file": WRONG_CA_FILE}, (42, 48)), ({"alpn": "h3"}, (120,))):
        clients = []

        def kept(*arguments, **named):
            clients.append(Client(*arguments, **named))
            return clients[0]

        try:
            async with connection(protocol=kept, **given):
                raise AssertionError(f"{given} was not refused")
        except ConnectionError:
            terminated = clients[0].terminated
        assert terminated.error_code - 0x100 in alerts, (given, terminated)


async def main():
    async with connection() as client:
        for check in (
            the_connection_is_as_documented,
            the_worked_example_byte_by_byte,
            as_many_streams_as_promised,
            hellos,
            an_items_life,
            errors,
            deadlines,
            json_bodies,
            batches,
            pipelined_calls_out_of_order,
            one_call_on_each_stream,
            a_half_closed_stream_is_answered,
            a_cancelled_wait_leaves_no_lease,
            a_shards_events_as_they_happen,
            malformed_frames_end_their_stream_alone,
            what_is_not_known_is_passed_over,
            large_bodies_both_ways,
            a_client_moves_to_another_address,
        ):
            await check(client)
            print(check.__name__.replace("_", " "), flush=True)
    for check in (a_closed_connection_and_the_next, who_does_not_fit_is_refused):
        await check()
        print(check.__name__.replace("_", " "), flush=True)


asyncio.run(main())
