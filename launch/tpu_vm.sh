#!/usr/bin/env bash
# Trains on Cloud TPU VMs: requests them as a queued resource, installs, starts the run on all workers, stops it.
#
#   bash launch/tpu_vm.sh [OPTIONS] create               request TPU VMs; `status` shows when they are ACTIVE
#   bash launch/tpu_vm.sh [OPTIONS] setup                clone the repository and install, on all workers
#   bash launch/tpu_vm.sh [OPTIONS] train --config=configs/FILE.py --workdir=/shared/runs/NAME ...
#   bash launch/tpu_vm.sh [OPTIONS] status|log|stop|delete
#
#   --name=NAME         of the queued resource (rankclip)
#   --zone=ZONE         required; or the variable ZONE
#   --type=TYPE         accelerator type (v5litepod-16)
#   --runtime=VERSION   (v2-alpha-tpuv5-lite; v5p: v2-alpha-tpuv5; v6e: v2-alpha-tpuv6e)
#   --slices=N          several slices as one run (1)
#   --spot              cheaper, and may be preempted
#   --repo=URL          to clone on the workers (the remote `origin` of this checkout)
#   --dry-run           print the commands of gcloud
#
# `train` returns when the run has started; it goes on when you log out. `stop` lets it save a checkpoint first.
set -euo pipefail

name=rankclip zone=${ZONE:-} type=v5litepod-16 runtime=v2-alpha-tpuv5-lite slices=1 spot="" repo="" dry_run=""
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --spot) spot=--spot ;;
    --repo=*) repo=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "error: unknown option $1; see bash launch/tpu_vm.sh --help" >&2; exit 2 ;;
    *) break ;;
  esac
  shift
done
action=${1:-}
[[ $action ]] || { echo "error: say what to do: create, setup, train, status, log, stop or delete" >&2; exit 2; }
[[ $zone ]] || { echo "error: --zone=ZONE is missing, such as us-west4-a" >&2; exit 2; }
[[ $slices =~ ^[1-9][0-9]*$ ]] || { echo "error: --slices=$slices is not a number of slices" >&2; exit 2; }
shift
[[ $dry_run ]] || command -v gcloud >/dev/null || { echo "error: gcloud is not installed; see https://cloud.google.com/sdk" >&2; exit 2; }

run() {
  if [[ $dry_run ]]; then printf 'would run:'; printf ' %q' "$@"; echo; else "$@"; fi
}
resource() { run gcloud compute tpus queued-resources "$@" "--zone=$zone"; }
on_workers() { # WORKERS COMMAND: in the shells of all, or of one, of the VMs of all slices
  resource ssh "$name" "--worker=$1" "--node=$1" "--command=$2"
}

case $action in
  create)
    nodes=("--node-id=$name")
    ((slices > 1)) && nodes=("--node-count=$slices" "--node-prefix=$name")
    resource create "$name" "${nodes[@]}" "--accelerator-type=$type" "--runtime-version=$runtime" ${spot:+"$spot"}
    ;;
  setup)
    [[ $repo ]] || repo=$(git remote get-url origin 2>/dev/null) || { echo "error: give --repo=URL: this checkout has no remote" >&2; exit 2; }
    # Ubuntu 22.04 has Python 3.10: uv brings a newer one.
    on_workers all "(test -d rankclip || git clone --depth=1 $(printf %q "$repo") rankclip) && cd rankclip && git pull --ff-only && (command -v ~/.local/bin/uv || python3 -m pip install --user uv) && ~/.local/bin/uv venv --python 3.11 --allow-existing .venv && ~/.local/bin/uv pip install --python .venv/bin/python -c constraints.txt -e '.[tpu,gs]'"
    ;;
  train)
    (($#)) || { echo "error: no arguments for python -m rankclip_jax.train" >&2; exit 2; }
    arguments=$(printf ' %q' "$@")
    on_workers all "cd rankclip && { setsid nohup bash launch/supervise.sh .venv/bin/python -m rankclip_jax.train$arguments > train.log 2>&1 < /dev/null & echo \$! > train.pid; }"
    ;;
  log) on_workers 0 "tail -n 40 -F rankclip/train.log" ;;
  stop) on_workers all "kill -TERM \$(cat rankclip/train.pid)" ;; # supervise.sh passes it on
  status) resource describe "$name" "--format=value(state.state)" ;;
  delete) resource delete "$name" --force ;;
  *) echo "error: $action is none of create, setup, train, status, log, stop, delete" >&2; exit 2 ;;
esac
