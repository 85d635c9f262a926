"""A server of buckets for tests, on 127.0.0.1: S3, and the XML side of GCS.

    python -m tests.helpers.bucket_server

It prints its port on the first line, and ends when its standard input is closed. Objects
are in memory. Nothing is signed or checked. A bucket is made, set up and asked about by
POST /_control/BUCKET with a JSON object, all of whose keys may be left out:

- "create": true makes it.
- "latency": seconds before each answer; "page": objects in a page of a listing.
- "faults": a list of {"kind", "times", "after", "method", "key", "code"}: of the requests
  of this method, whose path and query contain `key`, `after` are answered, and the next
  `times` (-1: all) get a fault of KINDS; `code` replaces the store's code for a status.

The answer has "requests" (by method), "bytes_out", "bytes_in" and "failed" (faults done)
since the last call with "reset": true, "keys", "uploads" that are not complete, and
"tokens" (requests to a cloud's metadata address, of all tests).
"""

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import sys
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

ERRORS = {
    301: "PermanentRedirect",
    400: "InvalidArgument",
    401: "AuthenticationRequired",
    403: "AccessDenied",
    404: "NoSuchKey",
    412: "PreconditionFailed",
    416: "InvalidRange",
    429: "SlowDown",
    500: "InternalError",
    503: "ServiceUnavailable",
}
# A status, or: the connection ends at once; in mid-body; half a body comes and no more;
# no answer comes; the request is carried out and its answer lost.
KINDS = (
    "301",
    "400",
    "401",
    "403",
    "429",
    "500",
    "503",
    "reset",
    "cut",
    "stall",
    "hang",
    "lost",
)
_DATE = "Tue, 01 Jan 2030 00:00:00 GMT"
_STALL = 60.0  # seconds of a stall


@dataclasses.dataclass
class Stored:
    """An object: its bytes, and the number of the write that made it."""

    data: bytes
    generation: int

    @functools.cached_property
    def etag(self) -> str:
        """The ETag, which changes with every write."""
        return f'"{hashlib.md5(self.data).hexdigest()}-{self.generation}"'


class Bucket:
    """The objects of a bucket, its settings and its counts."""

    def __init__(self):
        self.objects = {}
        self.uploads = {}
        self.faults = []
        self.latency = 0.0
        self.page = 1000
        self.reset()

    def reset(self):
        """Begin to count again."""
        self.requests, self.bytes_in, self.bytes_out, self.failed = {}, 0, 0, 0

    def fault(self, request):
        """Return the fault that this request gets, or {}."""
        for fault in self.faults:
            meant = fault.get("method", request.method) == request.method
            if not meant or fault.get("key", "") not in unquote(request.target):
                continue
            if fault.get("after", 0):
                fault["after"] -= 1
            elif fault.get("times", 1):
                fault["times"] = fault.get("times", 1) - 1
                self.failed += 1
                return fault
        return {}


@dataclasses.dataclass
class Request:
    """A parsed request."""

    method: str
    target: str
    headers: dict
    body: bytes

    def __post_init__(self):
        parts = urlsplit(self.target)
        _, self.bucket, *rest = unquote(parts.path).split("/", 2)
        self.key = rest[0] if rest else ""
        pairs = parse_qs(parts.query, keep_blank_values=True)
        self.query = {name: values[-1] for name, values in pairs.items()}


@dataclasses.dataclass
class Answer:
    """A status, a body, and headers."""

    status: int
    body: bytes = b""
    headers: dict = dataclasses.field(default_factory=dict)


def error(status, code="", message="told by the test"):
    """Return an answer as the stores give them, with code and message in XML."""
    body = (
        f"<?xml version='1.0'?><Error><Code>{code or ERRORS[status]}</Code>"
        f"<Message>{message}</Message></Error>"
    )
    return Answer(status, body.encode(), {"Content-Type": "application/xml"})


class Server:
    """All buckets."""

    def __init__(self):
        self.buckets = {}
        self.writes = 0
        self.tokens = 0  # requests for a token, as to a cloud's metadata address

    def control(self, request):
        """Make, set up and describe a bucket."""
        asked = json.loads(request.body or b"{}")
        name = request.key
        if asked.get("create"):
            self.buckets[name] = Bucket()
        bucket = self.buckets[name]
        bucket.latency = asked.get("latency", bucket.latency)
        bucket.page = asked.get("page", bucket.page)
        if "faults" in asked:
            assert all(fault["kind"] in KINDS for fault in asked["faults"])
            bucket.faults = asked["faults"]
        counts = ("requests", "bytes_in", "bytes_out", "failed")
        told = {name: getattr(bucket, name) for name in counts}
        told["keys"], told["uploads"] = sorted(bucket.objects), len(bucket.uploads)
        told["tokens"] = self.tokens
        if asked.get("reset"):
            bucket.reset()
        return Answer(200, json.dumps(told).encode())

    def answer(self, request):
        """Return the answer to a request of S3 or GCS, and carry it out."""
        bucket = self.buckets[request.bucket]
        handlers = {"GET": read, "HEAD": read, "DELETE": delete}
        handlers |= {"PUT": self.write, "POST": self.multipart}
        if not request.key:
            handlers = {"GET": listing, "POST": bulk_delete}
        return handlers[request.method](bucket, request)

    def write(self, bucket, request):
        """Store an object, or a part of one."""
        if "partNumber" in request.query:
            parts = bucket.uploads.get(request.query["uploadId"])
            if parts is None:
                return error(404, "NoSuchUpload")
            number = int(request.query["partNumber"])
            parts[number] = request.body
            return Answer(200, headers={"ETag": f'"part-{number}"'})
        return self.store(bucket, request, request.body)

    def store(self, bucket, request, data):
        """Store an object if its conditions hold."""
        there = bucket.objects.get(request.key)
        wanted = request.headers.get("if-match")
        generation = request.headers.get("x-goog-if-generation-match")
        if request.headers.get("if-none-match") == "*" and there:
            return error(412)
        if wanted is not None and (there is None or there.etag != wanted):
            return error(412 if there else 404)
        now = str(there.generation) if there else "0"
        if generation is not None and generation != now:
            return error(412)
        self.writes += 1
        stored = bucket.objects[request.key] = Stored(data, self.writes)
        return Answer(200, headers=marks(stored))

    def multipart(self, bucket, request):
        """Begin or complete an upload in parts."""
        if "uploads" in request.query:
            self.writes += 1
            name = f"upload-{self.writes}"
            bucket.uploads[name] = {}
            return Answer(
                200,
                f"<InitiateMultipartUploadResult><Bucket>{request.bucket}</Bucket><Key>"
                f"{escape(request.key)}</Key><UploadId>{name}</UploadId>"
                "</InitiateMultipartUploadResult>".encode(),
            )
        parts = bucket.uploads.get(request.query.get("uploadId"))
        if parts is None:
            return error(404, "NoSuchUpload")
        numbers = re.findall(rb"<PartNumber>(\d+)</PartNumber>", request.body)
        data = b"".join(parts[int(number)] for number in numbers)
        done = self.store(bucket, request, data)
        if done.status != 200:
            return done
        del bucket.uploads[request.query["uploadId"]]
        tag = escape(done.headers["ETag"])
        done.body = (
            f"<CompleteMultipartUploadResult><Location>l</Location><Bucket>b</Bucket><Key>k"
            f"</Key><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
        ).encode()
        return done


def marks(stored):
    """Return the headers that name a version of an object."""
    return {
        "ETag": stored.etag,
        "x-goog-generation": str(stored.generation),
        "Last-Modified": _DATE,
    }


def read(bucket, request):
    """Return an object, or a range of it."""
    there = bucket.objects.get(request.key)
    if there is None:
        return error(404)
    wanted = request.headers.get("if-match")
    if wanted not in (None, "*", there.etag):
        return error(412)
    data, headers, status = there.data, marks(there), 200
    span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if span:
        first = int(span[1])
        if first >= len(data):
            return error(416)
        data = data[first : int(span[2]) + 1 if span[2] else None]
        last = first + len(data) - 1
        headers["Content-Range"] = f"bytes {first}-{last}/{len(there.data)}"
        status = 206
    return Answer(status, data, headers)


def delete(bucket, request):
    """Remove an object, or an upload that was begun."""
    if "uploadId" in request.query:
        bucket.uploads.pop(request.query["uploadId"], None)
        return Answer(204)
    if bucket.objects.pop(request.key, None) is None and "x-amz-date" not in (
        request.headers
    ):
        return error(404)  # of GCS; S3 does not tell
    return Answer(204)


def bulk_delete(bucket, request):
    """Remove the objects that the body names."""
    keys = re.findall(r"<Key>(.*?)</Key>", request.body.decode())
    for key in keys:
        bucket.objects.pop(unescape(key), None)
    done = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
    return Answer(200, f"<DeleteResult>{done}</DeleteResult>".encode())


def listing(bucket, request):
    """Return a page of the objects below a prefix."""
    prefix = request.query.get("prefix", "")
    start = request.query.get("start-after", "")
    after = request.query.get("continuation-token", start)
    keys = [k for k in sorted(bucket.objects) if k.startswith(prefix) and k > after]
    count = min(bucket.page, int(request.query.get("max-keys", bucket.page)))
    token, rows = "", []
    if len(keys) > count:
        last = escape(keys[count - 1])
        token = f"<NextContinuationToken>{last}</NextContinuationToken>"
    for key in keys[:count]:
        stored = bucket.objects[key]
        rows.append(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2030-01-01T00:00:00.000Z"
            f"</LastModified><ETag>{escape(stored.etag)}</ETag>"
            f"<Size>{len(stored.data)}</Size></Contents>"
        )
    body = (
        f"<ListBucketResult><Name>b</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>"
        f"{str(bool(token)).lower()}</IsTruncated>{token}{''.join(rows)}"
        "</ListBucketResult>"
    )
    return Answer(200, body.encode(), {"Content-Type": "application/xml"})


async def parse(reader):
    """Return the next request of a connection, or None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, target, headers, body)


async def send(writer, answer, cut=None):
    """Send an answer, or only `cut` bytes of its body."""
    head = [f"HTTP/1.1 {answer.status} X", f"Content-Length: {len(answer.body)}"]
    head += [f"{name}: {value}" for name, value in answer.headers.items()]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n")
    writer.write(answer.body if cut is None else answer.body[:cut])
    await writer.drain()


async def respond(server, request, writer):
    """Answer a request, with its faults; return whether the connection stays open."""
    if request.bucket == "_control":
        await send(writer, server.control(request))
        return True
    cut = 0 if request.method == "HEAD" else None  # it gets no body
    if request.bucket not in server.buckets:
        if "computeMetadata" in request.target or "latest" in request.target:
            server.tokens += 1  # a cloud's metadata address, which knows no account
        await send(writer, error(404, "NoSuchBucket"), cut)
        return True
    bucket = server.buckets[request.bucket]
    bucket.requests[request.method] = bucket.requests.get(request.method, 0) + 1
    bucket.bytes_in += len(request.body)
    await asyncio.sleep(bucket.latency)
    fault = bucket.fault(request)
    kind = fault.get("kind")
    if kind == "hang":
        await asyncio.sleep(_STALL)
    if kind in ("hang", "reset"):
        return False
    if kind is not None and kind.isdigit():
        await send(writer, error(int(kind), fault.get("code")), cut)
        return True
    answer = server.answer(request)
    if kind == "lost":
        return False
    if kind in ("cut", "stall"):
        await send(writer, answer, cut=len(answer.body) // 2)
        await asyncio.sleep(_STALL if kind == "stall" else 0)
        return False
    bucket.bytes_out += len(answer.body[:cut])
    await send(writer, answer, cut)
    return True


async def serve():
    """Print the port, and serve until standard input ends."""
    server = Server()
    open_now = set()

    async def connection(reader, writer):
        open_now.add(task := asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while (request := await parse(reader)) is not None:
                if not await respond(server, request, writer):
                    break
        open_now.discard(task)
        writer.transport.abort()

    listener = await asyncio.start_server(
        connection, "127.0.0.1", 0, limit=2**20, backlog=1024
    )
    print(listener.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.buffer.read)
    listener.close()
    for task in open_now:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(serve())
