"""The complete config, with the meaning of every key. Other configs are small changes to this one.

Durations are strings: "1000 steps" (or "1000"), "3 epochs", "2e6 examples", "5%" (of the run).
Every key can be set on the command line: --config.optimizer.learning_rate=5e-4
"""

from ml_collections import ConfigDict

from rankclip_jax.evals import linear_probe
from rankclip_jax.models.presets import get_preset
from rankclip_jax.objectives import objective_config


def get_config(model: str = "ViT-B/32", objective: str = "rankclip") -> ConfigDict:
    """The default recipe for a model preset and an objective.

    On the command line, write both after the file: --config=configs/base.py:ViT-B/16,clip.
    """
    model, _, named = model.partition(",")
    return ConfigDict(
        {
            "seed": 0,  # for initialisation, data order, augmentation and patch dropout
            # Weights to begin with: a run folder, an imported folder, a weights file, a hub id; "" for random weights.
            "init_from": "",
            "batch_size": 256,  # global: image-text pairs per step on all devices together
            "micro_batches": 1,  # number of GradCache micro-batches: a larger number takes less memory and more time
            "duration": "30 epochs",  # length of the run
            "data": {
                # "emoji" (the embedded data set), or the format of your own files: see docs/data.md.
                "name": "emoji",
                "root": "",  # folder that the locations below are relative to; emoji: "" for the embedded files
                # Locations of training pairs: a path, a glob, or a range such as "cc3m/{00000..00331}.tar". For another
                # format than `name`, put it before the path: "csv:pairs.csv". A mixture with weights:
                # "0.7 csv:A.csv | 0.3 webdataset:B/*.tar".
                "train": "",
                "val": "",  # locations of pairs for evaluation during training
                "test": "",  # locations of pairs for evaluation at the end
                # Without `val`: number of training pairs held out for evaluation, chosen by a fixed permutation.
                "val_pairs": 0,
                "image_key": "",  # column, field or extension of the image; "" detects the usual names
                "caption_key": "",  # column, field or extension of the caption; "" detects the usual names
                # Column, field or extension of second captions, which ALIP reads; "" for none.
                "second_caption_key": "",
                # Several captions in one text: "lines" (each line is one), "list" (the text is a list); "": it is one.
                "caption_split": "",
                # File of second captions, written by `data captions`, for data of any format; "" for none.
                "second_captions": "",
                "image_root": "",  # folder that image paths in a table are relative to; "" for the table's own folder
                "templates": ("a photo of a {}.",),  # captions of images that have only a class name
                "index_dir": "",  # folder for the indexes of tars; "" stores them beside the tars
                "quarantine": "",  # file of pairs to leave out, written by `data validate`; "" for none
                "styles": "",  # emoji: comma-separated drawing styles; "" for all five
                "train_limit": 0,  # number of training pairs, chosen by a fixed permutation; 0 for all
                "augment": "none",  # of images, such as "shift|color_jitter(brightness=0.3)": see docs/images.md
                "text_augment": "none",  # of captions: "none" or "eda"
                # Augmentation of second views, which some objectives need (CyCLIP with augmented=True);
                # "" for another draw of `augment` and `text_augment`.
                "view_augment": "",
                "view_text_augment": "",
                "num_threads": 2,  # threads that decode, augment and tokenize
                "prefetch": 4,  # number of batches made ahead
                "max_bad_fraction": 0.01,  # fraction of unreadable records above which the run stops
            },
            "tokenizer": {
                # "clip": OpenAI's 49,408 tokens; "bpe": trained on the captions of this run; "from_weights": the
                # tokenizer of `init_from`.
                "name": "clip",
                "vocab_size": 49_408,  # number of tokens for "bpe"; other tokenizers ignore it
            },
            "model": get_preset(model),  # towers: see docs/towers.md and models/presets.py
            # Name and options of an objective: see docs/objectives.md and its file in objectives/.
            "objective": objective_config(named or objective),
            "optimizer": {
                # "adamw", "lion", "adafactor" or "muon": see training/update_rules.py and docs/towers.md.
                "name": "adamw",
                "learning_rate": 5e-4,  # after the warm-up
                "schedule": "cosine",  # "cosine" falls to 0 at the end, "constant" does not
                "warmup": "5%",  # duration of the linear rise of the learning rate
                "b1": 0.9,  # decay of the gradients' average
                "b2": 0.98,  # adamw, muon: decay of the squared gradients' average; lion: of the moment
                "eps": 1e-6,  # adamw, muon: added to the denominator
                "muon_beta": 0.95,  # muon: decay of the gradients' average of matrices
                "moments_dtype": "float32",  # of the gradients' average: "float32" or "bfloat16"
                "weight_decay": 0.1,  # on matrices and embeddings only
                "clip_norm": 0.0,  # gradients are scaled down to this global norm; 0 for no clipping
                # Parameters that are not trained: a regular expression that matches whole paths; "" for none.
                # "towers/image/.*" locks the image tower, which then runs as in evaluation.
                "freeze": "",
                "ema_decay": 0.0,  # decay of a moving average of the weights, which is then evaluated; 0 for no average
            },
            # A step whose loss or gradient is not finite changes nothing: see docs/runs.md.
            "skip": {
                "stop_after": 10,  # number of skipped steps in a row after which the run stops
                # Steps are also skipped if the norm of their gradient is above this multiple of the median of the last
                # 100 steps, such as 10.0; 0 for no limit.
                "median_factor": 0.0,
            },
            # After SIGTERM or Ctrl-C: seconds in which the current step must end, so that a checkpoint can be saved.
            "grace_seconds": 25.0,
            # Seconds without progress after which a run ends and reports what each process does; 0 for no limit.
            "stuck_seconds": 1800.0,
            # Whether compiled programs are kept for later runs, in ~/.cache/rankclip_jax/compiled; the variable
            # JAX_COMPILATION_CACHE_DIR names another folder.
            "compilation_cache": True,
            # Several processes: "auto" finds them by the variables RANKCLIP_*, or as JAX does (TPU, SLURM, GKE, MPI);
            # "env" by the variables only; "single" for none.
            "processes": "auto",
            "allow_cpu": False,  # whether to train on the CPU if JAX does not find the GPUs or TPUs of the machine
            # Devices: `replica` copies of the parameters, each in `fsdp` parts. The product is the number of devices;
            # one of the two may be -1, for the rest. A batch is split over all devices in any case.
            "mesh": {"replica": -1, "fsdp": 1},
            "log": {
                "every": "20 steps",  # between two lines of metrics.jsonl
                "tensorboard": True,  # also log to tensorboard/ in the run folder
                "wandb": False,  # also log to Weights & Biases (pip install -e '.[wandb]')
                "diagnostics": True,  # log the gradient share of each term and the agreement of the rankings
            },
            "eval": {
                "every": "10%",  # between two evaluations during training
                "train_splits": ("val",),  # splits evaluated during training
                "metrics": ("retrieval", "zero_shot", "rank_consistency", "geometry"),  # see evals/registry.py
                "report_split": "",  # split whose images the report shows; "" for the last one
                "linear_probe": linear_probe.DEFAULTS,  # for `evaluate --linear_probe`: see evals/linear_probe.py
            },
            "checkpoint": {
                "every": "10%",  # between two checkpoints
                "keep": 3,  # number of newest checkpoints to keep; the best one by `best_metric` is kept too
                "best_metric": "val/image_to_text_R@1",  # decides the best checkpoint, larger is better; "" for none
            },
        }
    )
