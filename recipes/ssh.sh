#!/bin/bash
# Several hosts that know nothing of one another, by ssh. NOT RUN on real hosts yet.
#
#     HOSTS="node0 node1" recipes/ssh.sh [FLAGS OF vitjax.train ...]
#
# Every host has the checkout, with its .venv, under DIR, and sees WORKDIR on a shared
# file system. The others must reach the first host on PORT. Ctrl-C stops all of them
# after the same step, with a checkpoint; the same command again resumes from it.

set -euo pipefail
read -r -a hosts <<<"$HOSTS"
DIR=${DIR:-$PWD}
PORT=${PORT:-12345}
CONFIG=${CONFIG:-configs/vit_s16_i1k.py}
WORKDIR=${WORKDIR:-runs/vit_s16_i1k}

flags=$(printf ' %q' --config "$CONFIG" --workdir "$WORKDIR" "$@" \
  --coordinator_address "${hosts[0]}:$PORT" --num_processes "${#hosts[@]}")
pidfile=/tmp/vitjax-$PORT.pid
stop() {
  ssh "${hosts[0]}" "kill -TERM \$(cat $pidfile)" # one process asked is enough
}
trap stop INT TERM

pids=()
for i in "${!hosts[@]}"; do
  # setsid: Ctrl-C here reaches this script only, not the connections.
  setsid ssh "${hosts[$i]}" "cd $(printf %q "$DIR") && echo \$\$ >$pidfile && \
    exec .venv/bin/python -m vitjax.train$flags --process_id $i" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  code=0
  wait "$pid" || code=$?
  while kill -0 "$pid" 2>/dev/null; do # a signal has ended the wait early
    code=0
    wait "$pid" || code=$?
  done
  [ "$code" -le "$status" ] || status=$code
done
exit "$status"
