# shellcheck shell=bash
# Sourced by the launchers. Makes a virtual environment in .venv with this package and the tested versions of others.
# Runs again after a change of requirements*.txt, constraints.txt or pyproject.toml.

PYTHON="${PYTHON:-python3}"
if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "error: Python 3.11 or newer is needed, found $("$PYTHON" --version 2>&1 || true); set PYTHON to a newer Python" >&2
  exit 2
fi

wanted=$(cat requirements.txt requirements-dev.txt constraints.txt pyproject.toml | cksum)
if [ "$(cat .venv/installed 2>/dev/null)" != "$wanted" ]; then
  echo "setting up .venv (once, about 2 minutes and 1.5 GB) ..." >&2
  [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    -e . -r requirements-dev.txt -c constraints.txt
  echo "$wanted" > .venv/installed
fi
