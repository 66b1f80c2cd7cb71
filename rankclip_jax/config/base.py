"""The complete config, every key with its meaning. Other configs are small changes to this one.

Durations are strings: "1000 steps" (or "1000"), "3 epochs", "2e6 examples", "5%" (of the run).
Any key may be set on the command line: --config.optimizer.learning_rate=5e-4
"""

from ml_collections import ConfigDict

from rankclip_jax.evals import linear_probe
from rankclip_jax.models.presets import get_preset
from rankclip_jax.objectives import objective_config


def get_config(model: str = "ViT-B/32", objective: str = "rankclip") -> ConfigDict:
    """The default recipe for a model preset, and perhaps an objective: --config=configs/base.py:ViT-B/16,clip."""
    model, _, named = model.partition(",")
    return ConfigDict(
        {
            "seed": 0,
            "init_from": "",  # weights to begin with: a run, an imported folder, or what weights.source reads
            "batch_size": 256,  # global: pairs per step over all devices
            "micro_batches": 1,  # towers take the batch in so many parts: less memory, the same gradients, more time
            "duration": "30 epochs",
            "data": {
                # "emoji", the embedded set, or the format of your own files: one of data/sources.
                "name": "emoji",
                "root": "",  # folder that the locations below are relative to; emoji: "" for the embedded one
                # Where the pairs are: a path, glob or brace range such as "cc3m/{00000..00331}.tar", of the format
                # `name` or of its own, as in "csv:pairs.csv"; a mixture is "0.7 csv:A.csv | 0.3 webdataset:B/*.tar".
                "train": "",
                "val": "",  # evaluated while training
                "test": "",  # evaluated at the end
                "val_pairs": 0,  # without `val`: so many training pairs are held out for it, by a fixed permutation
                "image_key": "",  # column, field or extension of the image; "" finds the usual names
                "caption_key": "",  # the same for the caption
                "second_caption_key": "",  # the same for captions of another origin, which ALIP reads; "" for none
                "second_captions": "",  # a file of them by key, such as `data captions` writes, for any format
                "image_root": "",  # folder that image paths in a table are relative to; "" for the table's own
                "templates": ("a photo of a {}.",),  # captions of images that have only the name of a class
                "index_dir": "",  # where indexes of tars are kept; "" for beside them
                "quarantine": "",  # list of bad records that `data validate` wrote: they are left out
                "styles": "",  # emoji: comma-separated drawing styles; empty for all five
                "train_limit": 0,  # train on so many pairs only, chosen by a fixed permutation; 0 for all
                "augment": "none",  # steps of data/transforms, such as "shift|color_jitter(brightness=0.3)"
                "text_augment": "none",  # the same for captions, such as "eda": data/text_augment
                # What the second views get that some objectives contrast (CyCLIP with augmented=True): "" for
                # another draw of `augment`, and of `text_augment`.
                "view_augment": "",
                "view_text_augment": "",
                "num_threads": 2,  # threads that decode, augment and tokenize
                "prefetch": 4,  # batches made ahead
                "max_bad_fraction": 0.01,  # share of unreadable records at which the run stops
            },
            "tokenizer": {
                # "clip": the 49,408 tokens of OpenAI; "bpe": trained on the captions of this run; "from_weights": the
                # tokenizer of `init_from`.
                "name": "clip",
                "vocab_size": 49_408,  # for "bpe"; "clip" has its own
            },
            "model": get_preset(model),
            # One of objectives.OBJECTIVES with its own options, which its file explains.
            "objective": objective_config(named or objective),
            "optimizer": {
                "learning_rate": 5e-4,
                "schedule": "cosine",  # or "constant"
                "warmup": "5%",
                "b1": 0.9,
                "b2": 0.98,
                "eps": 1e-6,
                "weight_decay": 0.1,  # on matrices and embeddings only
                "clip_norm": 0.0,  # gradients are scaled down to this global norm; 0 for never
                # Parameters that stay as they are: a regular expression for their whole path, such as
                # "towers/image/.*" for the image tower (the start-up card counts them), which then runs as in
                # evaluation. "" for none.
                "freeze": "",
                "ema_decay": 0.0,  # evaluate a moving average of the weights, such as 0.999; 0 for none
            },
            "mesh": {"fsdp": 1},  # devices that share one copy of the parameters
            "log": {
                "every": "20 steps",
                "tensorboard": True,
                "wandb": False,
                "diagnostics": True,  # what each term pulls and whether terms agree, at log steps
            },
            "eval": {
                "every": "10%",
                "train_splits": ("val",),  # splits evaluated while training
                "metrics": ("retrieval", "zero_shot", "rank_consistency", "geometry"),
                "report_split": "",  # split whose images the report shows; "" for the last
                "linear_probe": linear_probe.DEFAULTS,  # of `evaluate --linear_probe`: evals/linear_probe
            },
            "checkpoint": {
                "every": "10%",
                "keep": 3,  # newest ones; the best by `best_metric` stays too
                "best_metric": "val/image_to_text_R@1",  # "" for none
            },
        }
    )
