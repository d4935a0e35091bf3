"""The base model as adapters see it: its names, and the shape of every linear layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from steer_server import builtin_model
from steer_server.settings import Settings


@dataclass(frozen=True)
class BaseModel:
    """What an adapter's manifest and tensors are checked against."""

    path: str
    """Directory or Hugging Face id that vLLM loads."""
    served_name: str
    names: frozenset[str]
    """What a manifest may call it."""

    @classmethod
    def of(cls, settings: Settings) -> BaseModel:
        """The model that the settings name. The built-in one must have been fetched before.

        A directory or id is known by its last part, so `meta/Llama-8B` and `/models/Llama-8B` both match
        a manifest's `Llama-8B`.
        """
        if settings.model == "builtin":
            path = str(builtin_model.builtin_path(settings.cache))
            names = {builtin_model.BASE_MODEL, f"HuggingFaceTB/{builtin_model.BASE_MODEL}"}
            return cls(path, settings.served_model_name or builtin_model.NAME, frozenset(names))
        last = settings.model.rstrip("/").rsplit("/", 1)[-1]
        path = str(Path(settings.model).resolve()) if Path(settings.model).is_dir() else settings.model
        return cls(path, settings.served_model_name or last, frozenset({settings.model, last}))

    @classmethod
    def fetched(cls, settings: Settings) -> BaseModel:
        """The same, the built-in model fetched unless it is there. Raises: ConfigError when it cannot be."""
        if settings.model == "builtin":
            builtin_model.ensure_builtin(settings.cache)
        return cls.of(settings)

    @cached_property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(out_features, in_features) by module name, without the LM head. Reads the config, no weights."""
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(self.path)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        head = model.get_output_embeddings()
        return {
            name: (module.out_features, module.in_features)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }

    @cached_property
    def hidden_size(self) -> int:
        """Width of the state that the LM head reads. Reads the config, no weights."""
        from transformers import AutoConfig

        return int(AutoConfig.from_pretrained(self.path).get_text_config().hidden_size)

    @property
    def linear_suffixes(self) -> list[str]:
        """Last parts of the linear layers' names: what vLLM is told to wrap."""
        return sorted({name.rsplit(".", 1)[-1] for name in self.linear_shapes})
