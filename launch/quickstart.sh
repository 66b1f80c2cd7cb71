#!/usr/bin/env bash
# Sets up .venv if it is missing, trains RankCLIP on the embedded images, evaluates it, and writes a report.
# Takes about 8 minutes on 2 CPU cores. Arguments go to the trainer, for example: --workdir=runs/mine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
exec .venv/bin/python -m rankclip_jax.train --config=configs/emoji.py --workdir=runs/quickstart "$@"
