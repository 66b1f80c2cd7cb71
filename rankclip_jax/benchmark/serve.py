"""The worker process of one case: ``python -m rankclip_jax.benchmark.serve BENCHMARK CASE``; see `worker.Worker`."""

import json
import sys

from rankclip_jax.benchmark import BENCHMARKS
from rankclip_jax.benchmark.timed_run import timed_run


def main() -> None:
    """Build the case, write its columns, then run it once for each line on stdin."""
    case = BENCHMARKS[sys.argv[1]].build(json.loads(sys.argv[2]))
    _write(case.columns)
    for _ in sys.stdin:
        _write(timed_run(case.run))


def _write(values: dict) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
