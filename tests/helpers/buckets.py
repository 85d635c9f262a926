"""Buckets for tests, on the server of `bucket_server`, with dummy credentials."""

import contextlib
import json
import subprocess
import sys
import urllib.request
import uuid
from pathlib import Path

from input_pipeline import bucket
from vitjax.mirror import steps

ROOT = Path(__file__).resolve().parents[2]
SECRET = "not-a-secret-but-none-may-show-it"


@contextlib.contextmanager
def started():
    """Yield the address of a server, http://127.0.0.1:PORT, which runs meanwhile."""
    command = [sys.executable, "-m", "tests.helpers.bucket_server"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.communicate()  # the end of its input ends it


def environment(address):
    """Return the variables that lead gs://, s3:// and every metadata address there."""
    key = {"gcs_base_url": address, "disable_oauth": True}
    key |= dict.fromkeys(("client_email", "private_key_id"), "")
    host = address.removeprefix("http://")
    return {
        "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps({**key, "private_key": SECRET}),
        "GCE_METADATA_HOST": host,
        "GCE_METADATA_IP": host,
        "GCE_METADATA_ROOT": host,
        "NO_GCE_CHECK": "true",
        "AWS_ACCESS_KEY_ID": "AKIADUMMY",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ENDPOINT_URL": address,
        "AWS_METADATA_ENDPOINT": address,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


# Other variables that name credentials, an account or a machine of the user's.
UNSET = (
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE", "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "HTTPS_PROXY",
    "HTTP_PROXY", "https_proxy", "http_proxy",
)  # fmt: skip


class Remote:
    """A bucket of one test: `url` is a folder in it."""

    def __init__(self, address, scheme):
        self.address, self.scheme = address, scheme
        self.name = f"test-{uuid.uuid4().hex[:8]}"
        self.url = f"{scheme}://{self.name}/a folder/of-it"
        self.set(create=True)

    def set(self, **settings):
        """Set it up, or ask; see `bucket_server` for the settings and the answer."""
        request = urllib.request.Request(
            f"{self.address}/_control/{self.name}",
            json.dumps(settings).encode(),
            method="POST",
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def hold(self, workdir):
        """Put a workdir as its run would have; return its URL."""
        there = bucket.Bucket.open(f"{self.url}/{workdir.name}")
        files = [p for p in sorted(workdir.rglob("*")) if p.is_file()]
        for path in files:
            there.put(str(path.relative_to(workdir)), path)
        for step in steps.whole(workdir):
            names = [
                str(p.relative_to(workdir))
                for p in files
                if p.is_relative_to(workdir / step.folder)
            ]
            there.put(step.marker, steps.write_marker(workdir, names))
        return there.url

    def fail(self, kind, times=1, **which):
        """Let the next requests fail; times=-1 means all."""
        self.set(faults=[{"kind": kind, "times": times, **which}], reset=True)
