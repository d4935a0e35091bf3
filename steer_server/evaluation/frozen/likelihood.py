"""How likely the base model finds an answer, read here: the server's own guard decided by numbers of its own.

    log-likelihood of y = Σ_t log π(y_t | x, y_<t) / |y|     nats per token, without the end of the turn

π is the judges' model, which is the served one unless a command says otherwise; x is the conversation in its
chat template, without a statement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steer_server.catalogue.base_model import BaseModel
from steer_server.evaluation.frozen.answers import Work, in_order
from steer_server.evaluation.judge_prompts import Messages
from steer_server.evaluation.samples import as_messages
from steer_server.progress import Progress

Likelihoods = Mapping[tuple[Messages, str], float]
"""By prompt and answer."""


def read_likelihoods(works: Sequence[Work], base: BaseModel) -> Likelihoods:
    """Of every answer that was denoised into another, and of its draft. Loads the model if there is one."""
    texts = dict.fromkeys(
        (prompt, text)
        for work in works
        for prompt, answered in in_order(work)
        for one in answered.given.values()
        if (report := one.findings.get("denoising")) and report["outcome"] == "improved"
        for text in (one.text, str(report["draft"]))
    )
    if not texts:
        return {}
    model = BaseLikelihood(base)
    found = {}
    with Progress("likelihood", len(texts), "answers") as progress:
        for prompt, text in texts:
            found[prompt, text] = model.per_token(prompt, text)
            progress.advance()
    return found


class BaseLikelihood:
    """See the module. One forward pass for each answer."""

    def __init__(self, base: BaseModel) -> None:
        # Torch is slow to import, and wrong options should end the command before that.
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._tokenizer: Any = AutoTokenizer.from_pretrained(base.path)
        self._model: Any = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.bfloat16).eval()

    def per_token(self, prompt: Messages, text: str) -> float:
        """Nats per token; 0 for an answer without tokens."""
        import torch

        before = self._tokenizer.apply_chat_template(
            as_messages(prompt), tokenize=False, add_generation_prompt=True
        )
        prompt_ids, answer_ids = (
            self._tokenizer.encode(part, add_special_tokens=False) for part in (before, text)
        )
        if not answer_ids:
            return 0.0
        with torch.no_grad():
            logits_T_V = self._model(torch.tensor([[*prompt_ids, *answer_ids]])).logits[0]
        # From the prompt's last token, which predicts the first of the answer, to the last but one.
        log_p_T_V = logits_T_V[len(prompt_ids) - 1 : -1].float().log_softmax(-1)
        return float(log_p_T_V.gather(1, torch.tensor(answer_ids)[:, None]).mean())
