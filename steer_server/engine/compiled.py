"""An operation in C++, compiled when it is first needed, by the compiler that torch.compile needs anyway."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils import cpp_extension
from vllm import envs

logger = logging.getLogger(__name__)


def load_operation(source: Path, flags: Sequence[str] = ()) -> bool:
    """Loads the library of a C++ file, which registers operations, compiling it first unless this file
    was for this version of torch. Libraries are kept in vLLM's cache, beside what torch.compile makes.

    Returns: whether it could; why not is logged.
    """
    version = f"{torch.__version__} {os.uname().machine} {' '.join(flags)}\n"
    digest = hashlib.sha256(version.encode() + source.read_bytes()).hexdigest()[:16]
    library = Path(envs.VLLM_CACHE_ROOT) / "steer_server" / f"{source.stem}-{digest}.so"
    try:
        if not library.exists():
            _compile(source, library, flags)
        torch.ops.load_library(library)
    except (OSError, subprocess.CalledProcessError) as error:
        detail = getattr(error, "stderr", "") or error
        logger.warning("%s cannot be compiled and runs in Python, which is slower: %s", source.name, detail)
        return False
    return True


def _compile(source: Path, library: Path, flags: Sequence[str]) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [
            cpp_extension.get_cxx_compiler(),
            *("-O3", "-std=c++20", "-fopenmp", "-fPIC", "-shared", *flags),
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch._C._GLIBCXX_USE_CXX11_ABI)}",
            *(f"-I{path}" for path in cpp_extension.include_paths()),
            str(source),
            *(f"-L{path}" for path in cpp_extension.library_paths()),
            *("-lc10", "-ltorch_cpu", "-o", str(made)),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        # Whole, or not there: other processes may want it at the same time.
        made.replace(library)
