"""Measurements by name. A new one is a module here with `define_flags` and `main`, and a line in this dict."""

from rankclip_jax.benchmark import data, objectives, step, towers

BENCHMARKS = {
    "data": data,
    "objectives": objectives,
    "step": step,
    "towers": towers,
}
