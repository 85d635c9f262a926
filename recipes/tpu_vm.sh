#!/bin/bash
# Every worker of a Cloud TPU VM. NOT RUN yet: no TPU was available.
#
#     recipes/tpu_vm.sh NAME ZONE [FLAGS OF vitjax.train ...]     # from the checkout
#
# JAX finds the workers by itself. SHARED is a file system that all of them have mounted
# (Filestore, say), with the prepared data set in SHARED/tensorflow_datasets; the workdir
# is there too. This command creates the TPU first:
#
#     gcloud compute tpus tpu-vm create NAME --zone=ZONE \
#       --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
#
# The same recipe command again resumes from the newest checkpoint.

set -euo pipefail
NAME=$1
ZONE=$2
shift 2
SHARED=${SHARED:-/mnt/shared}
CONFIG=${CONFIG:-configs/vit_s16_i1k.py}

archive=$(mktemp --suffix=.tar)
trap 'rm -f "$archive"' EXIT
git archive --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$NAME:vitjax.tar" --zone="$ZONE" --worker=all

flags=$(printf ' %q' --config "$CONFIG" --workdir "$SHARED/runs/$NAME" "$@")
gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="
  set -e
  mkdir -p vitjax && tar -xf vitjax.tar -C vitjax && cd vitjax
  python3 -m venv .venv
  python=\$(.venv/bin/python -c 'import sys; print(sys.version[:4])')
  .venv/bin/pip install -q -c constraints/python\$python.txt -e '.[tpu]'
  export TFDS_DATA_DIR=$SHARED/tensorflow_datasets
  exec .venv/bin/python -m vitjax.train$flags
"
