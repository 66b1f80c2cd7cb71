"""Scalars for TensorBoard, written by tensorboardX's record format in the calling thread.

tensorboardX's `SummaryWriter` writes in a thread of its own. If that thread fails, for example on a full disk, later
calls wait for ever.
"""

import math
import time
from collections.abc import Mapping
from pathlib import Path

from rankclip_jax.files.atomic import errors_of
from rankclip_jax.run_folder import make_writable

FOLDER = "tensorboard"


class TensorBoardFile:
    """A new events file in the run folder."""

    def __init__(self, workdir: str | Path, purge_step: int | None = None):
        """Make the file. TensorBoard hides events of earlier files from `purge_step` on.

        Raises:
          UserError: the folder cannot be written.
        """
        from tensorboardX.event_file_writer import EventsWriter  # here, because it takes a second to import
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder = Path(workdir) / FOLDER
        make_writable(self._folder, str(self._folder), "move it away, or set config.log.tensorboard=False")
        with errors_of(self._folder):
            self._writer = EventsWriter(str(self._folder / "events"))
            if purge_step is not None:
                self._writer.write_event(Event(step=purge_step, file_version="brain.Event:2"))
                self._writer.write_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
            self._writer.flush()

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append and flush scalars; those that are not finite are left out, because TensorBoard cannot draw them."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with errors_of(self._folder):
            for name, number in numbers.items():
                if math.isfinite(number):
                    self._writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar(name, number)))
            self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        with errors_of(self._folder):
            self._writer.close()
