"""The file ``metrics.jsonl``, which grows line by line, and its copy in each checkpoint.

The lines up to a checkpoint are computed only once: a resumed run begins after it. So each checkpoint has a compressed
copy of them, and whatever happens to the file, a resumed run writes them again.
"""

import base64
import json
import os
import shutil
import zlib
from pathlib import Path

from rankclip_jax.files.atomic import errors_of, replaced_file
from rankclip_jax.run_folder import METRICS, valid_lines
from rankclip_jax.terminal.show import warn


class MetricsLog:
    """Appends lines, keeps their compressed copy in memory, and restores the file when a run is resumed."""

    def __init__(self, workdir: str | os.PathLike):
        """Take the run folder; the file is opened at the first `append`."""
        self._path = Path(workdir) / METRICS
        self._file = None
        self._copy = _Compressed()

    def append(self, line: str) -> None:
        """Add one line, and flush it: a kill loses at most the line that is being written, a loss of power more."""
        with errors_of(self._path):
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = open(self._path, "a")  # noqa: SIM115 (open as long as the run)
            self._file.write(line + "\n")
            self._file.flush()
        self._copy.add(line + "\n")

    def packed(self) -> str:
        """Return all lines since `restart`, and those that it restored, for a checkpoint: ASCII text."""
        return self._copy.packed()

    def restart(self, step: int, packed: str | None = None) -> None:
        """Begin with the lines up to `step`; call it before the first `append`, and again after going back.

        The file is replaced atomically. If it has invalid lines, other than a last one that was cut short, or lacks
        lines, it is copied to ``metrics.jsonl.damaged`` before.

        Args:
          step: of the checkpoint that is resumed, or 0.
          packed: the copy in that checkpoint; None keeps the valid lines of the file.
        """
        self.close()
        found = [line for line in valid_lines(str(self._path)) if line["step"] <= step]
        kept = found if packed is None else [json.loads(line) for line in _unpacked(packed).splitlines()]
        restored = f"the lines up to step {step} are restored"
        if self._path.exists() and (found != kept or self._has_invalid_lines()):
            shutil.copy(self._path, f"{self._path}.damaged")
            warn(f"{self._path} is damaged; {restored}, and {METRICS}.damaged is a copy of it")
        elif kept and not self._path.exists():
            warn(f"{self._path} is missing; {restored}")
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if self._path.exists() or kept:
            with replaced_file(self._path) as file:
                file.write(text)
        self._copy = _Compressed()
        self._copy.add(text)

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _has_invalid_lines(self) -> bool:
        return self._path.read_bytes().count(b"\n") > sum(1 for _ in valid_lines(str(self._path)))


class _Compressed:
    """Text that grows. Its compressed form costs the time of the text added since the last time, and little memory."""

    def __init__(self):
        self._compressor, self._done = zlib.compressobj(), b""

    def add(self, text: str) -> None:
        self._done += self._compressor.compress(text.encode())

    def packed(self) -> str:
        return base64.b64encode(self._done + self._compressor.copy().flush()).decode()


def _unpacked(packed: str) -> str:
    return zlib.decompress(base64.b64decode(packed)).decode()
