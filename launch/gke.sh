#!/usr/bin/env bash
# Trains on a GKE cluster of TPUs or GPUs, by `gcluster job submit` of Google's Cluster Toolkit (1.103 or newer).
#
#   bash launch/gke.sh [OPTIONS] --config=configs/FILE.py --workdir=/shared/runs/NAME ...
#
#   --cluster=NAME --project=ID --location=ZONE --image=IMAGE   required; the image of launch/Dockerfile.tpu or .gpu
#   --name=NAME      of the job, at most 28 characters (rankclip)
#   --type=TYPE      compute type: v6e-16, v5p-32, a3-highgpu-8g (v6e-16)
#   --slices=N       TPU: slices of one run (1)
#   --nodes=N        GPU: machines of one run
#   --account=NAME   Kubernetes service account, with access to the bucket (rankclip)
#   --restarts=N     after crashes (20); restarts after a preemption (exit code 75) do not count
#   --dry-run        print the command
#
# The first argument that is none of these, and all after it, go to training. Later: gcluster job list|logs|cancel.
set -euo pipefail

name=rankclip cluster="" project="" location="" image="" type=v6e-16 slices=1 nodes="" account=rankclip restarts=20
dry_run=""
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --cluster=*) cluster=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --location=*) location=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --nodes=*) nodes=${1#*=} ;;
    --account=*) account=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage; exit 0 ;;
    *) break ;;
  esac
  shift
done
for option in cluster project location image; do
  [[ ${!option} ]] || { echo "error: --$option=... is missing; see bash launch/gke.sh --help" >&2; exit 2; }
done
((${#name} <= 28)) || { echo "error: --name=$name has more than 28 characters" >&2; exit 2; }
(($#)) || { echo "error: no arguments for python -m rankclip_jax.train" >&2; exit 2; }

machines=(--num-slices "$slices")
[[ $nodes ]] && machines=(--num-nodes "$nodes")
arguments=$(printf ' %q' "$@")
command=(gcluster job submit --name "$name" --cluster "$cluster" --project "$project" --location "$location"
  --image "$image" --compute-type "$type" "${machines[@]}" --service-account "$account"
  --restarts "$restarts" --restart-on-exit-codes 75 --grace-period 2m
  --command "python3 -m rankclip_jax.train$arguments")

if [[ $dry_run ]]; then
  printf 'would run:'; printf ' %q' "${command[@]}"; echo
  exit 0
fi
command -v gcluster >/dev/null || { echo "error: gcluster is not installed; see https://github.com/GoogleCloudPlatform/cluster-toolkit/releases" >&2; exit 2; }
exec "${command[@]}"
