"""The training step of transformers' CLIPModel in PyTorch, as a reference. Needs the extra `torch`."""

from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.benchmark.torch_reference import import_torch


def make_step(
    model: ConfigDict, batch: dict[str, np.ndarray], vocabulary: int, dtype: str, compiled: bool
) -> tuple[Callable[[], float], str, int]:
    """Return (training step, device, number of parameters): CLIP's loss, AdamW, float32 parameters.

    bfloat16 means autocast. Images are normalised and in the model's layout before the first step.
    """
    torch = import_torch()
    from transformers import CLIPModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.set_float32_matmul_precision("high" if dtype == "bfloat16" else "highest")
    towers = CLIPModel(clip_config(model, vocabulary)).to(device).train()
    run_towers = torch.compile(towers) if compiled else towers
    optimizer = torch.optim.AdamW(towers.parameters(), lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1)
    pixels = torch.tensor(batch["images"], device=device).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
    tokens = torch.tensor(batch["tokens"], device=device, dtype=torch.long)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = run_towers(input_ids=tokens, pixel_values=pixels, return_loss=True).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    return step, f"1 x {name}", sum(p.numel() for p in towers.parameters())


def clip_config(model: ConfigDict, vocabulary: int):
    """Return transformers' CLIPConfig for a `config.model`; the last id of the vocabulary is the end of text."""
    from transformers import CLIPConfig

    def tower(config: ConfigDict) -> dict:
        return {
            "hidden_size": config.width,
            "intermediate_size": 4 * config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "hidden_act": config.activation,
        }

    image, text = model.image, model.text
    ids = {"vocab_size": vocabulary, "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": 0}
    return CLIPConfig(
        text_config=tower(text) | {"max_position_embeddings": text.context_length} | ids,
        vision_config=tower(image) | {"image_size": image.image_size, "patch_size": image.patch_size},
        projection_dim=model.embed_dim,
    )
