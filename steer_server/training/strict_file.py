"""Recipe files in which every key is known: an unknown one is an error, not ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from steer_server.errors import TrainingError


class Strict(BaseModel):
    """A part of a recipe; frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StrictFile(Strict):
    """A whole file."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises: TrainingError naming every key that is wrong."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()))
        except ValidationError as error:
            details = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise TrainingError(f"{path.name}: {details}") from error
        except (OSError, yaml.YAMLError) as error:
            raise TrainingError(f"cannot read {path}: {error}") from error
