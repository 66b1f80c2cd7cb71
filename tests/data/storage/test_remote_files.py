"""Tars and other files over a network, from a real server on this machine that fails on demand."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from urllib3 import HTTPResponse

from rankclip_jax.data.images.decode import DecodedRecords
from rankclip_jax.data.pairs import PairOptions
from rankclip_jax.data.sources.webdataset import open_pairs
from rankclip_jax.data.storage import http_pools, locations, remote_files
from rankclip_jax.data.tars import build
from rankclip_jax.data.text.tokenizer import train_tokenizer
from rankclip_jax.errors import UserError
from tests.support.http_files import retry_quickly, serving
from tests.support.loaders import make_loader
from tests.support.tar_files import write_shards


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves three shards of 40 pairs. Pauses between attempts are short; the index is in a folder of the test."""
    retry_quickly(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_shards(tmp_path / "served", [40, 40, 40])
    with serving(tmp_path / "served") as server:
        server.local = locations.expand(str(tmp_path / "served" / "*.tar"))
        server.files = locations.expand("{00000..00002}.tar", server.url)
        yield server


def read(pairs):
    return [(pairs.key(i), pairs.captions(i), pairs.image_bytes(i)) for i in range(len(pairs))]


def test_pairs_are_the_same_as_from_local_files(server):
    pairs = open_pairs(server.files, PairOptions())
    assert read(pairs) == read(open_pairs(server.local, PairOptions()))
    assert pairs.digest() == open_pairs(server.local, PairOptions()).digest()


def test_one_request_for_a_pair(server):
    pairs = open_pairs(server.files, PairOptions(second_caption_key="json.caption"))
    before = len(server.requests)
    for index in (5, 70, 119):
        assert pairs.captions(index) == pairs.second_captions(index) == (f"number {index}",)
        assert pairs.key(index).endswith(f"{index:09d}.jpg") and pairs.image_bytes(index)
    assert len(server.requests) == before + 3
    assert all(asked and asked.startswith("bytes=") for _, asked in server.requests), "never a whole file"


def test_an_index_is_built_once_and_again_for_changed_shards(server, monkeypatch):
    scans, scan = [], build.scan
    monkeypatch.setattr(build, "scan", lambda *args: (scans.append(1), scan(*args))[1])
    open_pairs(server.files, PairOptions())
    open_pairs(server.files, PairOptions())
    assert len(scans) == 3
    os.utime(server.local[1], (1, 1))  # another ETag
    open_pairs(server.files, PairOptions())
    assert len(scans) == 4
    assert len(open_pairs(server.files, PairOptions(index_dir=os.environ["XDG_CACHE_HOME"]))) == 120


def test_large_members_that_are_not_neighbours(server, monkeypatch):
    """The bytes between them are not read."""
    monkeypatch.setattr("rankclip_jax.data.sources.webdataset.NEAR", 100)
    pairs = open_pairs(server.files, PairOptions())
    before = len(server.requests)
    assert read(pairs) == read(open_pairs(server.local, PairOptions()))
    assert len(server.requests) == before + 3 * 120, "one request each for header, caption and image"


@pytest.mark.parametrize("trouble", [{"refuse_every": 5}, {"break_every": 5}, {"refuse_every": 5, "break_every": 7}])
def test_a_server_that_fails_sometimes(server, trouble):
    for name, every in trouble.items():
        setattr(server, name, every)
    pairs, expected = open_pairs(server.files, PairOptions()), read(open_pairs(server.local, PairOptions()))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: (pairs.key(i), pairs.captions(i), pairs.image_bytes(i)), range(120)))
    assert found == expected and len(server.requests) > 140, "some requests were repeated"


def test_training_batches_over_a_network(server):
    server.refuse_every = 5
    tokenizer = train_tokenizer(["number image"] * 2, 258, 16)
    batches = []
    for files in (server.files, server.local):
        with make_loader(
            DecodedRecords(open_pairs(files, PairOptions())), tokenizer, batch_size=24, seed=1, image_size=16
        ) as loader:
            batches.append([next(loader) for _ in range(6)])
            assert loader.bad_records == 0
    for remote, local in zip(*batches, strict=True):
        for key in remote:
            np.testing.assert_array_equal(remote[key], local[key])


def test_a_rate_limit_is_waited_for(server):
    """Without Retry-After all attempts would be over within 0.1 s."""
    server.limited_until = began = time.monotonic() + 1.2
    assert locations.read_range(server.files[0], 0, 512) == locations.read_range(server.local[0], 0, 512)
    assert time.monotonic() > began and 2 <= len(server.requests) <= 3


@pytest.mark.parametrize(
    ("retry_after", "failures", "seconds"), [("7", 1, 7), ("3600", 1, 60), ("1", 5, 8), ("0", 1, 0), (None, 5, None)]
)
def test_a_pause_is_as_long_as_the_server_demands(retry_after, failures, seconds):
    """But at most a minute, and not shorter than without the server's demand."""
    retry = remote_files._Retry(10, backoff_factor=0.5)
    for _ in range(failures):
        retry = retry.increment("GET", "/x", HTTPResponse(status=429))
    answer = HTTPResponse(headers={"Retry-After": retry_after} if retry_after else {})
    assert retry.get_retry_after(answer) == seconds


def test_an_answer_that_ends_early_is_requested_again(server):
    server.break_every, server.failures = 1, 3
    assert locations.read(server.files[0]) == Path(server.local[0]).read_bytes() and len(server.requests) == 4
    server.failures = 100
    with pytest.raises(OSError, match=r"00001.tar: the connection ended early"):
        locations.read_range(server.files[1], 0, 512)
    assert len(server.requests) == 4 + len(remote_files.PAUSES) + 1


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize("read", [lambda url: locations.read(url, 99), lambda url: locations.read_range(url, 0, 99)])
def test_an_answer_without_end(server, read):
    server.endless = 0.0
    with pytest.raises(OSError, match=r"00000.tar: the server sends more than the limit of 99 bytes"):
        read(server.files[0])
    assert len(server.requests) == 1, "not requested again"


def test_an_answer_that_drips(server, monkeypatch):
    server.endless, began = 0.02, time.monotonic()
    for limit in ("PATIENCE", "MAX_SECONDS"):
        monkeypatch.setattr(remote_files, "PATIENCE", 60)
        monkeypatch.setattr(remote_files, limit, 0.3)
        with pytest.raises(OSError, match="bytes per second, too slow to wait for"):
            locations.read(server.files[0])
    assert time.monotonic() - began < 5 and len(server.requests) == 2


def test_headers_that_drip(server, monkeypatch):
    monkeypatch.setattr(http_pools, "HEADER_SECONDS", 0.3)
    server.slow_headers, began = True, time.monotonic()
    for read in (locations.read, locations.stamp):
        with pytest.raises(OSError, match=r"the headers take more than 0.3 s"):
            read(server.files[0])
    assert time.monotonic() - began < 5 and len(server.requests) == 2


def test_a_limit_for_whole_files(server):
    assert len(locations.read(server.files[0], 10**6)) == os.path.getsize(server.local[0])
    for file in (server.files[0], server.local[0]):
        with pytest.raises(OSError, match="more than the limit of 1,000"):
            locations.read(file, 1000)


@pytest.mark.parametrize("url", ["http://me:hunter2@127.0.0.1:9/a.tar?sig=hunter2", "nosuch://me:hunter2@bucket/a"])
def test_errors_hold_no_secrets(url, monkeypatch):
    retry_quickly(monkeypatch)
    monkeypatch.setattr(remote_files, "RETRIES", 1)
    for call in (locations.read, locations.stamp, lambda url: locations.read_range(url, 0, 1)):
        with pytest.raises((OSError, UserError)) as caught:
            call(url)
        assert "hunter2" not in str(caught.value) and caught.value.__cause__ is None


# ---------------------------------------------------------------- permanent failures


def test_a_missing_shard_is_named(server):
    with pytest.raises(UserError, match=r"no tar at http.*/00003.tar: .*the server answers 404"):
        open_pairs(locations.expand("{00002..00004}.tar", server.url), PairOptions())


def test_a_server_without_ranges(server):
    server.ignores_ranges = True
    with pytest.raises(UserError, match=r"sends whole files only .no range requests.: download the files first"):
        open_pairs(server.files, PairOptions())


def test_a_server_that_is_down_gets_a_limited_number_of_requests(server):
    server.refuse_every, server.failures = 1, 10**9
    with pytest.raises(OSError, match="the server answers 503"):
        locations.read(server.files[0])
    assert len(server.requests) == 1 + remote_files.RETRIES
    with pytest.raises(UserError, match=r"00000.tar cannot be read .*the server answers 503"):
        open_pairs(server.files[:1], PairOptions())
    assert len(server.requests) == 2 * (1 + remote_files.RETRIES)
    with pytest.raises(FileNotFoundError):
        server.refuse_every = 0
        locations.read(f"{server.url}/none")
    assert len(server.requests) == 2 * (1 + remote_files.RETRIES) + 1, "a missing file is not requested again"


def test_no_server(monkeypatch):
    retry_quickly(monkeypatch)
    with pytest.raises(OSError, match="refused"):
        locations.read("http://127.0.0.1:9/x")


def test_whole_files_and_their_ends(server):
    url, path = server.files[0], server.local[0]
    data = Path(path).read_bytes()
    assert locations.read(url) == data and locations.size(url) == len(data)
    assert locations.read_range(url, 100, 700) == data[100:800] and locations.read_range(url, 5, 0) == b""
    assert locations.exists(url) and not locations.exists(f"{server.url}/none.tar")
    for offset in (len(data) - 3, len(data) + 10):
        with pytest.raises(EOFError):
            locations.read_range(url, offset, 10)


def test_a_forked_process_opens_its_own_connections(server):
    assert locations.size(server.files[0])
    child = os.fork()
    if child == 0:
        try:
            ok = all(locations.read_range(server.files[0], at, 512) for at in range(0, 51_200, 512))
            os._exit(0 if ok else 1)
        finally:
            os._exit(2)
    for at in range(0, 51_200, 512):
        assert locations.read_range(server.files[0], at, 512) == locations.read_range(server.local[0], at, 512)
    assert os.waitpid(child, 0)[1] == 0
