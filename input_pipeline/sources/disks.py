"""The folders in which a source finds its files: of this machine, or of a bucket."""

import os
from collections.abc import Iterable, Iterator
from typing import Protocol

from input_pipeline import bucket, places
from input_pipeline.sources.ahead import Damaged


def of(path: str) -> "Disk":
    """Return the disk on which a folder lies; a folder of a bucket is listed."""
    return Local() if places.scheme(path) is None else Listed(path)


class Disk(Protocol):
    """The interface that `folder_layouts` needs; paths are strings, joined by "/"."""

    def entries(self, folder: str) -> Iterable[tuple[str, bool]]:
        """Return (name, whether it is a folder) of what is in a folder, in any order."""
        ...

    def is_file(self, path: str) -> bool:
        """Return whether there is a file at a path."""
        ...

    def is_folder(self, path: str) -> bool:
        """Return whether there is a folder at a path."""
        ...

    def real(self, path: str) -> str:
        """Return the path of a folder without links."""
        ...

    def absolute(self, path: str) -> str:
        """Return a path that does not depend on the current folder."""
        ...

    def text(self, path: str) -> str:
        """Return the text of a file."""
        ...

    def size(self, path: str) -> int:
        """Return the bytes of a file."""
        ...


class Local:
    """The disks of this machine; see `Disk`."""

    def entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Return (name, whether it is a folder) of what is in a folder."""
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name, entry.is_dir()

    def is_file(self, path: str) -> bool:
        """Return whether there is a file at a path."""
        return os.path.isfile(path)

    def is_folder(self, path: str) -> bool:
        """Return whether there is a folder at a path."""
        return os.path.isdir(path)

    def real(self, path: str) -> str:
        """Return the path of a folder without links."""
        return os.path.realpath(path)

    def absolute(self, path: str) -> str:
        """Return a path that does not depend on the current folder."""
        return os.path.abspath(path)

    def text(self, path: str) -> str:
        """Return the text of a file."""
        with open(path, encoding="utf-8") as lines:
            return lines.read()

    def size(self, path: str) -> int:
        """Return the bytes of a file."""
        return os.path.getsize(path)


class Listed:
    """The objects below one folder of a bucket, listed once; see `Disk`.

    Raises bucket.BucketError if the bucket cannot be read.
    """

    def __init__(self, url: str):
        self._bucket = bucket.Bucket.open(url)
        self._bucket.check()
        self._root = url.rstrip("/")
        self._sizes: dict[str, int] = {}
        self._folders: dict[str, dict[str, bool]] = {}
        for entry in self._bucket.list():
            folder, _, file = f"{self._root}/{entry.key}".rpartition("/")
            if file:  # a web console makes an empty object for a folder
                self._sizes[f"{folder}/{file}"] = entry.size
                self._entries(folder)[file] = False

    def entries(self, folder: str) -> Iterable[tuple[str, bool]]:
        """Return (name, whether it is a folder) of what is in a folder."""
        return self._folders.get(folder, {}).items()

    def is_file(self, path: str) -> bool:
        """Return whether there is an object at a path."""
        return path in self._sizes

    def is_folder(self, path: str) -> bool:
        """Return whether there are objects below a path."""
        return path in self._folders

    def real(self, path: str) -> str:
        """Return the path, since a bucket has no links."""
        return path

    def absolute(self, path: str) -> str:
        """Return the path as it is."""
        return path

    def text(self, path: str) -> str:
        """Return the text of an object."""
        return self.content(path).decode()

    def size(self, path: str) -> int:
        """Return the bytes of an object."""
        return self._sizes[path]

    def content(self, path: str) -> bytes:
        """Return an object. Raises Damaged if it is not there any more."""
        try:
            return self._bucket.read(path.removeprefix(f"{self._root}/"))
        except bucket.NotFound as error:
            raise Damaged(str(error)) from None

    def _entries(self, folder: str) -> dict[str, bool]:
        """Return the entries of a folder, which it makes with the folders above it."""
        if folder not in self._folders:
            self._folders[folder] = {}
            above, _, name = folder.rpartition("/")
            if folder != self._root:
                self._entries(above)[name] = True
        return self._folders[folder]
