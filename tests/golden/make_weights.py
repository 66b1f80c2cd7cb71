"""Write tiny models with transformers and open_clip, and store their embeddings.

    python -m tests.golden.make_weights          rewrites tests/golden/weights/

It needs torch, transformers and open_clip_torch. The tests that read these folders need none of them.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import tokenizers

from rankclip_jax.data.text.tokenizer import train_tokenizer
from rankclip_jax.weights.formats.tokenizer_files import write_tokenizer

FOLDER = Path(__file__).parent / "weights"
CAPTIONS = ("a red heart", "two dogs, running", "the grinning face", "flag of a small country", "it's a cat")
TEXTS = ("a cat", "Two dogs,  running!", "the red face of a small dog")
SIDE, CONTEXT = 16, 12
WIDE = (16, 24)  # height, width
PIXELS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5,) * 3,) * 2,
}


def images(height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """uint8 [3, height, width, 3]."""
    return np.random.RandomState(0).randint(0, 256, (3, height, width, 3), np.uint8)


def _inputs(kind: str, *size: int):
    import torch

    mean, std = PIXELS[kind]
    return torch.tensor((images(*size) / 255 - mean) / std).float().permute(0, 3, 1, 2)


def _stir(model) -> None:
    """Add noise to the weights, so that each of them has an effect, and round them to half precision."""
    import torch

    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = (parameter + 0.2 * torch.randn_like(parameter)).half().float()


def _keep(folder: Path, tokens, image, text, logits) -> None:
    arrays = {"tokens": tokens, "image_embeds": image, "text_embeds": text, "logits": logits}
    np.savez_compressed(folder / "expected.npz", **{name: np.asarray(value) for name, value in arrays.items()})


def clip() -> None:
    """CLIPModel: sharded safetensors, its own tokenizer."""
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    folder, ours = FOLDER / "clip", train_tokenizer(CAPTIONS, 270, CONTEXT)
    common = {"hidden_act": "gelu", "projection_dim": 10}
    text = {"vocab_size": ours.vocab_size, "hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 2}
    text |= {"num_hidden_layers": 2, "max_position_embeddings": CONTEXT}
    text |= {"bos_token_id": ours.sot_id, "eos_token_id": ours.eot_id, "pad_token_id": ours.eot_id}
    vision = {"hidden_size": 24, "intermediate_size": 96, "num_attention_heads": 3, "num_hidden_layers": 1}
    vision |= {"image_size": SIDE, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text | common, vision_config=vision | common, projection_dim=10)).eval()
    _stir(model)
    model.half().save_pretrained(folder, max_shard_size="20KB")
    write_tokenizer(ours, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt")
    with torch.no_grad():
        out = model.float()(input_ids=tokens.input_ids, pixel_values=_inputs("clip"))
    _keep(folder, tokens.input_ids, out.image_embeds, out.text_embeds, out.logits_per_image)


def siglip() -> None:
    """SiglipModel: one safetensors file in bfloat16, a Unigram tokenizer like SentencePiece's."""
    import torch
    from transformers import SiglipConfig, SiglipModel

    folder = FOLDER / "siglip"
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram())
    unigram.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    unigram.train_from_iterator(CAPTIONS, trainer)
    text = {"vocab_size": unigram.get_vocab_size(), "hidden_size": 24, "intermediate_size": 40}
    text |= {"num_attention_heads": 3, "num_hidden_layers": 1, "max_position_embeddings": CONTEXT}
    text |= {"bos_token_id": None, "eos_token_id": 1, "pad_token_id": 1}
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3, "num_hidden_layers": 1}
    vision |= {"image_size": SIDE, "patch_size": 8}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    _stir(model)
    model.bfloat16().save_pretrained(folder)
    unigram.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    cleaned = ("a cat", "two dogs running", "the red face of a small dog")  # TEXTS as SiglipTokenizer cleans them
    ids = [unigram.encode(one, add_special_tokens=False).ids[: CONTEXT - 1] for one in cleaned]
    tokens = torch.tensor([row + [1] * (CONTEXT - len(row)) for row in ids])
    with torch.no_grad():
        out = model.float()(input_ids=tokens, pixel_values=_inputs("half"))
    _keep(folder, tokens, out.image_embeds, out.text_embeds, out.logits_per_image)


def open_clip(name: str = "open_clip", size: tuple[int, ...] = (SIDE, SIDE)) -> None:
    """open_clip's CLIP: a training checkpoint in half precision, with data-parallel names and an optimizer."""
    import open_clip as library
    import torch

    folder, ours = FOLDER / name, train_tokenizer(CAPTIONS, 270, CONTEXT)
    side = SIDE if size == (SIDE, SIDE) else list(size)
    vision = {"image_size": side, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8}
    text = {"context_length": CONTEXT, "vocab_size": ours.vocab_size, "width": 24, "heads": 3, "layers": 1}
    cfg = {"embed_dim": 10, "vision_cfg": vision, "text_cfg": text}
    model = library.model.CLIP(**cfg, quick_gelu=True).eval()
    _stir(model)
    folder.mkdir(parents=True)
    state = {f"module.{name}": tensor.half() for name, tensor in model.state_dict().items()}
    moments = torch.optim.AdamW(model.parameters()).state_dict()
    checkpoint = {"epoch": 3, "name": "tiny", "state_dict": state, "optimizer": moments}
    torch.save(checkpoint, folder / "open_clip_pytorch_model.bin")
    cfg = cfg | {"quick_gelu": True, "text_cfg": text | {"hf_tokenizer_name": "open_clip"}}
    preprocess = {"mean": PIXELS["clip"][0], "std": PIXELS["clip"][1], "interpolation": "bicubic"}
    content = {"model_cfg": cfg, "preprocess_cfg": preprocess | {"resize_mode": "shortest"}}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n")
    write_tokenizer(ours, folder)
    tokens = torch.tensor(ours(TEXTS)).long()
    with torch.no_grad():
        image = model.encode_image(_inputs("clip", *size), normalize=True)
        embeds = model.encode_text(tokens, normalize=True)
    _keep(folder, tokens, image, embeds, model.logit_scale.exp().detach() * image @ embeds.T)


def wide() -> None:
    """The same for images that are not square, which the config lists as [height, width]."""
    open_clip("wide", WIDE)


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    for make in (clip, siglip, open_clip, wide):
        make()
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{FOLDER}: {size:,} bytes")
