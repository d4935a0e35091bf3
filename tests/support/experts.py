"""A `pareto-expert` made on the spot from adapter folders, as `train pareto-expert` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from steer_server.settings import Settings
from steer_server.training.pareto_expert import make_pareto_expert

Vectors = Mapping[str, Mapping[str, float]]
"""Preference vector by the folder of its anchor."""


def write_recipe(file: Path, name: str, vectors: Vectors, **more: object) -> Path:
    axes = dict.fromkeys(axis for vector in vectors.values() for axis in vector)
    recipe = {
        "name": name,
        "axes": [{"axis": axis, "description": f"made up, {axis}"} for axis in axes],
        "anchors": [{"folder": folder, "vector": dict(vector)} for folder, vector in vectors.items()],
        **more,
    }
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def write_expert(anchors: Path, out: Path, name: str, settings: Settings, vectors: Vectors) -> Path:
    """Writes `out/name` from folders in `anchors`."""
    out.mkdir(parents=True, exist_ok=True)
    make_pareto_expert(write_recipe(out / f"{name}.yaml", name, vectors), anchors, out, settings)
    return out / name
