#!/usr/bin/env bash
# Makes .venv with the server and everything that tests and training need. EXTRA is cpu or gpu.
set -euo pipefail
: "${PYTHON:=python3}" "${EXTRA:=cpu}"
VENV=${VENV:-.venv}

step() { printf '\n== %s\n' "$*"; }

# vLLM builds its CPU kernels' glue at run time; the venv module is a package of its own on Debian.
if ! command -v g++ >/dev/null || ! "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
    step "system packages: a C++ compiler and python3-venv"
    if [ "$(id -u)" != 0 ]; then
        echo "please install g++ and python3-venv, then run this again" >&2
        exit 1
    fi
    apt-get update && apt-get install -y --no-install-recommends g++ python3-dev python3-venv
fi

step "virtual environment in $VENV"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
"$VENV/bin/python" -m pip install --quiet --upgrade "pip>=25"

if [ "$EXTRA" = cpu ]; then
    # The plain requirement finds a local wheel of the CPU build where one is offered. Elsewhere uv, which
    # knows PyTorch's own index of CPU builds, fetches it.
    step "torch for CPU"
    "$VENV/bin/python" -m pip install "torch==2.13.0+cpu" || {
        "$VENV/bin/python" -m pip install --quiet uv
        "$VENV/bin/uv" pip install --python "$VENV/bin/python" --torch-backend cpu "torch==2.13.0"
    }
fi

step "steer-server with the extras $EXTRA, train and dev"
"$VENV/bin/python" -m pip install --editable ".[$EXTRA,train,dev]"

if [ "$EXTRA" = cpu ]; then
    # From PyPI these are CUDA builds, which break transformers beside a CPU torch; text needs none of them.
    step "removing CUDA builds of torchvision, torchaudio and torchcodec"
    "$VENV/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
fi
