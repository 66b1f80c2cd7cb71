"""Compare our towers with OpenAI's model definition at full size, for the same state dict.

    python -m tests.golden.compare_openai MODEL_PY [ViT-B/32|RN50]

MODEL_PY is the file model.py of CLIP's code (in the PyPI package clip-anytorch). It builds a model with random weights,
which ``python -m rankclip_jax.weights import`` reads. The script compares embeddings and logits in float32, and the
gradient of CLIP's loss for one training step. The reference for gradients is OpenAI's definition in float64: a random
model computes similar embeddings for all images, so float32 gradients lose digits in both libraries. It needs torch and
a few minutes, and prints the table of docs/weights.md.
"""

import copy
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.inference.encoder import Encoder
from rankclip_jax.inference.load import read_model
from rankclip_jax.models.pixels import normalize_pixels
from rankclip_jax.models.two_towers import build_towers
from rankclip_jax.objectives import RunInfo, build_objective, objective_config
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.terminal.tables import text_table
from rankclip_jax.training.step import make_gradients
from rankclip_jax.weights.formats.foreign import array_shapes
from rankclip_jax.weights.formats.mapping import to_ours
from rankclip_jax.weights.formats.open_clip_table import rules

BATCH = 6
# Arguments of its class: embedding, image, layers, width, patch; context, vocabulary, width, heads, layers.
SIZES = {
    "ViT-B/32": (512, 224, 12, 768, 32, 77, 49_408, 512, 8, 12),
    "RN50": (1024, 224, (3, 4, 6, 3), 64, None, 77, 49_408, 512, 8, 12),
}
TEXTS = ("a cat", "two dogs, running", "heart", "a photo of the sea at night", "flag", "it's a red car")


def random_model(definition, name: str):
    """A model with random weights. Norms get noise, because some start at zero and would hide their blocks."""
    import torch

    torch.manual_seed(0)
    model = definition.CLIP(*SIZES[name]).float()
    for key, tensor in (*model.named_parameters(), *model.named_buffers()):
        with torch.no_grad():
            if key.endswith("running_var"):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
            elif tensor.is_floating_point() and (".bn" in key or ".downsample.1." in key):
                tensor.add_(0.2 * torch.randn_like(tensor))
    return model


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth images with noise, uint8 [B, S, S, 3], and the same normalised, float32 [B, 3, S, S]."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 200, (BATCH, size // 32, size // 32, 3)).repeat(32, 1).repeat(32, 2)
    images = (smooth + rng.integers(0, 56, smooth.shape)).astype(np.uint8)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    return images, ((images / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)


def theirs(model, pixels: np.ndarray, tokens: np.ndarray) -> list[np.ndarray]:
    """Embeddings and logits of OpenAI's model in evaluation."""
    import torch

    images, ids = torch.tensor(pixels), torch.tensor(tokens).long()
    with torch.no_grad():
        model.eval()
        embeds = [x / x.norm(dim=1, keepdim=True) for x in (model.encode_image(images), model.encode_text(ids))]
        logits, _ = model(images, ids)
    return [x.numpy() for x in (*embeds, logits)]


def their_gradient(model, pixels: np.ndarray, tokens: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """OpenAI's gradient of a training step by tensor, in float32 or float64."""
    import torch

    model = copy.deepcopy(model).to(getattr(torch, dtype)).train()
    for module in model.modules():
        if getattr(module, "attn_mask", None) is not None:
            module.attn_mask = module.attn_mask.to(getattr(torch, dtype))
    per_image, per_text = model(torch.tensor(pixels), torch.tensor(tokens).long())
    own = torch.arange(BATCH)
    loss = (torch.nn.functional.cross_entropy(per_image, own) + torch.nn.functional.cross_entropy(per_text, own)) / 2
    loss.backward()
    return {name: p.grad.numpy() for name, p in model.named_parameters()}


def gradient(towers, model, mesh, images: np.ndarray, tokens: np.ndarray, dtype) -> dict[str, np.ndarray]:
    """Our gradient by path, computed in float32 or float64."""
    towers = towers.clone(image=towers.image.clone(dtype=dtype), text=towers.text.clone(dtype=dtype))
    objective = build_objective(objective_config("clip"), RunInfo(10, 10))
    gradients = make_gradients(towers, objective, mesh)

    @jax.jit
    def compute(params, model_state):
        inputs = {"images": images, "tokens": tokens}
        return gradients(params, inputs, objective.weights(jnp.int32(0)), {}, 0, model_state).params

    with jax.enable_x64(dtype == jnp.float64):
        found = compute(*jax.tree.map(lambda x: jnp.asarray(x, dtype), tuple(model.weights)))
        return {"/".join(key.key for key in path): np.asarray(x) for path, x in jax.tree.leaves_with_path(found)}


def compare(definition, name: str) -> list[tuple[str, ...]]:
    """The table row of one model."""
    import torch

    torch_model = random_model(definition, name)
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder) / "state.pt", Path(folder) / "imported"
        torch.save(torch_model.state_dict(), path)
        command = ("-m", "rankclip_jax.weights", "import", path, f"--out={out}", "--activation=quick_gelu")
        subprocess.run([sys.executable, *map(str, command)], check=True)
        model = read_model(out)
    towers = build_towers(model.config, model.tokenizer.vocab_size, model.tokenizer.eot_id)
    mesh = make_mesh(jax.devices()[:1])
    encoder = Encoder(towers, model.weights, model.tokenizer, mesh, batch_size=BATCH)
    images, pixels = batch(encoder.image_size)
    tokens = encoder.tokenize(TEXTS)
    expected = theirs(torch_model, pixels, tokens)
    ours = [encoder.encode_image(images), encoder.encode_text(TEXTS)]
    ours.append(encoder.temperature_scale * ours[0] @ ours[1].T)
    found = [np.abs(a - b).max() for a, b in zip(ours, expected, strict=True)]
    with jax.enable_x64(True):  # the same pixels for both
        seen = np.asarray(normalize_pixels(jnp.asarray(images))).transpose(0, 3, 1, 2)
    exact, single = (as_ours(their_gradient(torch_model, seen, tokens, f"float{n}"), model) for n in (64, 32))
    mine = [gradient(towers, model, mesh, images, tokens, dtype) for dtype in (jnp.float64, jnp.float32)]
    apart = [distance(exact, one) for one in (*mine, single)]
    return [(name, *(f"{error:.1e}" for error in (*found, *apart)))]


def as_ours(torch_gradient: dict[str, np.ndarray], model) -> dict[str, np.ndarray]:
    """OpenAI's gradient by our paths. The table of weights is linear, so it also converts gradients."""
    shapes = array_shapes(model.config, model.tokenizer) | {"scalars/logit_scale": ()}
    parameters = {path: shape for path, shape in shapes.items() if not path.startswith("batch_stats")}
    table = [one for one in rules(model.config) if one.ours[0] in parameters]
    return to_ours(table, torch_gradient, parameters, "the gradient")


def distance(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> float:
    """||found - expected|| / ||expected|| over all parameters."""

    def norm(arrays):
        return sum(np.sum(np.square(x, dtype=np.float64)) for x in arrays) ** 0.5

    return norm(found[path] - x for path, x in expected.items()) / norm(expected.values())


def main(model_py: str, *names: str) -> None:
    spec = importlib.util.spec_from_file_location("openai_model", model_py)
    definition = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(definition)
    definition.LayerNorm.forward = definition.nn.LayerNorm.forward  # without the cast to float32
    rows = [("", "image embeddings", "text embeddings", "logits", "gradient, float64", "float32", "torch's float32")]
    for name in names or SIZES:
        rows += compare(definition, name)
    print(text_table(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
