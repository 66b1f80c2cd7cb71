"""Results of transformers' CLIPModel and SiglipModel for the weights and inputs of `towers`. It needs torch.

python -m tests.golden.make_towers          rewrites tests/golden/towers.json and positions.json
"""

import json
import math
from collections.abc import Iterator

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from tests.golden import positions, towers

ACT = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
NORM, LINEAR = {"weight": "scale", "bias": "bias"}, {"weight": "kernel", "bias": "bias"}
Entry = tuple[str, str, np.ndarray]  # key in PyTorch, path here, values in PyTorch's layout


def torch_model(model, siglip: bool):
    """The other library's model with the same sizes."""

    def section(side, **more):
        return {
            "hidden_size": side.width,
            "intermediate_size": side.mlp_width or 4 * side.width,
            "num_hidden_layers": side.layers,
            "num_attention_heads": side.heads,
            "hidden_act": ACT[side.activation],
            "layer_norm_eps": side.ln_eps,
            "attn_implementation": "eager",
            **more,
        }

    vision = section(model.image, image_size=model.image.image_size, patch_size=model.image.patch_size)
    ids = {"vocab_size": towers.VOCAB, "eos_token_id": towers.EOT, "bos_token_id": 1, "pad_token_id": 0}
    text = section(model.text, max_position_embeddings=model.text.context_length, **ids)
    if siglip:
        return SiglipModel(SiglipConfig(text_config=text | {"projection_size": model.embed_dim}, vision_config=vision))
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=model.embed_dim))


def entries(p: dict[str, np.ndarray], siglip: bool) -> Iterator[Entry]:
    """Every tensor of the other model, from our leaves by path."""

    def layer(key: str, path: str, names: dict[str, str], index: int | None = None) -> Iterator[Entry]:
        for theirs, ours in names.items():
            values = p[f"{path}/{ours}"] if index is None else p[f"{path}/{ours}"][index]
            yield f"{key}.{theirs}", f"{path}/{ours}", values.T

    def fused(keys: list[str], path: str, index: int | None = None) -> Iterator[Entry]:
        """One layer here, several layers there."""
        for theirs, ours in LINEAR.items():
            values = p[f"{path}/{ours}"] if index is None else p[f"{path}/{ours}"][index]
            for key, part in zip(keys, np.split(values, len(keys), axis=-1), strict=True):
                yield f"{key}.{theirs}", f"{path}/{ours}", part.T

    def blocks(model: str, tower: str) -> Iterator[Entry]:
        path = f"{tower}/transformer/blocks"
        for i in range(len(p[f"{path}/ln_1/scale"])):
            key = f"{model}.encoder.layers.{i}"
            yield from fused([f"{key}.self_attn.{name}_proj" for name in "qkv"], f"{path}/attn/in_proj", i)
            yield from layer(f"{key}.self_attn.out_proj", f"{path}/attn/out_proj", LINEAR, i)
            for theirs, ours in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2")):
                yield from layer(f"{key}.{theirs}", f"{path}/{ours}", NORM, i)
            for theirs, ours in (("mlp.fc1", "c_fc"), ("mlp.fc2", "c_proj")):
                yield from layer(f"{key}.{theirs}", f"{path}/{ours}", LINEAR, i)

    def plain(key: str, path: str, *, transposed: bool = False) -> Entry:
        return key, path, p[path].T if transposed else p[path]

    vision, text = "vision_model", "text_model"
    yield from blocks(vision, "image")
    yield from blocks(text, "text")
    yield plain(f"{text}.embeddings.token_embedding.weight", "text/token_embedding")
    yield plain(f"{text}.embeddings.position_embedding.weight", "text/positional_embedding")
    yield plain(f"{vision}.embeddings.position_embedding.weight", "image/positional_embedding")
    patches = p["image/conv1/kernel"].transpose(3, 2, 0, 1)
    yield f"{vision}.embeddings.patch_embedding.weight", "image/conv1/kernel", patches
    yield from layer(f"{vision}.post_layernorm", "image/ln_post", NORM)
    yield from layer(f"{text}.final_layer_norm", "text/ln_final", NORM)
    if not siglip:
        yield plain(f"{vision}.embeddings.class_embedding", "image/class_embedding")
        yield from layer(f"{vision}.pre_layrnorm", "image/ln_pre", NORM)
        yield plain("visual_projection.weight", "image/proj", transposed=True)
        yield plain("text_projection.weight", "text/text_projection", transposed=True)
        return
    yield plain(f"{vision}.embeddings.patch_embedding.bias", "image/conv1/bias")
    yield plain(f"{text}.head.weight", "text/text_projection", transposed=True)
    yield plain(f"{text}.head.bias", "text/text_projection_bias")
    head, ours = f"{vision}.head", "image/map_head"
    yield f"{head}.probe", f"{ours}/probe", p[f"{ours}/probe"][None, None]
    for theirs, here, axis in (("weight", "kernel", 1), ("bias", "bias", 0)):
        both = [p[f"{ours}/{name}/{here}"] for name in ("q_proj", "kv_proj")]
        yield f"{head}.attention.in_proj_{theirs}", f"{ours}/in_proj/{here}", np.concatenate(both, axis).T
    yield from layer(f"{head}.attention.out_proj", f"{ours}/out_proj", LINEAR)
    yield from layer(f"{head}.layernorm", f"{ours}/ln", NORM)
    yield from layer(f"{head}.mlp.fc1", f"{ours}/c_fc", LINEAR)
    yield from layer(f"{head}.mlp.fc2", f"{ours}/c_proj", LINEAR)


def outputs(case: str) -> dict:
    """Unit-norm embeddings, and for each leaf the gradient norm of the sum of their products with `directions`."""
    siglip, config = case == "siglip", towers.config(case)
    model = torch_model(config, siglip).eval()
    listed = list(entries(towers.flat(towers.params(case)), siglip))
    state = {key: torch.tensor(np.ascontiguousarray(values)) for key, _, values in listed}
    scalars = {"logit_scale", "logit_bias"} & set(model.state_dict())
    state |= {name: torch.zeros_like(model.state_dict()[name]) for name in scalars}
    model.load_state_dict(state, strict=True)
    given = towers.inputs(case)
    pixels = torch.tensor(given["images"]).float() / 255
    pixels = (pixels - torch.tensor(config.image.pixel_mean)) / torch.tensor(config.image.pixel_std)
    image = model.get_image_features(pixel_values=pixels.permute(0, 3, 1, 2)).pooler_output
    text = model.get_text_features(input_ids=torch.tensor(given["tokens"]).long()).pooler_output
    embeds = {"image_embeds": image, "text_embeds": text}
    embeds = {name: rows / rows.norm(dim=-1, keepdim=True) for name, rows in embeds.items()}
    sum((rows * torch.tensor(towers.directions(case)[name])).sum() for name, rows in embeds.items()).backward()
    named, squares = dict(model.named_parameters()), {}
    for key, leaf, _ in listed:
        squares[leaf] = squares.get(leaf, 0.0) + float((named[key].grad.double() ** 2).sum())
    gradients = {leaf: float(f"{math.sqrt(total):.7g}") for leaf, total in sorted(squares.items())}
    rounded = {name: [[round(x, 8) for x in row] for row in rows.tolist()] for name, rows in embeds.items()}
    return rounded | {"gradient_norms": gradients}


def resized(grid: np.ndarray, size: tuple[int, int]) -> list:
    x = torch.tensor(grid).permute(2, 0, 1)[None]
    x = torch.nn.functional.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False)
    return [round(value, 7) for value in x[0].permute(1, 2, 0).flatten().tolist()]


if __name__ == "__main__":
    towers.path().write_text(json.dumps({case: outputs(case) for case in towers.CASES}, indent=0) + "\n")
    found = {name: resized(positions.grid(old), new) for name, (old, new) in positions.CASES.items()}
    positions.path().write_text(json.dumps(found) + "\n")
