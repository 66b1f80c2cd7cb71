"""Benchmarks by name. A new benchmark is a module here with a `Benchmark`, and a line in this dict."""

from rankclip_jax.benchmark import billions, data, encode, evaluate, objectives, save, start, step, towers

BENCHMARKS = {
    "billions": billions.BENCHMARK,
    "data": data.BENCHMARK,
    "encode": encode.BENCHMARK,
    "evaluate": evaluate.BENCHMARK,
    "objectives": objectives.BENCHMARK,
    "save": save.BENCHMARK,
    "start": start.BENCHMARK,
    "step": step.BENCHMARK,
    "towers": towers.BENCHMARK,
}
