"""A model in use: one image, one caption, and many images, compared with open_clip.

    python -m rankclip_jax.benchmark encode [--model=ViT-B/32] [--images=1000] [--frameworks=jax,torch] [--json=FILE]

Both libraries have random float32 weights, and begin with image files and texts as users do. A call of the tasks
"image" and "caption" encodes one of them. A call of "images" encodes many. `seconds_to_first` is the time of the first
call after the model was made, compilation included. It is measured once, for one image or one caption.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from rankclip_jax.benchmark.case import Benchmark, Case, Row
from rankclip_jax.benchmark.noise_tars import make_images
from rankclip_jax.errors import lookup
from rankclip_jax.image_size import height_width_of
from rankclip_jax.models.presets import PRESETS, get_preset

FRAMEWORKS = ("jax", "torch")
SIDES = (256, 384)
DISTINCT = 100  # image files; further images repeat them
CAPTION = "a photograph of a red house beside the water"
Encode = Callable[[Sequence], object]


def define_flags() -> None:
    flags.DEFINE_enum("model", "ViT-B/32", list(PRESETS), "model preset")
    flags.DEFINE_list("frameworks", ["jax"], "jax, torch (open_clip; needs the extra peers)")
    flags.DEFINE_list("tasks", list(TASKS), f"what to encode: {', '.join(TASKS)}")
    flags.DEFINE_integer("images", 1000, "images in a call of the task `images`", lower_bound=1)
    flags.DEFINE_integer("calls", 20, "calls in a turn of the tasks `image` and `caption`", lower_bound=1)
    flags.DEFINE_integer("batch", 32, "images that open_clip encodes together", lower_bound=1)


def groups(chosen: flags.FlagValues) -> Iterator[list[Row]]:
    """Yield one group for each task."""
    for framework in chosen.frameworks:
        lookup(dict.fromkeys(FRAMEWORKS), framework, "framework")
    for task in chosen.tasks:
        lookup(TASKS, task, "task")
    shared = {"model": chosen.model, "dtype": "float32", "batch": chosen.batch}
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(make_images(np.random.default_rng(0), DISTINCT, SIDES)):
            Path(folder, f"{i}.jpg").write_bytes(image)
        for task in chosen.tasks:
            is_many = task == "images"
            size = {"items": chosen.images if is_many else 1, "calls": 1 if is_many else chosen.calls}
            yield [
                {"task": task, "framework": framework, **size, **shared, "folder": folder}
                for framework in chosen.frameworks
            ]


def build(case: Row) -> Case:
    """Make the model and encode one image or caption; a run makes the calls of a turn."""
    encode_images, encode_texts, device = {"jax": jax_model, "torch": torch_model}[case["framework"]](case)
    tower, inputs = TASKS[case["task"]]
    encode, items = {"image": encode_images, "text": encode_texts}[tower], inputs(case)
    start = time.perf_counter()
    encode(items[:1])
    facts = {"seconds_to_first": time.perf_counter() - start, "device": device}

    def run() -> None:
        for _ in range(case["calls"]):
            encode(items)

    return Case(run, case | facts)


def _paths(case: Row) -> list[str]:
    files = sorted(map(str, Path(case["folder"]).glob("*.jpg")))
    return [files[i % len(files)] for i in range(case["items"])]


# name: the tower, and its inputs for a case
TASKS: dict[str, tuple[str, Callable[[Row], list[str]]]] = {
    "image": ("image", _paths),
    "caption": ("text", lambda case: [CAPTION]),
    "images": ("image", _paths),
}


def jax_model(case: Row) -> tuple[Encode, Encode, str]:
    """Return functions of image files and of texts, and the name of the devices."""
    import jax

    from rankclip_jax.checkpoints.weights import Weights
    from rankclip_jax.data.text.tokenizer import TOKENIZERS
    from rankclip_jax.inference.load import encoder_of
    from rankclip_jax.inference.model import Model
    from rankclip_jax.models.two_towers import build_towers

    config = get_preset(case["model"])
    tokenizer = TOKENIZERS["clip"]((), 0, config.text.context_length)
    towers = build_towers(config, tokenizer.vocab_size, tokenizer.eot_id)
    images = np.zeros((1, *height_width_of(config.image.image_size), 3), np.uint8)
    variables = jax.jit(towers.init)(jax.random.key(0), images, tokenizer([CAPTION]))
    params = {"scalars": {}, "towers": variables.pop("params")}
    weights = jax.tree.map(np.asarray, Weights(params, variables))
    encoder = encoder_of(Model(config, weights, tokenizer, 0, "random", "random"))
    devices = jax.local_devices()
    return encoder.encode_image, encoder.encode_text, f"{len(devices)} x {devices[0].device_kind}"


def torch_model(case: Row) -> tuple[Encode, Encode, str]:
    from rankclip_jax.benchmark.open_clip_reference import make_encode

    return make_encode(get_preset(case["model"]), case["batch"])


BENCHMARK = Benchmark(
    "encoding",
    labels=("framework", "task", "items"),
    about=("model", "dtype"),
    define_flags=define_flags,
    groups=groups,
    build=build,
    is_base=lambda case, other: other["framework"] == "torch",
    derived={
        "ms_per_call": lambda row: 1000 * row["seconds"] / row["calls"],
        "items_per_second": lambda row: row["items"] * row["calls"] / row["seconds"],
        "seconds_to_first": lambda row: row["seconds_to_first"],
    },
    rounds=3,
)
