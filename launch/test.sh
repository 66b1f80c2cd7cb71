#!/usr/bin/env bash
# Sets up .venv if it is missing, then runs the linters and the tests. Arguments go to pytest, for example: -k objectives
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
.venv/bin/ruff check --quiet .
.venv/bin/ruff format --check --quiet .
.venv/bin/lint-imports
exec .venv/bin/python -m pytest "$@"
