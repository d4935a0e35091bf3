#!/usr/bin/env bash
# Makes .venv with the server. EXTRA is cpu or gpu; EXTRAS says what else to install (default: train,dev).
set -euo pipefail
: "${PYTHON:=python3}" "${EXTRA:=cpu}" "${EXTRAS=,train,dev}" "${VENV:=.venv}"

step() { printf '\n== %s\n' "$*"; }

# torch.compile builds the model's CPU kernels with g++; vLLM's CPU kernels need libnuma.
missing=()
command -v g++ >/dev/null || missing+=(g++)
"$PYTHON" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
"$PYTHON" -c 'import sysconfig, pathlib, sys; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' || missing+=(python3-dev)
[ "$EXTRA" != cpu ] || ldconfig -p | grep -q 'libnuma\.so\.1' || missing+=(libnuma1)
if [ ${#missing[@]} -gt 0 ]; then
    step "system packages: ${missing[*]}"
    if [ "$(id -u)" != 0 ]; then
        echo "please install ${missing[*]}, then run this again" >&2
        exit 1
    fi
    apt-get update
    apt-get install -y --no-install-recommends "${missing[@]}"
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

step "steer-server with the extras $EXTRA$EXTRAS"
"$VENV/bin/python" -m pip install --editable ".[$EXTRA$EXTRAS]"

if [ "$EXTRA" = cpu ]; then
    # From PyPI these are CUDA builds, which break transformers beside a CPU torch; text needs none of them.
    step "removing CUDA builds of torchvision, torchaudio and torchcodec"
    "$VENV/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
fi
