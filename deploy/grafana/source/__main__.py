"""Writes the dashboards' JSON: `python -m deploy.grafana.source`."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.source.boards import BOARDS

FOLDER = Path(__file__).parents[1] / "dashboards"


def documents() -> dict[Path, str]:
    """File -> what belongs in it."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {FOLDER / f"{name}.json": encoder.encode(make().build()) + "\n" for name, make in BOARDS.items()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, text in documents().items():
        path.write_text(text)
