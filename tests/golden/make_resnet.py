"""Results of OpenAI's ResNet for `tests/models/test_resnet.py`, which does not need PyTorch.

    python -m tests.golden.make_resnet MODEL_PY          rewrites tests/golden/resnet_openai.npz

MODEL_PY is the file model.py of CLIP's code (in the PyPI package clip-anytorch). Weights and images are functions of
their names, so only results are stored: features, running statistics after one batch, and for each parameter's
gradient its norm and its products with random directions.
"""

import importlib.util
import sys
import zlib
from pathlib import Path

import numpy as np

SIZES = {"layers": (1, 2, 1, 1), "heads": 2, "width": 4}
IMAGE_SIZE, EMBED_DIM, BATCH = 64, 6, 4
PROBES = 3
FILE = Path(__file__).parent / "resnet_openai.npz"


def values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 values for a tensor of OpenAI's state dict, scaled so that activations stay near 1."""
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        return np.exp(0.3 * normal)
    if len(shape) > 1:  # convolutions, projections, position embedding
        return normal * (1.5 / np.prod(shape[1:])) ** 0.5
    return 0.2 * normal + (1.0 if name.endswith("weight") else 0.0)


def random_images() -> np.ndarray:
    """Normalised images, float64 [B, S, S, 3]: a smooth part and noise."""
    rng = np.random.RandomState(0)
    smooth = rng.standard_normal((BATCH, IMAGE_SIZE // 16, IMAGE_SIZE // 16, 3)).repeat(16, 1).repeat(16, 2)
    return smooth + 0.5 * rng.standard_normal((BATCH, IMAGE_SIZE, IMAGE_SIZE, 3))


def direction() -> np.ndarray:
    """The gradient of the loss with respect to the features, [B, E]."""
    return np.random.RandomState(1).standard_normal((BATCH, EMBED_DIM))


def probes(name: str, gradient: np.ndarray) -> np.ndarray:
    """Norm of a gradient in OpenAI's layout, and its products with random directions of length about 1."""
    rng = np.random.RandomState(zlib.crc32(f"probe {name}".encode()))
    directions = rng.standard_normal((PROBES, gradient.size)) / gradient.size**0.5
    return np.concatenate([[np.linalg.norm(gradient)], directions @ gradient.ravel()])


def main(model_py: str) -> None:
    import torch

    spec = importlib.util.spec_from_file_location("openai_model", model_py)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tower = module.ModifiedResNet(output_dim=EMBED_DIM, input_resolution=IMAGE_SIZE, **SIZES).double()
    with torch.no_grad():
        for name, tensor in tower.state_dict().items():
            if tensor.dtype.is_floating_point:
                tensor.copy_(torch.from_numpy(values(name, tuple(tensor.shape))))
    images = torch.from_numpy(random_images().transpose(0, 3, 1, 2))
    found = {"eval": tower.eval()(images).detach().numpy()}
    features = tower.train()(images)
    (features * torch.from_numpy(direction())).sum().backward()
    found["train"] = features.detach().numpy()
    found |= {f"running/{name}": value.numpy() for name, value in tower.named_buffers() if "running" in name}
    found |= {f"gradient/{name}": probes(name, value.grad.numpy()) for name, value in tower.named_parameters()}
    # One array per result would store more headers than values.
    names = sorted(found)
    flat = np.concatenate([found[name].ravel() for name in names]).astype(np.float32)
    np.savez_compressed(FILE, values=flat, names=names, sizes=[found[name].size for name in names])


def read() -> dict[str, np.ndarray]:
    """The results that `main` stored, by name, as flat arrays."""
    with np.load(FILE) as file:
        parts = np.split(file["values"], np.cumsum(file["sizes"])[:-1])
        return dict(zip(map(str, file["names"]), parts, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
