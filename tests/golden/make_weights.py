"""Write tiny models with transformers and open_clip, and store their embeddings.

    python -m tests.golden.make_weights [NAME ...]          rewrites tests/golden/weights/, or some of its folders

It needs torch, transformers and open_clip_torch. The tests that read these folders need none of them.
"""

import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import tokenizers

from rankclip_jax.data.text.tokenizer import train_tokenizer
from rankclip_jax.weights.formats.tokenizer_files import write_tokenizer

FOLDER = Path(__file__).parent / "weights"
CAPTIONS = ("a red heart", "two dogs, running", "the grinning face", "flag of a small country", "it's a cat")
TEXTS = ("a cat", "Two dogs,  running!", "the red face of a small dog")
SIDE, CONTEXT = 16, 12
PIXELS = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5,) * 3,) * 2,
}


def images() -> np.ndarray:
    """uint8 [3, S, S, 3]."""
    return np.random.RandomState(0).randint(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def _inputs(kind: str):
    import torch

    mean, std = PIXELS[kind]
    return torch.tensor((images() / 255 - mean) / std).float().permute(0, 3, 1, 2)


def _stir(model) -> None:
    """Add noise to the weights, so that each of them has an effect, and round them to half precision."""
    import torch

    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = (parameter + 0.2 * torch.randn_like(parameter)).half().float()


def _keep(folder: Path, tokens, image, text, logits) -> None:
    arrays = {"tokens": tokens, "image_embeds": image, "text_embeds": text, "logits": logits}
    np.savez_compressed(folder / "expected.npz", **{name: np.asarray(value) for name, value in arrays.items()})


def _unigram() -> tokenizers.Tokenizer:
    """A Unigram tokenizer like SentencePiece's; the ids of its special tokens are 0, 1 and 2."""
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram())
    unigram.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=60, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    unigram.train_from_iterator(CAPTIONS, trainer)
    return unigram


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
    unigram = _unigram()
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


def open_clip() -> None:
    """open_clip's CLIP: a training checkpoint in half precision, with data-parallel names and an optimizer."""
    import open_clip as library
    import torch

    folder, ours = FOLDER / "open_clip", train_tokenizer(CAPTIONS, 270, CONTEXT)
    vision = {"image_size": SIDE, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8}
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
        image = model.encode_image(_inputs("clip"), normalize=True)
        embeds = model.encode_text(tokens, normalize=True)
    _keep(folder, tokens, image, embeds, model.logit_scale.exp().detach() * image @ embeds.T)


# Models of open_clip with other towers: (embed_dim, image tower, text tower).
TEXT = {"context_length": CONTEXT, "width": 24, "heads": 3, "layers": 2}
ENDS = {"no_causal_mask": True, "pool_type": "last"}
OTHERS = {
    "timm": (
        24,
        {"image_size": 64, "timm_model_name": "vit_base_patch32_siglip_256", "timm_pool": "map", "timm_proj": "none"},
        TEXT
        | ENDS
        | {"proj_bias": True, "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}
        | {"tokenizer_kwargs": {"clean": "canonicalize"}},
    ),
    "clipa": (
        10,
        {"image_size": 16, "patch_size": 8, "width": 16, "layers": 2, "head_width": 8, "no_ln_pre": True}
        | {"pool_type": "avg", "final_ln_after_pool": True, "ls_init_value": 0.1},
        TEXT | ENDS | {"tokenizer_kwargs": {"strip_sep_token": True}},
    ),
    "worldwide": (
        24,
        {"image_size": [24, 16], "patch_size": 8, "width": 16, "layers": 2, "head_width": 8, "pool_type": "avg"},
        TEXT | {"pool_type": "eos", "eos_id": 1, "proj_type": "none", "ls_init_value": 0.1},
    ),
}
PADDED_ROWS = 64  # of the token embedding; the tokenizer has fewer ids


def sample_images(name: str) -> np.ndarray:
    """uint8 [3, H, W, 3], of the size that a model of `OTHERS` reads."""
    size = OTHERS[name][1]["image_size"]
    height, width = (size, size) if isinstance(size, int) else size
    return np.random.RandomState(0).randint(0, 256, (3, height, width, 3), np.uint8)


def _write_unigram(folder: Path, name: str) -> int:
    """Write the tokenizer of a model of `OTHERS` and return its number of ids. CLIPA's has tokens like BERT's."""
    unigram = _unigram()
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"} | (
        {"sep_token": "</s>"} if name == "clipa" else {}
    )
    template = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    unigram.post_processor = template
    unigram.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
    return unigram.get_vocab_size()


def other_open_clip(name: str) -> None:
    """A model of `OTHERS` in half precision, with the tokens of open_clip's own tokenizer."""
    import open_clip as library
    import timm
    import torch
    from safetensors.torch import save_file

    folder = FOLDER / name
    folder.mkdir(parents=True)
    embed_dim, vision, text = OTHERS[name]
    ids = _write_unigram(folder, name)
    text = text | {"vocab_size": PADDED_ROWS if name == "worldwide" else ids, "hf_tokenizer_name": name}
    cfg = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}
    cfg |= {"custom_text": True, "init_logit_bias": -10} if name == "timm" else {}
    create = timm.create_model
    timm.create_model = lambda *args, **kwargs: create(*args, embed_dim=24, depth=2, img_size=64, **kwargs)
    kind = library.model.CustomTextCLIP if name == "timm" else library.model.CLIP
    model = kind(**{key: value for key, value in cfg.items() if key != "custom_text"}).eval()
    timm.create_model = create
    _stir(model)
    save_file({key: x.half().contiguous() for key, x in model.state_dict().items()}, folder / "model.fp16.safetensors")
    preprocess = {"mean": PIXELS["clip"][0], "std": PIXELS["clip"][1], "resize_mode": "squash"}
    content = {"model_cfg": cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content, indent=2) + "\n")
    tokens = library.get_tokenizer(f"local-dir:{folder}")(list(TEXTS))
    mean, std = PIXELS["clip"]
    pixels = torch.tensor((sample_images(name) / 255 - mean) / std).float().permute(0, 3, 1, 2)
    with torch.no_grad():
        image, embeds = model.encode_image(pixels, normalize=True), model.encode_text(tokens, normalize=True)
    _keep(folder, tokens, image, embeds, model.logit_scale.exp().detach() * image @ embeds.T)


def main(names: list[str]) -> None:
    """Write the folders in `names`, or all of them."""
    makers = {"clip": clip, "siglip": siglip, "open_clip": open_clip}
    makers |= {name: functools.partial(other_open_clip, name) for name in OTHERS}
    for name in names or makers:
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        makers[name]()
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{FOLDER}: {size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
