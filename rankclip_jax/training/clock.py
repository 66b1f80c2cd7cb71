"""Timing of a training loop: rates, time spent on waiting for data, ETA, and the progress display.

JAX dispatches asynchronously: a step returns long before it is computed. Therefore rates are averages over whole log
intervals, at most two steps are in flight, and waiting for data counts only if the device was idle.
"""

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TextIO

import jax
from tqdm import tqdm

IN_FLIGHT = 2  # steps: enough to keep a device busy; more would need memory for more batches
PLAIN_SECONDS = 10.0  # between two progress lines if the output is not a terminal
WARN_AFTER_SECONDS = 5.0  # of training before the first warning; earlier, the fraction is mostly noise
WAIT_LIMIT = 0.10  # a larger fraction of the time spent on waiting for data causes a warning

# Metrics of `utilization` in the progress line.
USED = {
    "mfu": lambda value: f"MFU {value:.1%}",
    "peak_device_bytes": lambda value: f"device memory {value / 2**30:.1f} GiB",
    "peak_process_bytes": lambda value: f"memory {value / 2**30:.1f} GiB",
}


class Clock:
    """Timing and progress of one training loop; `train.py` shows how to use it.

    Rates are measured from the end of the first step, because the first step compiles. Time inside `paused`
    (evaluation) counts for the elapsed time and the ETA, but not for the rates.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        state: Mapping[str, float] | None = None,
        show: bool = True,
        stream: TextIO | None = None,
        wait_hint: str = "use more loader threads, smaller images or a faster disk",
    ):
        """Start the clock.

        Args:
          total_steps: number of steps of the whole run.
          start_step: number of steps done before this process started.
          state: result of `state_dict` before a restart.
          show: whether to show progress; only one process should.
          stream: stderr if None. A terminal shows a progress bar, other outputs get one plain line every 10 s.
          wait_hint: advice in the warning about waiting for data.
        """
        self._total, self._step, self._start_step = total_steps, start_step, start_step
        self._began = time.monotonic()
        self._elapsed_before = float((state or {}).get("elapsed_seconds", 0.0))
        self._paused_total = 0.0
        self._compiled = False  # whether the first step has returned
        self._running: deque[Any] = deque()
        self._last = {"samples_per_second": 0.0, "data_wait_share": 0.0, "seconds_per_step": 0.0}
        self._trained_seconds = self._waited_seconds = 0.0
        self._warned = False
        self._wait_hint = wait_hint
        self._progress = _Progress(total_steps, start_step, show, stream or sys.stderr)
        self._start_interval()

    def _start_interval(self) -> None:
        self._interval_began = time.monotonic()
        self._interval_steps = self._interval_examples = 0
        self._interval_wait = self._interval_paused = 0.0

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Measure the time to get a batch. It counts as waiting if no step is still being computed at the end."""
        began = time.monotonic()
        yield
        if not any(_is_running(step) for step in self._running):
            self._interval_wait += time.monotonic() - began

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time inside (evaluation, a report) from the rates."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._interval_paused += time.monotonic() - began
            self._paused_total += time.monotonic() - began

    def tick(self, step: int, n_examples: int, result: Any = None) -> None:
        """Count one step.

        Args:
          step: number of steps done, including this one.
          n_examples: number of examples in the global batch.
          result: arrays that the step returns, such as metrics; do not donate them to a later step. The clock waits for
            the arrays of two steps earlier, which keeps the host at most two steps ahead.
        """
        self._step = step
        self._running.append(jax.tree.leaves(result))
        while len(self._running) > IN_FLIGHT:
            jax.block_until_ready(self._running.popleft())
        if not self._compiled:
            self._compiled, self._paused_total = True, 0.0
            self._start_interval()
            return
        self._interval_steps += 1
        self._interval_examples += n_examples

    def report(self) -> dict[str, float]:
        """End the interval since the last report and return its rates. Call it once per log interval.

        Returns:
          For the interval: "samples_per_second" (global), "seconds_per_step" and "data_wait_share" (0 to 1).
          For the run: "eta_seconds" until its end, and "elapsed_seconds" including earlier restarts.
        """
        now = time.monotonic()
        seconds = now - self._interval_began - self._interval_paused
        if self._interval_steps and seconds > 0:
            self._last = {
                "samples_per_second": self._interval_examples / seconds,
                "seconds_per_step": seconds / self._interval_steps,
                "data_wait_share": min(1.0, self._interval_wait / seconds),
            }
            self._warn_of_waiting(seconds)
            self._start_interval()
        return self._last | {"eta_seconds": self._eta(), "elapsed_seconds": self.elapsed_seconds}

    @property
    def elapsed_seconds(self) -> float:
        """Wall-clock seconds of the run, including the time before restarts."""
        return self._elapsed_before + time.monotonic() - self._began

    def _eta(self) -> float:
        """Seconds until the end, at the present rate of steps and pauses."""
        done = max(1, self._step - self._start_step - 1)  # without the first, which compiled
        per_step = self._last["seconds_per_step"] + self._paused_total / done
        return per_step * max(0, self._total - self._step)

    def _warn_of_waiting(self, seconds: float) -> None:
        self._trained_seconds += seconds
        self._waited_seconds += self._interval_wait
        share = self._waited_seconds / self._trained_seconds
        if self._warned or self._trained_seconds < WARN_AFTER_SECONDS or share <= WAIT_LIMIT:
            return
        self._warned = True
        self.message(f"warning: {share:.0%} of the time is spent waiting for data; {self._wait_hint}")

    def show(
        self, values: Mapping[str, float], step: int | None = None, used: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        """Show progress with `values` (such as loss terms) of `step`, rates, what is `used` of the devices, and ETA.

        The default for `step` is the last one that `tick` counted. `used` may have the keys of `USED`.
        """
        rates = self._last
        parts = [f"{name} {value:.4g}" for name, value in values.items()]
        parts += [f"{rates['samples_per_second']:.0f} samples/s", f"data wait {rates['data_wait_share']:.0%}"]
        parts += [text(used[name]) for name, text in USED.items() if name in used]
        parts += [f"ETA {tqdm.format_interval(self._eta())}"] if rates["seconds_per_step"] else []
        self._progress.show(self._step if step is None else step, ", ".join(parts))

    def message(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        self._progress.message(text)

    def state_dict(self) -> dict[str, float]:
        """Return the state to store in a checkpoint and to pass to the clock of the resumed run."""
        return {"elapsed_seconds": self.elapsed_seconds}

    def close(self) -> None:
        """Close the progress bar; its last state stays visible."""
        self._progress.close()


def _is_running(result: list[Any]) -> bool:
    """Return whether the device still computes any of these arrays."""
    return any(isinstance(leaf, jax.Array) and not leaf.is_ready() for leaf in result)


class _Progress:
    """A tqdm bar on a terminal; whole lines in a log file or pipe, where tqdm would write only carriage returns."""

    def __init__(self, total: int, start: int, show: bool, stream: TextIO):
        self._total, self._show, self._stream = total, show, stream
        self._bar = None
        self._line_at = -PLAIN_SECONDS
        if show and stream.isatty():
            form = "{percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt}{postfix}"
            self._bar = tqdm(total=total, initial=start, file=stream, bar_format=form, dynamic_ncols=True)

    def show(self, step: int, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.n = step
            self._bar.refresh()
            return
        now = time.monotonic()
        if self._show and (now - self._line_at >= PLAIN_SECONDS or step >= self._total):
            self._line_at = now
            self.message(f"step {step}/{self._total}, {text}")

    def message(self, text: str) -> None:
        if not self._show:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
