"""The prompter in training: the base model with a LoRA, which samples rewrites and says how likely they are.

A second, frozen LoRA is the warm start, which policy optimisation is held to. The policy is
`ρ(token | before) = softmax(z / temperature)` of the logits z, in sampling and in every log-probability. It
is sampled here and not by the server: so every rewrite comes from the weights that its gradient is of, no
adapter need be pushed at every step, and a prompt is read once for its whole group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from steer_server.frozen.prompter_template import prompter_messages
from steer_server.training.answers import AnswerEncoder, Batch, position_logits
from steer_server.training.base_weights import load_base
from steer_server.training.culture import TARGET_MODULES
from steer_server.training.example import Example

TRAINED, WARM_START = "default", "warm_start"
ROWS_PER_BATCH = 32
"""Rewrites that are sampled side by side."""
Ids = tuple[int, ...]
"""A rewrite as it was written, with the end of the turn if that was reached."""
Choose = Callable[[torch.Tensor], torch.Tensor]
"""Logits `[N, V]` to a token of each row."""
UNCUT = 1 << 20
"""Tokens. What is too long is left out beforehand: cutting a prompt would cut off the instruction."""


@dataclass(frozen=True)
class SampledGroup(Example):
    """A prompt with rewrites that were sampled to it, as token ids: their text may have others."""

    ids: tuple[Ids, ...] = ()


class RewriteEncoder(AnswerEncoder):
    """The prompter's conversations as trees: all rewrites of a prompt branch off it."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, max_prompt_tokens=UNCUT, max_answer_tokens=UNCUT)

    def answer_ids(self, example: Example) -> list[list[int]]:
        if isinstance(example, SampledGroup):
            return [list(ids) for ids in example.ids]
        return super().answer_ids(example)

    def num_text_tokens(self, text: str) -> int:
        """Without the template around it."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, ids: Sequence[int]) -> str:
        """What the tokens say up to the end of the turn."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def has_ended(self, ids: Sequence[int]) -> bool:
        """The end of the turn was sampled."""
        return bool(ids) and ids[-1] == self.tokenizer.eos_token_id


def asked_for(prompt: str) -> Example:
    """The conversation that asks for a rewrite, without one."""
    *before, last = [(message["role"], message["content"]) for message in prompter_messages(prompt)]
    return Example(last[1], (), (), is_whole=True, before=tuple(before))


def pair_example(prompt: str, rewrite: str) -> Example:
    asked = asked_for(prompt)
    return Example(asked.prompt, (rewrite,), (1.0,), is_whole=True, before=asked.before)


def group_example(prompt: str, ids: Sequence[Ids]) -> SampledGroup:
    asked = asked_for(prompt)
    empty, even = ("",) * len(ids), (1 / len(ids),) * len(ids)
    return SampledGroup(asked.prompt, empty, even, is_whole=True, before=asked.before, ids=tuple(ids))


class Prompter:
    """The base model with the two LoRAs, both nothing at first."""

    def __init__(self, model_path: Path, rank: int, alpha: float, temperature: float, seed: int) -> None:
        from peft import get_peft_model
        from transformers import AutoTokenizer

        from steer_server.training.low_rank import lora_config

        torch.manual_seed(seed)
        self.temperature = temperature
        self.encoder = RewriteEncoder(AutoTokenizer.from_pretrained(model_path))
        # In bf16 the gradient through plain products is coarser: too coarse for a toy of two layers to learn
        # from, while on a real model the two agree with float32 equally well.
        base = load_base(model_path, attention="sdpa")
        self.device = base.device
        config = lora_config(rank, alpha, TARGET_MODULES)
        self.model: Any = get_peft_model(base, config, autocast_adapter_dtype=True)
        self.model.add_adapter(WARM_START, config)
        self.model.set_adapter(TRAINED)

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """What is trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if f".{TRAINED}." in name}

    def state(self) -> dict[str, torch.Tensor]:
        """A copy of the trained LoRA by PEFT's names, float32 on the CPU."""
        from peft import get_peft_model_state_dict

        found = get_peft_model_state_dict(self.model, adapter_name=TRAINED)
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in found.items()}

    def start_from(self, state: dict[str, torch.Tensor]) -> None:
        """Both LoRAs become the warm start."""
        from peft import set_peft_model_state_dict

        for name in (TRAINED, WARM_START):
            set_peft_model_state_dict(self.model, dict(state), adapter_name=name)

    @contextmanager
    def warm_start(self) -> Iterator[None]:
        """Within it the prompter is the warm start, without gradients."""
        self.model.set_adapter(WARM_START, inference_mode=True)
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.set_adapter(TRAINED)

    def batch(self, examples: Sequence[Example]) -> Batch:
        return self.encoder.batch(examples).to(self.device)

    def log_policy(self, batch: Batch) -> torch.Tensor:
        """Float32 `log ρ(v | before)` at the P positions, `[P, V]`."""
        return F.log_softmax(position_logits(self.model, batch) / self.temperature, dim=-1)

    def sample(self, prompts: Sequence[str], num_each: int, max_tokens: int, seed: int) -> list[list[Ids]]:
        """Rewrites of every prompt, side by side. They follow from the weights and the seed."""
        generator = torch.Generator(self.device).manual_seed(seed)

        def draw(logits_N_V: torch.Tensor) -> torch.Tensor:
            shares_N_V = (logits_N_V / self.temperature).softmax(-1)
            return torch.multinomial(shares_N_V, 1, generator=generator).squeeze(1)

        return self._write(prompts, num_each, max_tokens, draw)

    def greedy(self, prompts: Sequence[str], max_tokens: int) -> list[Ids]:
        """The rewrite of every prompt as it is served: the likeliest token at every position."""
        return [ids for (ids,) in self._write(prompts, 1, max_tokens, lambda logits: logits.argmax(-1))]

    def _write(
        self, prompts: Sequence[str], num_each: int, max_tokens: int, choose: Choose
    ) -> list[list[Ids]]:
        found: list[list[Ids]] = []
        together = max(1, ROWS_PER_BATCH // num_each)
        for start in range(0, len(prompts), together):
            some = [asked_for(prompt) for prompt in prompts[start : start + together]]
            rows = self._write_batch(list(map(self.encoder.prompt_ids, some)), num_each, max_tokens, choose)
            found += [rows[n : n + num_each] for n in range(0, len(rows), num_each)]
        return found

    @torch.no_grad()
    def _write_batch(
        self, prompts: Sequence[Sequence[int]], num_each: int, max_tokens: int, choose: Choose
    ) -> list[Ids]:
        from transformers import DynamicCache

        causal, cache = self.model.get_base_model(), DynamicCache()
        eos = self.encoder.tokenizer.eos_token_id
        longest = max(map(len, prompts))
        # Padding lies on the left, so that all rows go on at the same place.
        ids_N_T = torch.tensor([[eos] * (longest - len(ids)) + list(ids) for ids in prompts])
        lengths_N = torch.tensor([len(ids) for ids in prompts], device=self.device)
        ids_N_T = ids_N_T.to(self.device)
        mask_N_T = torch.arange(longest, device=self.device) >= longest - lengths_N[:, None]
        positions_N_T = (mask_N_T.long().cumsum(1) - 1).clamp(min=0)

        def hidden_of_last() -> torch.Tensor:
            found: torch.Tensor = causal.model(
                input_ids=ids_N_T,
                attention_mask=mask_N_T.long(),
                position_ids=positions_N_T,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            return found

        hidden_N_H = hidden_of_last().repeat_interleave(num_each, 0)
        cache.batch_repeat_interleave(num_each)
        mask_N_T, lengths_N = (t.repeat_interleave(num_each, 0) for t in (mask_N_T, lengths_N))
        going_on = torch.arange(len(hidden_N_H), device=self.device)
        sampled: list[list[int]] = [[] for _ in hidden_N_H]
        while True:
            tokens_N = choose(causal.lm_head(hidden_N_H).float())
            for row, token in zip(going_on.tolist(), tokens_N.tolist(), strict=True):
                sampled[row].append(token)
            kept = (tokens_N != eos).nonzero().squeeze(1)
            if not len(kept) or len(sampled[int(going_on[kept[0]])]) >= max_tokens:
                return [tuple(ids) for ids in sampled]
            if len(kept) < len(going_on):
                cache.batch_select_indices(kept)
                going_on, mask_N_T, lengths_N = going_on[kept], mask_N_T[kept], lengths_N[kept]
                tokens_N = tokens_N[kept]
            ids_N_T, positions_N_T = tokens_N[:, None], lengths_N[:, None]
            mask_N_T, lengths_N = F.pad(mask_N_T, (0, 1), value=True), lengths_N + 1
            hidden_N_H = hidden_of_last()
