#!/usr/bin/env bash
# Set up .venv if it is missing, train RankCLIP on the embedded images, evaluate, and write a report.
# About 8 minutes on 2 CPU cores. Arguments go to the trainer, such as: --workdir=runs/mine
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
exec .venv/bin/python -m rankclip_jax.train --config=configs/emoji.py --workdir=runs/quickstart "$@"
