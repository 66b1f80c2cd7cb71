"""A bucket without a network: an fsspec file system of any number of objects, which counts its requests."""

from collections import Counter
from collections.abc import Mapping

import fsspec
from fsspec.spec import AbstractFileSystem

requests: Counter[str] = Counter()  # by kind: "info", "ls", "read"
objects: dict[str, tuple[str, str]] = {}  # path of a local file with the content, and etag; by name "bucket/key"


class FakeBucket(AbstractFileSystem):
    """Objects of `objects`, as ``fake://bucket/key``."""

    protocol = "fake"
    cachable = False

    def info(self, path: str, **options) -> dict:
        requests["info"] += 1
        name = self._strip_protocol(path)
        if name not in objects:
            raise FileNotFoundError(name)
        file, etag = objects[name]
        with open(file, "rb") as content:
            return {"name": name, "size": content.seek(0, 2), "type": "file", "etag": etag}

    def ls(self, path: str, detail: bool = True, **options) -> list:
        requests["ls"] += 1
        folder = self._strip_protocol(path)
        names = [name for name in objects if name.rpartition("/")[0] == folder]
        return [{"name": name, "size": 1, "type": "file"} for name in names] if detail else names

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options) -> bytes:
        requests["read"] += 1
        with open(objects[self._strip_protocol(path)][0], "rb") as content:
            content.seek(start or 0)
            return content.read(-1 if end is None else end - (start or 0))


def fill(content: Mapping[str, tuple[str, str]]) -> None:
    """Replace the objects, and register the scheme ``fake``."""
    fsspec.register_implementation("fake", FakeBucket, clobber=True)
    objects.clear()
    objects.update(content)
    requests.clear()
