"""The index of tars built by several processes at once, and by a process that is killed or interrupted."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from rankclip_jax.data.tars.build import open_indexes
from rankclip_jax.data.tars.location import FOLDER
from tests.support.paths import ROOT
from tests.support.tar_files import write_shards
from tests.support.tar_indexes import PARTS, note_scans, opened


@pytest.fixture
def scans(monkeypatch):
    return note_scans(monkeypatch)


CODE = """
    import signal, sys, time, logging
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore it
    logging.basicConfig(level="WARNING", format="%(message)s")
    from rankclip_jax.data.tars import build
    {patch}
    tars = build.open_indexes(sys.argv[1:], (("jpg", "jpeg", "png", "webp"), ("txt",)))
    print(sum(len(tar.rows) for tar in tars))
"""


def start(files, patch=""):
    code = textwrap.dedent(CODE).replace("{patch}", textwrap.dedent(patch))
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, *files], cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


SLOWLY = """
scan = build.scan
build.scan = lambda *args: (print("scan", flush=True), time.sleep(0.3), scan(*args))[2]
"""


def test_several_processes_at_once(tmp_path):
    files = write_shards(tmp_path, [20] * 4)
    outputs = [
        process.communicate(timeout=60) for process in [start(files, "build.THREADS = 1\n" + SLOWLY) for _ in range(4)]
    ]
    assert [out.splitlines()[-1] for out, _ in outputs] == ["80"] * 4, outputs
    assert sum(out.count("scan") for out, _ in outputs) == 4, "one process reads the tars"
    assert sum("waiting for another process" in err for _, err in outputs) >= 1
    assert sorted(os.listdir(tmp_path / FOLDER)) == ["image+txt.index", "lock"]


NO_LOCKS = """
import fcntl
def refuse(*args):
    raise OSError(37, "No locks available")
fcntl.flock = refuse
"""


def test_several_processes_on_a_file_system_without_locks(tmp_path):
    files = write_shards(tmp_path, [20] * 4)
    outputs = [p.communicate(timeout=60) for p in [start(files, NO_LOCKS + SLOWLY) for _ in range(3)]]
    assert [out.splitlines()[-1] for out, _ in outputs] == ["80"] * 3, outputs
    assert len(open_indexes(files, PARTS)) == 4


KILLS = {
    "before the rename": "build.write_index.__globals__['os'].replace = lambda *_: os.kill(os.getpid(), 9)",
    "half written": """
        def half(file):
            os.truncate(os.readlink(f"/proc/self/fd/{file}"), 100)
            os.kill(os.getpid(), 9)
        build.write_index.__globals__['os'].fsync = half
    """,
    "with some shards saved": """
        build.SAVE_SECONDS, build.THREADS, writes = 0, 1, []
        scan, write = build.scan, build.write_segment
        build.scan = lambda *args: (time.sleep(0.2), scan(*args))[1]
        def save(*args):
            saved = write(*args)
            writes.append(0)
            if len(writes) == 2:
                os.kill(os.getpid(), 9)
            return saved
        build.write_segment = save
    """,
}


@pytest.mark.parametrize("when", KILLS)
def test_killed_while_building(tmp_path, when, scans):
    files = write_shards(tmp_path, [20] * 4)
    process = start(files, "import os\n" + textwrap.dedent(KILLS[when]))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert opened(files) == [(os.path.basename(file), 20) for file in files]
    assert sorted(os.listdir(tmp_path / FOLDER)) == ["image+txt.index", "lock"], "no temporary file stays"
    assert len(scans) == (2 if "saved" in when else 4)


def test_saved_shards_of_a_killed_process_are_kept_by_a_build_of_others(tmp_path, scans):
    """Its segments are merged into the index before they are removed."""
    files, others = write_shards(tmp_path, [20] * 4), write_shards(tmp_path, [5] * 2, first=7)
    assert start(files, "import os\n" + textwrap.dedent(KILLS["with some shards saved"])).wait(timeout=60) == -9
    assert len(list((tmp_path / FOLDER).glob("*.segment"))) == 2
    assert len(opened(others)) == 2 and len(opened(files)) == 4
    assert len(scans) == 4 and sorted(os.listdir(tmp_path / FOLDER)) == ["image+txt.index", "lock"]


def test_interrupted_while_building(tmp_path, scans):
    """The shards finished by then are kept."""
    files = write_shards(tmp_path, [20] * 40)
    process = start(files, "build.THREADS = 1\n" + SLOWLY)
    lines = [process.stdout.readline() for _ in range(4)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert lines == ["scan\n"] * 4 and "KeyboardInterrupt" in err
    assert len(opened(files)) == 40
    assert 40 - len(scans) in range(3, 4 + out.count("scan") + 1)


def test_an_interrupted_thread_stops_reading(tmp_path):
    """Reading the shard would take minutes: 0.2 s for each of its blocks."""
    files = write_shards(tmp_path, [400])
    slow = """
        build.CHUNK, read = 512, build.locations.read_range
        build.locations.read_range = lambda *args: (print("read", flush=True), time.sleep(0.2), read(*args))[2]
    """
    process = start(files, slow)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=20)[1]
