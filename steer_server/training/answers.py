"""Log-probabilities of several possible answers to one prompt, in one forward pass.

The answers branch off the prompt like a tree: every answer sees the prompt and itself, no other answer. What
all prompts of a batch begin with, such as the chat template's own words, is computed once for all of them.

    log P(answer | prompt) = Σ_t log softmax(z_t)[token_t]

An example is answered either by a letter (one token, the options lettered in the prompt) or in words (an
option's whole text up to the end of the turn).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from typing import Any

import torch
import torch.nn.functional as F

from steer_server.training.base_weights import who_sees_whom
from steer_server.training.example import Example


@dataclass(frozen=True)
class Batch:
    """N trees of at most T tokens after F common ones, and the P positions whose next token belongs to an
    answer. Only these positions go through the LM head, which would otherwise be a quarter of the work on a
    small model."""

    common_ids_F: torch.Tensor
    """What all prompts begin with, F ≥ 0 tokens."""
    ids_N_T: torch.Tensor
    positions_N_T: torch.Tensor
    mask_N_1_T_FT: torch.Tensor
    """Who sees whom, bool; the common tokens come first."""
    rows_P: torch.Tensor
    columns_P: torch.Tensor
    tokens_P: torch.Tensor
    answers_P: torch.Tensor
    """Index of the answer that the position belongs to, counted through the batch."""
    shares: tuple[tuple[float, ...], ...]

    def to(self, device: torch.device | str) -> Batch:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return Batch(**moved, shares=self.shares)


class AnswerEncoder:
    """Turns examples into batches with the model's own chat template."""

    def __init__(self, tokenizer: Any, max_prompt_tokens: int = 256, max_answer_tokens: int = 128) -> None:
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.max_answer_tokens = max_answer_tokens

    def prompt_ids(self, example: Example) -> list[int]:
        messages = [{"role": role, "content": content} for role, content in example.before]
        messages.append({"role": "user", "content": example.prompt})
        if example.system:
            messages.insert(0, {"role": "system", "content": example.system})
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer.encode(text, add_special_tokens=False))[-self.max_prompt_tokens :]

    def answer_ids(self, example: Example) -> list[list[int]]:
        found = []
        for answer in example.answers:
            ids = list(self.tokenizer.encode(answer, add_special_tokens=False))[: self.max_answer_tokens]
            found.append([*ids, self.tokenizer.eos_token_id] if example.is_whole else ids[:1])
        return found

    def num_tokens(self, example: Example) -> int:
        """Length of the example's tree, by which batches are made of similar ones."""
        return len(self.prompt_ids(example)) + sum(len(ids) - 1 for ids in self.answer_ids(example))

    def batch(self, examples: Sequence[Example]) -> Batch:
        prompts = [self.prompt_ids(example) for example in examples]
        # Every tree keeps its prompt's last token: it is what the answers' first tokens follow.
        shortest = min(map(len, prompts)) - 1
        alike = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
        num_common = min(sum(1 for _ in alike), shortest)
        trees: list[tuple[list[int], list[int], list[int]]] = []
        learnt: list[tuple[int, int, int, int]] = []
        num_answers = 0
        for n, (example, prompt) in enumerate(zip(examples, prompts, strict=True)):
            ids, end = prompt[num_common:], len(prompt)
            positions, branches = list(range(num_common, end)), [0] * len(ids)
            last = len(ids) - 1
            for branch, answer in enumerate(self.answer_ids(example), 1):
                learnt.append((n, last, answer[0], num_answers))
                for offset, (token, following) in enumerate(pairwise(answer)):
                    ids.append(token)
                    positions.append(end + offset)
                    branches.append(branch)
                    learnt.append((n, len(ids) - 1, following, num_answers))
                num_answers += 1
            trees.append((ids, positions, branches))
        length = max(len(ids) for ids, _, _ in trees)
        ids_N_T = torch.zeros(len(trees), length, dtype=torch.long)
        positions_N_T = torch.zeros_like(ids_N_T)
        # Padding sees itself: a row that sees nothing is NaN.
        mask = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
        for n, (tree, positions, branches) in enumerate(trees):
            size = len(tree)
            ids_N_T[n, :size] = torch.tensor(tree)
            positions_N_T[n, :size] = torch.tensor(positions)
            branch_T = torch.tensor(branches)
            sees = (branch_T[None, :] == 0) | (branch_T[None, :] == branch_T[:, None])
            mask[n, :size, :size] = sees & torch.ones(size, size, dtype=torch.bool).tril()
        rows, columns, tokens, answers = (torch.tensor(column) for column in zip(*learnt, strict=True))
        return Batch(
            torch.tensor(prompts[0][:num_common], dtype=torch.long),
            ids_N_T,
            positions_N_T,
            F.pad(mask, (num_common, 0), value=True).unsqueeze(1),
            rows,
            columns,
            tokens,
            answers,
            tuple(example.shares for example in examples),
        )


def position_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Float32 logits at the P positions, `[P, V]`."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal.model(
        input_ids=batch.ids_N_T,
        position_ids=batch.positions_N_T,
        attention_mask=who_sees_whom(causal, batch.mask_N_1_T_FT),
        past_key_values=_common_cache(causal, batch),
        use_cache=batch.common_ids_F.numel() > 0,
    ).last_hidden_state
    logits: torch.Tensor = causal.lm_head(hidden[batch.rows_P, batch.columns_P])
    return logits.float()


def _common_cache(causal: Any, batch: Batch) -> Any:
    """Keys and values of the common tokens, the same for every tree; gradients go through them."""
    if not batch.common_ids_F.numel():
        return None
    from transformers import DynamicCache

    alone = causal.model(input_ids=batch.common_ids_F[None], use_cache=True).past_key_values
    shared, num_trees = DynamicCache(), len(batch.ids_N_T)
    for index, layer in enumerate(alone.layers):
        shared.update(
            layer.keys.expand(num_trees, -1, -1, -1), layer.values.expand(num_trees, -1, -1, -1), index
        )
    return shared


def answer_log_probs(logits_P_V: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
    """log P(answer | prompt) of every answer, a tensor per example."""
    log_p = F.log_softmax(logits_P_V, dim=-1).gather(1, batch.tokens_P[:, None]).squeeze(1)
    counts = [len(shares) for shares in batch.shares]
    summed = torch.zeros(sum(counts), dtype=log_p.dtype, device=log_p.device)
    return list(torch.split(summed.index_add(0, batch.answers_P, log_p), counts))


def survey_loss(log_probs: Sequence[torch.Tensor], shares: Sequence[Sequence[float]]) -> torch.Tensor:
    """Mean over examples of KL(shares ‖ model) in nats, `Σ_i p_i (log p_i - log P(answer_i))`.

    What the model gives to anything but the answers counts against it, so it learns to answer with one.
    """
    losses = []
    for found, wanted in zip(log_probs, shares, strict=True):
        p = torch.tensor(wanted, dtype=found.dtype, device=found.device)
        losses.append((torch.xlogy(p, p) - p * found).sum())
    return torch.stack(losses).mean()


def kl_to_base(adapted_P_V: torch.Tensor, base_P_V: torch.Tensor) -> torch.Tensor:
    """KL(base ‖ adapted) in nats, averaged over positions."""
    log_q, log_p = F.log_softmax(adapted_P_V, dim=-1), F.log_softmax(base_P_V, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()
