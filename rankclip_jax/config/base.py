"""The complete config: every key with its meaning. Other configs are small changes to this one.

Durations are strings: "1000 steps" (or "1000"), "3 epochs", "2e6 examples", "5%" (of the run).
Any key can be set on the command line: --config.optimizer.learning_rate=5e-4
"""

from ml_collections import ConfigDict

from rankclip_jax.evals import linear_probe
from rankclip_jax.models.presets import get_preset
from rankclip_jax.objectives import objective_config


def get_config(model: str = "ViT-B/32", objective: str = "rankclip") -> ConfigDict:
    """The default recipe for a model preset and an objective.

    On the command line both follow the file, as in --config=configs/base.py:ViT-B/16,clip.
    """
    model, _, named = model.partition(",")
    return ConfigDict(
        {
            "seed": 0,  # of initialisation, data order, augmentation and patch dropout
            # Weights to begin with: a run folder, an imported folder, a weights file or a hub id; "" for random ones.
            "init_from": "",
            "batch_size": 256,  # global: image-text pairs per step over all devices
            "micro_batches": 1,  # number of GradCache micro-batches: less memory, the same gradients, more time
            "duration": "30 epochs",  # length of the run
            "data": {
                # "emoji" (the embedded data set), or the format of your own files: see data/sources.
                "name": "emoji",
                "root": "",  # folder that the locations below are relative to; emoji: "" for the embedded files
                # Locations of training pairs: a path, glob or brace range such as "cc3m/{00000..00331}.tar". A format
                # other than `name` stands before the path, as in "csv:pairs.csv". A mixture is
                # "0.7 csv:A.csv | 0.3 webdataset:B/*.tar".
                "train": "",
                "val": "",  # locations of pairs that are evaluated during training
                "test": "",  # locations of pairs that are evaluated at the end
                # Without `val`: number of training pairs held out for evaluation, chosen by a fixed permutation.
                "val_pairs": 0,
                "image_key": "",  # column, field or extension of the image; "" detects the usual names
                "caption_key": "",  # column, field or extension of the caption; "" detects the usual names
                # Column, field or extension of second captions, which ALIP reads; "" for none.
                "second_caption_key": "",
                # File with second captions by key, as `data captions` writes it, for data of any format; "" for none.
                "second_captions": "",
                "image_root": "",  # folder that image paths in a table are relative to; "" for the table's own folder
                "templates": ("a photo of a {}.",),  # captions for images that have only a class name
                "index_dir": "",  # folder for the indexes of tars; "" stores them beside the tars
                "quarantine": "",  # file with keys of bad records, written by `data validate`; they are left out
                "styles": "",  # emoji: comma-separated drawing styles; "" for all five
                "train_limit": 0,  # number of training pairs, chosen by a fixed permutation; 0 for all
                # Image augmentation: steps of data/images/transforms, such as "shift|color_jitter(brightness=0.3)".
                "augment": "none",
                # Caption augmentation: steps of data/text/augment, such as "eda".
                "text_augment": "none",
                # Augmentation of the second views that some objectives contrast (CyCLIP with augmented=True);
                # "" for another draw of `augment` and of `text_augment`.
                "view_augment": "",
                "view_text_augment": "",
                "num_threads": 2,  # threads that decode, augment and tokenize
                "prefetch": 4,  # batches made ahead
                "max_bad_fraction": 0.01,  # share of unreadable records above which the run stops
            },
            "tokenizer": {
                # "clip": OpenAI's 49,408 tokens; "bpe": trained on the captions of this run; "from_weights": the
                # tokenizer of `init_from`.
                "name": "clip",
                "vocab_size": 49_408,  # number of tokens for "bpe"; the others have their own
            },
            "model": get_preset(model),  # towers; see models/presets.py
            # One of objectives.OBJECTIVES and its options, which are explained in its file.
            "objective": objective_config(named or objective),
            "optimizer": {
                "learning_rate": 5e-4,  # after the warm-up
                "schedule": "cosine",  # "cosine" falls to 0 at the end, "constant" stays
                "warmup": "5%",  # the learning rate rises linearly for this long
                "b1": 0.9,  # Adam: decay of the gradients' average
                "b2": 0.98,  # Adam: decay of the squared gradients' average
                "eps": 1e-6,  # Adam: added to the denominator
                "weight_decay": 0.1,  # on matrices and embeddings only
                "clip_norm": 0.0,  # gradients are scaled down to this global norm; 0 for no clipping
                # Parameters that are not trained: a regular expression that matches a whole path, such as
                # "towers/image/.*" for the image tower. A tower frozen as a whole runs as in evaluation. "" for none.
                "freeze": "",
                "ema_decay": 0.0,  # evaluate a moving average of the weights with this decay, such as 0.999; 0 for none
            },
            "mesh": {"fsdp": 1},  # number of devices that share one copy of the parameters
            "log": {
                "every": "20 steps",
                "tensorboard": True,
                "wandb": False,
                "diagnostics": True,  # gradient share of each term and agreement of the rankings, at log steps
            },
            "eval": {
                "every": "10%",
                "train_splits": ("val",),  # splits evaluated during training
                "metrics": ("retrieval", "zero_shot", "rank_consistency", "geometry"),
                "report_split": "",  # split whose images the report shows; "" for the last one
                "linear_probe": linear_probe.DEFAULTS,  # for `evaluate --linear_probe`; see evals/linear_probe.py
            },
            "checkpoint": {
                "every": "10%",
                "keep": 3,  # number of newest checkpoints to keep; the best one by `best_metric` is kept too
                "best_metric": "val/image_to_text_R@1",  # "" for none
            },
        }
    )
