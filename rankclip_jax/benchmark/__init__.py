"""Benchmarks by name. A new benchmark is a module here with a `Benchmark`, and a line in this dict."""

from rankclip_jax.benchmark import data, evaluate, objectives, step, towers

BENCHMARKS = {
    "data": data.BENCHMARK,
    "evaluate": evaluate.BENCHMARK,
    "objectives": objectives.BENCHMARK,
    "step": step.BENCHMARK,
    "towers": towers.BENCHMARK,
}
