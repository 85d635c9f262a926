"""Errors of a bucket, each one sentence: the URL, what the store said, what to do."""

import re
from urllib.parse import unquote

# S3 answers these with 400 or 403 where the credentials are at fault.
_CREDENTIAL_CODES = (
    "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "RequestTimeTooSkewed",
    "SignatureDoesNotMatch", "TokenRefreshRequired",
)  # fmt: skip
_NAME = re.compile(r'Path "(.*?)"[: ]')
_STATUS = re.compile(r"status code: (\d+)([\w ]*)")
_CREDENTIALS = {
    "gs": "run `gcloud auth application-default login`, or let "
    "GOOGLE_APPLICATION_CREDENTIALS name a key file",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (~/.aws is not read), or give "
    "the machine a role",
}
_GRANTS = {
    ("gs", "read"): "roles/storage.objectViewer",
    ("gs", "write"): "roles/storage.objectUser",
    ("s3", "read"): "s3:GetObject and s3:ListBucket",
    ("s3", "write"): "s3:PutObject, s3:DeleteObject, s3:GetObject and s3:ListBucket",
}


class BucketError(OSError):
    """A bucket could not be read or written; the message is a sentence for users."""


class NotFound(BucketError):
    """There is no such object."""


class NoBucket(BucketError):
    """There is no such bucket."""


class NotAllowed(BucketError):
    """Credentials are missing, are refused, or may not do this (401, 403)."""


class Changed(BucketError):
    """The object is not the version that was asked for (412)."""


class Exists(BucketError):
    """The object exists already, so that it was not put (412)."""


class Short(BucketError):
    """The object ends before the end of the range that was asked for."""


class Faulty(BucketError):
    """A fault that may pass stayed for all the time of retries: 5xx, 429, no network."""


def explained(error: Exception, url: str, verb: str, seconds: float) -> BucketError:
    """Return the error of an operation on `url` ("read" or "write") as one of ours.

    `seconds` is the time since its first try. Of obstore's text only a status and the
    store's code and message are kept, so that no key gets in.
    """
    text, kind = str(error), type(error).__name__
    scheme, _, bucket = url.split("/")[:3]
    scheme = scheme.rstrip(":")
    status, code, said = _status(text), _tag("Code", text), _said(text)
    cannot = f"cannot {verb} {url}: "
    if status == 401 or code in _CREDENTIAL_CODES or _of_credentials(text, bucket):
        said = said if status else "none can be read"
        what = f"the credentials are missing or not accepted ({said})"
        return NotAllowed(f"{cannot}{what}: {_CREDENTIALS[scheme]}")
    if status == 403:
        grant = f"grant this account {_GRANTS[scheme, verb]} on the bucket"
        return NotAllowed(f"{cannot}the store refuses it ({said}): {grant}")
    if code == "NoSuchBucket" or (status == 404 and kind == "GenericError"):
        return NoBucket(f"{cannot}there is no bucket {bucket!r}: check its name")
    if status == 404:
        return NotFound(f"{cannot}there is no such object")
    if kind == "AlreadyExistsError":
        return Exists(f"{cannot}it exists already")
    if kind == "PreconditionError":
        return Changed(f"{cannot}another program has replaced or removed the object")
    if status == 416:
        return Short(f"{cannot}the object is shorter than the range that was asked for")
    if kind == "InvalidPathError":
        name = _NAME.search(text)
        return BucketError(
            f"{cannot}the object {name[1] if name else ''!r} has a part in its name that "
            "is empty, '.', '..' or has control characters: rename or remove it"
        )
    if "redirect" in text.split("\n")[0]:
        return BucketError(
            f"{cannot}the bucket is in another region: set AWS_REGION to it"
        )
    if status is not None and status < 500 and status != 429:
        return BucketError(f"{cannot}the store said {said}")
    return Faulty(
        f"{cannot}{said}, in all tries of {seconds:.0f} s: check the network and the "
        "store's status, then give the same command again"
    )


def short(url: str, start: int, wanted: int, got: int) -> Short:
    """Return the error for an answer with too few bytes."""
    return Short(
        f"cannot read {url}: {wanted} bytes from {start} on were expected, got {got}: the "
        "object is cut short"
    )


def _of_credentials(text: str, bucket: str) -> bool:
    """Return whether finding credentials failed, before any request to the bucket."""
    line = unquote(text.split("\n")[0])
    asked = re.search(r"Error performing [A-Z]+ (\S+)", line)
    if asked is None:
        return (
            re.match(r"Generic (\w*Crypto|\w+ error: .*credential)", line) is not None
        )
    name = re.escape(bucket)
    return re.search(rf"//{name}\.|/{name}([/?]|$)", asked[1]) is None


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found[1]) if found else None


def _tag(name: str, text: str) -> str:
    """Return the text of an element of the store's XML, in one line."""
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return " ".join(found[1].split())[:300] if found else ""


def _said(text: str) -> str:
    """Return what the store said, or that it said nothing."""
    found = _STATUS.search(text)
    if found is None:
        return "the store did not answer, or not in full"
    code, *more = (_tag(name, text) for name in ("Code", "Message", "Details"))
    status = f"{found[1]}{found[2].rstrip()}"
    return ": ".join(filter(None, [", ".join(filter(None, (status, code))), *more]))
