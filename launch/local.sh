#!/usr/bin/env bash
# Starts N processes of one training run on this machine: to try a run of several processes, or with one GPU for each.
#
#   bash launch/local.sh [OPTIONS] N COMMAND...
#
#   --port=PORT      of process 0; a free one if not given
#   --grace=SECONDS  after one process failed, time for the others to end by themselves (20); then they are killed
#   --dry-run        print what would be started
#
# Each line of output begins with the index of its process. SIGTERM and SIGINT are passed on to all processes. The exit
# code is 0 if all end well, otherwise that of the process that failed first. Where there are N GPUs, and
# CUDA_VISIBLE_DEVICES is not set, process I gets GPU I.
set -uo pipefail

port="" grace=20 dry_run=""
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
while (($#)); do
  case $1 in
    --port=*) port=${1#*=} ;;
    --grace=*) grace=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage; exit 0 ;;
    -*) echo "error: unknown option $1; see bash launch/local.sh --help" >&2; exit 2 ;;
    *) break ;;
  esac
  shift
done
count=${1:-}
[[ $count =~ ^[1-9][0-9]*$ ]] || { echo "error: N=${count:-(nothing)} is not a number of processes; see --help" >&2; exit 2; }
[[ $grace =~ ^[0-9]+$ && $port =~ ^[0-9]*$ ]] || { echo "error: --grace and --port are whole numbers" >&2; exit 2; }
shift
(($#)) || { echo "error: no command; see bash launch/local.sh --help" >&2; exit 2; }

is_busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
while [[ ! $port ]]; do
  port=$((20000 + RANDOM % 10000))
  if is_busy "$port"; then port=""; fi
done

variables() { # INDEX: sets `env`
  env=("RANKCLIP_COORDINATOR=127.0.0.1:$port" "RANKCLIP_PROCESS_COUNT=$count" "RANKCLIP_PROCESS_ID=$1")
  if [[ -e /dev/nvidia$((count - 1)) && -z ${CUDA_VISIBLE_DEVICES+set} ]]; then env+=("CUDA_VISIBLE_DEVICES=$1"); fi
}

if [[ $dry_run ]]; then
  for ((i = 0; i < count; i++)); do
    variables "$i"
    printf 'would start: env'; printf ' %q' "${env[@]}" "$@"; echo
  done
  exit 0
fi

prefix() { # INDEX: reads to the end also when a signal is sent to all
  trap '' INT TERM
  exec sed -u "s/^/[$1] /"
}

# Job control gives each process a group of its own, which `end_all` kills with all that the process has started.
set -m
pids=() printers=() codes=() alive=$count
for ((i = 0; i < count; i++)); do
  variables "$i"
  exec {out}> >(prefix "$i")
  printers+=("$!")
  exec {err}> >(prefix "$i" >&2)
  printers+=("$!")
  env "${env[@]}" "$@" </dev/null >&"$out" 2>&"$err" {out}>&- {err}>&- &
  pids+=("$!") codes+=("")
  exec {out}>&- {err}>&-
done

# shellcheck disable=SC2317,SC2329  # called by traps
forward() { # SIGNAL
  local i
  for ((i = 0; i < count; i++)); do [[ ${codes[i]} ]] || kill "-$1" "${pids[i]}" 2>/dev/null; done
}
end_all() {
  local pid
  for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2>/dev/null; done
}
trap 'forward TERM' TERM
trap 'forward INT' INT
trap end_all EXIT

collect() { # sets the codes of the processes that have ended, and `first`: the largest code (a signal's) counts
  local i code
  for ((i = 0; i < count; i++)); do
    if [[ ${codes[i]} ]] || kill -0 "${pids[i]}" 2>/dev/null; then continue; fi
    { wait "${pids[i]}"; } 2>/dev/null # without the message "Killed"
    code=$?
    codes[i]=$code alive=$((alive - 1))
    ((code)) && echo "local: process $i of $count ended with exit code $code" >&2
    ((failed == 0 && code > first)) && first=$code
  done
}

first=0 failed=0 failed_at=0
while ((alive)); do
  collect
  if ((first && !failed)); then failed=1 failed_at=$SECONDS; fi
  if ((failed && alive && SECONDS - failed_at >= grace)); then
    echo "local: $alive processes still ran $grace s later: killed" >&2
    end_all
  fi
  ((alive)) && read -rt 0.1 <> <(:) # a wait that signals interrupt, unlike `sleep`
done
trap - EXIT
for pid in "${printers[@]}"; do wait "$pid" 2>/dev/null; done
exit "$first"
