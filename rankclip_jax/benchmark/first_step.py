"""The process of one start: ``python -m rankclip_jax.benchmark.first_step --begin=T --config=FILE --workdir=DIR``.

It trains like ``rankclip_jax.train`` until the first step has ended. The last line of its output is the time of each
phase as JSON. T is the value of `time.monotonic` before the process was started.
"""

import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import jax
from absl import flags

from rankclip_jax import cli, train
from rankclip_jax.benchmark.start import PHASES
from rankclip_jax.training import loop, setup

IMPORTED = time.monotonic()


def main(argv: list[str]) -> None:
    del argv
    times = [flags.FLAGS.begin, IMPORTED]

    def marked(function: Callable) -> Callable:
        def timed(*args: Any, **options: Any) -> Any:
            result = function(*args, **options)
            if len(times) < len(PHASES):
                times.append(time.monotonic())
            return result

        return timed

    def stop(clock: Any, step: int, examples: int, metrics: dict) -> None:
        jax.block_until_ready(metrics)
        times.append(time.monotonic())
        seconds = [after - before for before, after in itertools.pairwise(times)]
        print(f"\n{json.dumps(dict(zip(PHASES, seconds, strict=True)))}")
        raise SystemExit(0)

    # Marks in the command itself: a copy of its steps here could come to differ from it.
    setup.build = marked(setup.build)
    train.create_state = marked(train.create_state)
    loop.put_batch = marked(loop.put_batch)
    loop.Clock.tick = stop
    train.start(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == "__main__":
    cli.define_config()
    flags.DEFINE_string("workdir", None, "run folder", required=True)
    flags.DEFINE_float("begin", None, "when the process was started", required=True)
    cli.run(main)
