"""The operator's policy: limits on weights and strength, floors under values, denied adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from steer_server.errors import ConfigError, DeniedError, PolicyError
from steer_server.steering.denoising import Denoising
from steer_server.steering.spec import SteeringSpec


class Policy(BaseModel):
    """Limits are inclusive. A request outside them is refused; floors are applied and reported."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_weight: float = 0.0
    """Smallest weight of one culture. Below 0 allows steering away from it."""
    max_weight: float = 1.0
    max_strength: float = Field(default=2.0, ge=0)
    max_adapters: int = Field(default=8, ge=1)
    """Most adapters in one blend."""
    max_candidates: int = Field(default=16, ge=1)
    """Most answers that best_of_n may draw to choose from, and diffpo for one place."""
    max_loops: int = Field(default=12, ge=1)
    """Most loops of diffpo."""
    value_floors: Mapping[str, float] = Field(default_factory=dict)
    """Least share of a value axis on the simplex, such as `harmless: 0.2`, whenever values are steered."""
    denied_adapters: frozenset[str] = frozenset()
    """Adapter names that no request may use."""

    @model_validator(mode="after")
    def _consistent(self) -> Policy:
        if self.min_weight > self.max_weight:
            raise ValueError("min_weight is above max_weight")
        if any(not 0 <= floor <= 1 for floor in self.value_floors.values()):
            raise ValueError("value_floors must lie in 0..1")
        if sum(self.value_floors.values()) > 1:
            raise ValueError("value_floors sum to more than 1")
        return self

    @classmethod
    def read(cls, path: Path | None) -> Policy:
        """The policy in a YAML file; the defaults above without one.

        Raises: ConfigError naming every bad key.
        """
        if path is None:
            return cls()
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()) or {})
        except OSError as error:
            raise ConfigError(f"cannot read policy {path}: {error.strerror}") from error
        except (yaml.YAMLError, ValidationError) as error:
            raise ConfigError(f"bad policy {path}: {error}") from error

    def check_spec(self, spec: SteeringSpec, *, param: str) -> None:
        """Raises: PolicyError (400) that names the field and the limit."""
        for name, weight in spec.cultures.items():
            if not self.min_weight <= weight <= self.max_weight:
                raise PolicyError(
                    f"Weight {weight:g} is outside {self.min_weight:g}..{self.max_weight:g}.",
                    param=f"{param}.cultures.{name}",
                )
        for name, weight in spec.values.items():
            if weight < 0:
                raise PolicyError(
                    f"Weight {weight:g} is below 0; a preference vector lies on the simplex.",
                    param=f"{param}.values.{name}",
                )
        if not 0 <= spec.strength <= self.max_strength:
            raise PolicyError(
                f"Strength {spec.strength:g} is outside 0..{self.max_strength:g}.", param=f"{param}.strength"
            )
        if spec.denoising is not None:
            self._check_denoising(spec.denoising, spec.strength, param=f"{param}.options")

    def _check_denoising(self, denoising: Denoising, strength: float, *, param: str) -> None:
        if denoising.loops > self.max_loops:
            raise PolicyError(f"{denoising.loops} loops; at most {self.max_loops}.", param=f"{param}.loops")
        if denoising.candidates > self.max_candidates:
            raise PolicyError(
                f"{denoising.candidates} candidates; at most {self.max_candidates}.",
                param=f"{param}.candidates",
            )
        if denoising.guidance * strength > self.max_strength:
            raise PolicyError(
                f"Guidance {denoising.guidance:g} at strength {strength:g} is above the strength of "
                f"{self.max_strength:g}.",
                param=f"{param}.guidance",
            )

    def check_adapter(self, name: str, *, param: str) -> None:
        """Raises: DeniedError (403)."""
        if name in self.denied_adapters:
            raise DeniedError(f"The operator's policy denies adapter {name!r}.", param=param)

    def floor_values(self, shares: Mapping[str, float]) -> dict[str, float]:
        """The preference vector with every axis at its floor or above.

        Semantics: raised = {axis: max(share, floor)}; axes above their floor are scaled down together so that
        the sum is 1 again, and any that falls below its floor by this is raised in turn.

        Args:
            shares: every axis of one adapter, on the simplex.
        """
        floors = {axis: self.value_floors.get(axis, 0.0) for axis in shares}
        pinned: set[str] = set()
        while True:
            free = {axis: share for axis, share in shares.items() if axis not in pinned}
            room = 1 - sum(floors[axis] for axis in pinned)
            total = sum(free.values())
            scaled = {a: (s * room / total if total > 0 else room / len(free)) for a, s in free.items()}
            below = {axis for axis, share in scaled.items() if share < floors[axis]}
            if not below:
                return {axis: floors[axis] if axis in pinned else scaled[axis] for axis in shares}
            pinned |= below

    def public(self) -> dict[str, Any]:
        """What clients may know, for `GET /v1/steering`."""
        return self.model_dump(mode="json", exclude={"denied_adapters"})
