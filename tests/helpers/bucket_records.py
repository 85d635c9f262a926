"""Run a command on a data set in a bucket of the test server: records of 110 KB.

    python -m tests.helpers.bucket_records python -m input_pipeline.benchmark_bucket

The command gets --data_dir and --name at its end. 2,048 JPEGs in 16 shards are written by
tfds, uploaded, and then served 30 ms after each request.
"""

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tensorflow_datasets as tfds

from input_pipeline import benchmark, bucket
from tests.helpers import buckets

COUNT, SHARDS, FILES, LATENCY = 2048, 16, 96, 0.03


class BucketRecords(tfds.core.GeneratorBasedBuilder):
    """Repeats the files of a folder."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, files, **kwargs):
        self._contents = [path.read_bytes() for path in files]
        super().__init__(**kwargs)

    def _info(self):
        label = tfds.features.ClassLabel(num_classes=10)
        features = {"image": tfds.features.Image(), "label": label}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(COUNT):
            image = io.BytesIO(self._contents[i % FILES])
            yield i, {"image": image, "label": i % 10}


def write(folder):
    """Write the data set below a folder, and return its data_dir."""
    benchmark.write_jpegs(folder, FILES)
    files = sorted(folder.glob("train/*/*.jpg"))
    builder = BucketRecords(files, data_dir=folder / "tfds")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=SHARDS)
    )
    return folder / "tfds"


def main():
    """Run the command; return its status."""
    with tempfile.TemporaryDirectory() as folder, buckets.started() as address:
        os.environ.update(buckets.environment(address))
        remote = buckets.Remote(address, "gs")
        there = bucket.Bucket.open(remote.url)
        data_dir = write(Path(folder))
        for path in data_dir.rglob("*.*"):
            if path.is_file():
                there.put(str(path.relative_to(data_dir)), path)
        remote.set(latency=LATENCY)
        command = [*sys.argv[1:], "--data_dir", remote.url, "--name", "bucket_records"]
        return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
