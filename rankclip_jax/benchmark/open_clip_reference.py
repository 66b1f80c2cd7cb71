"""open_clip's models as a reference for the encoder. Needs the extra `peers`."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ml_collections import ConfigDict
from PIL import Image

from rankclip_jax.errors import UserError, install_hint


def make_encode(
    model: ConfigDict, batch: int
) -> tuple[Callable[[Sequence[str]], object], Callable[[Sequence[str]], object], str]:
    """Return functions that encode image files and texts with random weights, and the name of the device.

    Images are read and resized by as many threads as this package uses, and encoded `batch` at a time.

    Raises:
      UserError: open_clip is not installed, or has no such model.
    """
    try:
        import open_clip
        import torch
    except ImportError:
        hint = f"{install_hint('peers')}, or use --frameworks=jax"
        raise UserError(f"the comparison needs open_clip: {hint}.") from None
    from rankclip_jax.inference.encoder import THREADS

    name = model.name.replace("/", "-") + ("-quickgelu" if model.image.get("activation") == "quick_gelu" else "")
    if name not in open_clip.list_models():
        raise UserError(f"--model={model.name}: open_clip has no model {name}: leave torch out of --frameworks.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    towers, _, preprocess = open_clip.create_model_and_transforms(name, device=device)
    towers.eval()
    tokenize, pool = open_clip.get_tokenizer(name), ThreadPoolExecutor(THREADS)

    def encode_images(paths: Sequence[str]) -> object:
        found = []
        for start in range(0, len(paths), batch):
            images = pool.map(lambda path: preprocess(Image.open(path)), paths[start : start + batch])
            pixels = torch.stack(list(images))
            found.append(towers.encode_image(pixels.to(device), normalize=True).cpu())
        return torch.cat(found).numpy()

    def encode_texts(texts: Sequence[str]) -> object:
        return towers.encode_text(tokenize(list(texts)).to(device), normalize=True).cpu().numpy()

    about = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    return torch.inference_mode()(encode_images), torch.inference_mode()(encode_texts), about
