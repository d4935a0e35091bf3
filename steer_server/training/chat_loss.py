"""Batches of chats and the loss on them.

letters   -Σ_i p_i log softmax(z)[letter_i]         at the first answered token
words     mean over answer tokens of -log softmax(z)[token]
closeness KL(base ‖ adapter) on ordinary prompts, so that the adapter changes values and little else
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from steer_server.training.survey_data import LETTERS, Example

IGNORED = -100


@dataclass(frozen=True)
class Batch:
    """Right-padded chats, and the P positions whose next token is to be learnt. Only these positions go
    through the LM head, which would otherwise be a quarter of the work on a small model."""

    ids_N_T: torch.Tensor
    mask_N_T: torch.Tensor
    rows_P: torch.Tensor
    columns_P: torch.Tensor
    labels_P: torch.Tensor
    """Token to predict; IGNORED where `letters_P_L` holds the target instead."""
    letters_P_L: torch.Tensor
    """Target share of each option letter; zero rows where `labels_P` holds the target."""
    weights_P: torch.Tensor
    """1/(answer tokens of that chat), so that every chat counts the same."""


class ChatEncoder:
    """Turns examples into batches with the model's own chat template."""

    def __init__(self, tokenizer: Any, max_tokens: int = 256) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.letter_ids = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in LETTERS]

    def prompt_ids(self, prompt: str) -> list[int]:
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def batch(self, examples: Sequence[Example]) -> Batch:
        sequences: list[list[int]] = []
        positions: list[tuple[int, int, int, tuple[float, ...], float]] = []
        for n, example in enumerate(examples):
            prompt = self.prompt_ids(example.prompt)[-self.max_tokens :]
            if example.letters is not None:
                positions.append((n, len(prompt) - 1, IGNORED, example.letters, 1.0))
                sequences.append(prompt)
                continue
            answer = self.tokenizer.encode(example.answer or "", add_special_tokens=False)
            answer = [*answer[: self.max_tokens], self.tokenizer.eos_token_id]
            for i, token in enumerate(answer):
                positions.append((n, len(prompt) - 1 + i, token, (), 1 / len(answer)))
            sequences.append(prompt + answer[:-1])
        length = max(map(len, sequences))
        ids = torch.full((len(sequences), length), self.tokenizer.eos_token_id)
        mask = torch.zeros(len(sequences), length, dtype=torch.long)
        for n, sequence in enumerate(sequences):
            ids[n, : len(sequence)] = torch.tensor(sequence)
            mask[n, : len(sequence)] = 1
        letters = torch.zeros(len(positions), len(LETTERS))
        for i, (_, _, _, shares, _) in enumerate(positions):
            letters[i, : len(shares)] = torch.tensor(shares)
        rows, columns, labels, _, weights = zip(*positions, strict=True)
        return Batch(
            ids,
            mask,
            torch.tensor(rows),
            torch.tensor(columns),
            torch.tensor(labels),
            letters,
            torch.tensor(weights),
        )


def answer_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Float32 logits at the P learnt positions, `[P, V]`."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.model(input_ids=batch.ids_N_T, attention_mask=batch.mask_N_T).last_hidden_state
    logits: torch.Tensor = causal.lm_head(hidden[batch.rows_P, batch.columns_P])
    return logits.float()


def batch_loss(logits_P_V: torch.Tensor, batch: Batch, letter_ids: torch.Tensor) -> torch.Tensor:
    """Mean over the chats of the batch of the letters and words terms in the module's docstring."""
    log_p = F.log_softmax(logits_P_V, dim=-1)
    words = F.nll_loss(log_p, batch.labels_P, ignore_index=IGNORED, reduction="none")
    letters = -(batch.letters_P_L * log_p[:, letter_ids]).sum(-1)
    return ((words + letters) * batch.weights_P).sum() / len(batch.ids_N_T)


def kl_to_base(adapted_P_V: torch.Tensor, base_P_V: torch.Tensor) -> torch.Tensor:
    """KL(base ‖ adapted) in nats, averaged over positions."""
    log_q, log_p = F.log_softmax(adapted_P_V, dim=-1), F.log_softmax(base_P_V, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
