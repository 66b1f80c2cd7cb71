#!/usr/bin/env bash
# Runs a command again until it ends well. Training saves a checkpoint and exits with 75 when it is told to stop
# (SIGTERM), and a restarted run continues from its newest checkpoint.
#
#   bash launch/supervise.sh [OPTIONS] COMMAND...
#
#   --max-crashes=N     give up after N crashes in a row (10); a run of --healthy seconds begins a new row
#   --healthy=SECONDS   such a run made progress (600)
#   --first-wait=S      seconds before the first restart (5); doubled after each crash, up to
#   --longest-wait=S    (300)
#   --dry-run           print what would be done
#
# Exit code of the command: 0 ends; 75 restarts; 2 (a mistake that only the user can fix), 126 and 127 (no such command)
# and 130 (Ctrl-C) stop; all others are crashes. SIGTERM and SIGINT are passed on, and end the restarts.
set -uo pipefail

max_crashes=10 healthy=600 first_wait=5 longest_wait=300 dry_run=""
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"; }
while (($#)); do
  case $1 in
    --max-crashes=*) max_crashes=${1#*=} ;;
    --healthy=*) healthy=${1#*=} ;;
    --first-wait=*) first_wait=${1#*=} ;;
    --longest-wait=*) longest_wait=${1#*=} ;;
    --dry-run) dry_run=yes ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    -*) echo "error: unknown option $1; see bash launch/supervise.sh --help" >&2; exit 2 ;;
    *) break ;;
  esac
  shift
done
for number in "$max_crashes" "$healthy" "$first_wait" "$longest_wait"; do
  [[ $number =~ ^[0-9]+$ ]] || { echo "error: $number is not a whole number" >&2; exit 2; }
done
(($#)) || { echo "error: no command; see bash launch/supervise.sh --help" >&2; exit 2; }

say() { echo "supervise: $*" >&2; }

if [[ $dry_run ]]; then
  printf 'would run:'; printf ' %q' "$@"; echo
  echo "would restart it after exit code 75, and after up to $max_crashes crashes in a row," \
    "with waits of $first_wait to $longest_wait s"
  exit 0
fi

stopping="" child=""
forward() { # SIGNAL
  stopping=$1
  say "SIG$1: passed on; no restart will follow"
  [[ $child ]] && kill "-$1" "$child" 2>/dev/null
}
trap 'forward TERM' TERM
trap 'forward INT' INT

wait_for() { # PID: sets `code`. A signal interrupts `wait`: then wait again, and ask once more for the final status.
  while wait "$1"; code=$?; kill -0 "$1" 2>/dev/null; do :; done
  local last=0
  wait "$1" 2>/dev/null || last=$?
  ((last == 127)) || code=$last
}

# Job control gives the command a process group of its own: Ctrl-C then reaches it once, by `forward`, and not ignored.
set -m
crashes=0 pause=$first_wait code=0
while true; do
  began=$SECONDS
  [[ $stopping ]] && exit 75
  "$@" </dev/null &
  child=$!
  [[ $stopping ]] && kill "-$stopping" "$child" 2>/dev/null # the signal came before `child` was known
  wait_for "$child"
  child=""
  [[ $stopping ]] && exit "$code"
  case $code in
    0) exit 0 ;;
    2 | 126 | 127 | 130) say "exit code $code: not restarted"; exit "$code" ;;
    75) say "exit code 75: restart in $first_wait s"; crashes=0 pause=$first_wait; waiting=$first_wait ;;
    *)
      ((SECONDS - began >= healthy)) && crashes=0 pause=$first_wait
      crashes=$((crashes + 1))
      if ((crashes > max_crashes)); then
        say "exit code $code: crash $crashes in a row, given up"
        exit "$code"
      fi
      say "exit code $code: crash $crashes of at most $max_crashes in a row, restart in $pause s"
      waiting=$pause
      pause=$((pause * 2 > longest_wait ? longest_wait : pause * 2))
      ;;
  esac
  sleep "$waiting" &
  child=$!
  [[ $stopping ]] && kill "$child" 2>/dev/null
  status=$code
  wait_for "$child"
  child=""
  [[ $stopping ]] && exit "$status"
done
