"""open_clip's training pipeline with the webdataset library and PyTorch's DataLoader, as a reference.

It has open_clip's stages in their order: shards are drawn at random and split over the workers; samples are shuffled
in a buffer of 5,000, decoded to RGB by Pillow, cropped, resized, and batched in the worker. The crop is the same one in
Pillow instead of torchvision's, and float32 values equal those of ToTensor and Normalize. Needs the extra `webdataset`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from rankclip_jax.data.images.augmentations import random_resized_crop
from rankclip_jax.errors import UserError, install_hint

SHUFFLE, SHUFFLE_FIRST = 5000, 1000
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def batches(
    files: Sequence[str], *, tokenize: Callable, dtype: str, batch: int, size: int, workers: int
) -> Iterator[tuple[Any, Any]]:
    """Yield (images, tokens) without end: uint8 [B, S, S, 3] or float32 [B, 3, S, S], and int32 [B, L]."""
    torch, wds = import_both()
    torch.manual_seed(0)
    rng = np.random.default_rng()

    def to_tensor(image):
        rgb = torch.from_numpy(np.array(random_resized_crop(image, rng, size=size)))
        return rgb if dtype == "uint8" else normalise(rgb)

    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def normalise(rgb):
        scaled = rgb.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return scaled.sub_(mean).div_(std)

    pipeline = wds.DataPipeline(
        wds.ResampledShards(list(files)),
        wds.tarfile_to_samples(),
        wds.shuffle(SHUFFLE, initial=SHUFFLE_FIRST),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=to_tensor, text=lambda text: torch.from_numpy(tokenize(text)[0])),
        wds.to_tuple("image", "text"),
        wds.batched(batch, partial=False),
    )
    loader = wds.WebLoader(pipeline, batch_size=None, shuffle=False, num_workers=workers, persistent_workers=True)
    return iter(loader)


def import_both():
    """Return the modules torch and webdataset; a UserError says how to install them."""
    try:
        import torch
        import webdataset
    except ImportError:
        hint = f"{install_hint('webdataset')}, or use --loaders=rankclip_jax"
        raise UserError(f"the webdataset reference needs webdataset and torch: {hint}.") from None
    return torch, webdataset
