"""Write a tfds data set once more with smaller images, shard by shard.

Shards keep their names, and records their places in them. A part of a shard is a task;
the parts of a shard are joined when all are there.
"""

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from input_pipeline.prepare import records, work
from input_pipeline.prepare.images import Settings
from input_pipeline.sources import prepared, record_index
from input_pipeline.sources.tfds import check_count, prepared_builder

_LENGTH = 256  # records of a part
_INFO = "dataset_info.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of records of one split."""

    split: str
    path: str
    offsets: np.ndarray

    @property
    def name(self) -> str:
        """The file's name."""
        return os.path.basename(self.path)


class Shards:
    """A tfds data set to be written once more; see `__main__.prepare`.

    Raises ValueError if the data set, or its "image", is not one that can be resized.
    """

    as_seen = False
    """tfds' images are decoded with the hidden colours of transparent pixels."""
    other_bytes = 0

    def __init__(self, name: str, data_dir: str | None, short_side: int):
        self._builder, self.notices = prepared_builder(name, data_dir)
        self.path = self._builder.data_path
        self.inner = self._builder.info.full_name
        self._check(short_side)
        self._shards = list(self._find_shards())
        self.sizes = {split: 0 for split in self._builder.info.splits}
        for shard in self._shards:
            self.sizes[shard.split] += len(shard.offsets)
        stats = [record_index.size_and_time(shard.path) for shard in self._shards]
        self.nbytes = sum(size for size, _ in stats)
        self.largest = max(size for size, _ in stats)
        """Bytes that are written twice for a time: a shard and the parts of it."""
        names = [shard.name for shard in self._shards]
        self.fingerprint = work.fingerprint(
            ((name, *stat) for name, stat in zip(names, stats, strict=True)),
            (self.path / _INFO).read_bytes(),
        )

    def samples(self, count: int, settings: Settings) -> list[tuple[Any, ...]]:
        """Return the arguments of `records.sample` for records from everywhere."""
        tasks = []
        ends = np.cumsum([len(shard.offsets) for shard in self._shards])
        for index in work.spread(sum(self.sizes.values()), count):
            number = int(np.searchsorted(ends, index, side="right"))
            shard = self._shards[number]
            row = index - ends[number] + len(shard.offsets)
            tasks.append((shard.path, int(shard.offsets[row]), settings))
        return tasks

    sample = staticmethod(records.sample)

    def write(
        self, place: work.Place, workers: work.Workers, settings: Settings, skip: bool
    ) -> work.Result:
        """Write and verify all shards and the metadata; return the sums."""
        parts, missing, numbers = {}, Counter(), Counter()
        for shard in self._shards:
            for start in range(0, len(shard.offsets), _LENGTH):
                offsets = shard.offsets[start : start + _LENGTH]
                target = _part(place.folder / shard.name, numbers[shard.name])
                part = records.Part(shard.split, shard.path, start, offsets)
                parts[target.name] = (part, str(target), settings, skip)
                numbers[shard.name] += 1
        missing.update(numbers)
        results: dict[str, work.Result] = {}
        with work.progress(sum(self.sizes.values()), "preparing") as bar:
            done = work.kept(place, workers, records.write, parts, bar, skip)
            for name, result in done:
                results[name] = result
                shard_name = _shard(name)
                missing[shard_name] -= 1
                if not missing[shard_name]:
                    _join(place.folder / shard_name, numbers[shard_name])
        self._verify(place, workers, results)
        self._write_metadata(place.folder, results)
        self._verify_metadata(place.folder)
        return work.added(results.values())

    def _check(self, short_side: int) -> None:
        """Raise ValueError unless "image" is an image that may have any size."""
        features: Any = self._builder.info.features
        image: Any = dict(features.items()).get(records.IMAGE)
        if not isinstance(image, tfds.features.Image):
            raise ValueError(
                f"{self.inner} has no image under the name {records.IMAGE!r}: its features "
                f"are {', '.join(features)}"
            )
        if image.np_dtype != np.uint8:
            raise ValueError(
                f"the images of {self.inner} are {image.np_dtype}, but only "
                "uint8 can be resized"
            )
        shape: Any = image.shape
        sides = [side for side in shape[:2] if side is not None]
        if sides and max(sides) > short_side:
            raise ValueError(
                f"{self.inner} declares that its images are {shape}, so they cannot "
                "have another size"
            )

    def _find_shards(self) -> Iterator[Shard]:
        for split, info in self._builder.info.splits.items():
            pieces = info.file_instructions
            offsets = record_index.offsets([piece.filename for piece in pieces])
            for piece, found in zip(pieces, offsets, strict=True):
                check_count(piece.filename, piece.examples_in_shard, len(found))
                yield Shard(split, piece.filename, found)

    def _verify(
        self, place: work.Place, workers: work.Workers, results: dict[str, work.Result]
    ) -> None:
        """Read all shards again, and compare them with what was written."""
        expected: dict[str, list[str]] = {shard.name: [] for shard in self._shards}
        files: dict[str, list[Any]] = {shard.name: [] for shard in self._shards}
        for name in sorted(results):
            expected[_shard(name)] += results[name]["rest"]
            files[_shard(name)].append(results[name]["file"])
        tasks = [
            (str(place.folder / shard.name), files[shard.name])
            for shard in self._shards
        ]
        wrong = []
        with work.progress(sum(self.sizes.values()), "verifying") as bar:
            for index, found in workers.each(records.read_again, tasks):
                if found["rest"] != expected[self._shards[index].name]:
                    wrong.append(Path(tasks[index][0]))
                bar.update(found["images"])
        if wrong:
            names = {path.name for path in wrong}
            # Before the shards go, as a kill in between must leave no part that is noted
            # as done, but is not there.
            place.forget(name for name in results if _shard(name) in names)
            for path in wrong:
                path.unlink()
            raise ValueError(work.not_as_written([*map(str, wrong)]))

    def _write_metadata(self, folder: Path, results: dict[str, work.Result]) -> None:
        """Copy the files of metadata; the sizes and the description are new."""
        splits = {shard.name: shard.split for shard in self._shards}
        sizes: Counter[str] = Counter()
        for name, result in results.items():
            sizes[splits[_shard(name)]] += result["bytes_after"]
        for path in self.path.iterdir():
            other = path.name not in splits and not path.name.startswith(".")
            if other and not path.is_dir():
                work.write_whole(folder / path.name, path.read_bytes())
        info = json.loads((self.path / _INFO).read_text())
        for split in info["splits"]:
            split["numBytes"] = str(sizes[split["name"]])
        how = json.loads((folder / prepared.FILE).read_text())
        said = (
            f"Images whose shorter side was larger were resized to {how['short_side']} by "
            f"{prepared.BY} ({how['filter']}, JPEG quality {how['quality']})."
        )
        info["description"] = f"{info.get('description', '')}\n\n{said}".strip()
        work.write_json(folder / _INFO, info)

    def _verify_metadata(self, folder: Path) -> None:
        """Let tfds read the metadata, and compare what a config depends on."""
        ours: Any = tfds.builder_from_directory(folder).info
        for split in self._builder.info.splits:
            if _pieces(ours, split) != _pieces(self._builder.info, split):
                raise ValueError(
                    f"tfds finds another split {split!r} in {folder} than in {self.path}: "
                    "remove that folder and start again"
                )


def _pieces(info: Any, split: str) -> list[tuple[str, int]]:
    return [
        (os.path.basename(piece.filename), piece.examples_in_shard)
        for piece in info.splits[split].file_instructions
    ]


def _part(shard: Path, number: int) -> Path:
    """Return the file of a part of a shard."""
    return shard.with_name(f"{shard.name}.part-{number:06}")


def _shard(name: str) -> str:
    """Return the shard's name of a part's."""
    return name.rpartition(".")[0]


def _join(shard: Path, count: int) -> None:
    """Make a shard of its parts, unless an earlier start has done it."""
    parts = [_part(shard, number) for number in range(count)]
    if not shard.exists():
        with work.whole(shard) as path, path.open("wb") as out:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, out)
    for part in parts:
        part.unlink(missing_ok=True)
