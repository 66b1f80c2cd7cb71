#!/usr/bin/env bash
# Set up .venv if it is missing, and run the tests. Arguments go to pytest, such as: -k objectives
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh
exec .venv/bin/python -m pytest "$@"
