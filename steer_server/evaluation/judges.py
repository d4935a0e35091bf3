"""Judges: reward heads trained on other prompts than the heads that steer, and the scores they give to texts.

    score(messages, answer) = w·h + b     h: the base model's last hidden state of the text

`h` is computed here, by the model the judge was trained on and without any adapter, whatever the server runs.
Each text is scored alone, so the order in which two answers are shown cannot matter. A higher score is better
under one judge; scores of different judges have no common scale.

Not covered: whether a judge is right. Its accuracy on pairs that it has not seen stands beside every result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.manifest import MANIFEST, RECIPE
from steer_server.catalogue.reward_head import HEAD_WEIGHTS, Message, RewardHeadConfig, text_or_space
from steer_server.catalogue.snapshot import LoadedRewardHead
from steer_server.catalogue.validation import validate_folder
from steer_server.errors import CatalogueError, EvaluationError, TrainingError
from steer_server.evaluation.seen_prompts import TrainedFolder, read_folders
from steer_server.training.trained_on import read_trained_on


@dataclass(frozen=True)
class Judge:
    """One head and how it was made."""

    name: str
    """The head's, such as `helpful`."""
    config: RewardHeadConfig
    recipe: Mapping[str, Any]
    weight_H: np.ndarray
    bias: float
    digest: str
    trained_on: frozenset[str] | None = None
    """Hashes of its prompts; None where its folder does not say."""

    @property
    def is_of_pairs(self) -> bool:
        """Learnt from choices between two answers to one prompt, so that answers can be compared by it."""
        return self.config.model == "bradley_terry"

    def describe(self) -> dict[str, Any]:
        """The judge beside what it is worth: its accuracy on pairs of units that it has not seen, and that of
        always preferring the longer (or always the shorter) answer of the same pairs."""
        scores = self.config.metrics
        return {
            "digest": self.digest,
            "split": self.config.split,
            "label_meaning": self.config.label_meaning,
            "own_pairs": {part: _few(scores.get(part)) for part in ("cross_validated", "test")},
        }


def read_judges(directory: Path, only: Sequence[str], base: BaseModel, shipped: Path) -> list[Judge]:
    """The judges below `directory`, by name: those in `only`, or all that compare answers.

    Args:
        shipped: directory of the adapters that steer. A judge must share no prompt with heads there.

    Raises: EvaluationError for a folder that is no judge for this model, an unknown name, prompts that a head
        there was trained on too, or when there is none.
    """
    steering = [folder for folder in read_folders(shipped) if folder.kind == "reward_head"]
    judges: dict[str, Judge] = {}
    for manifest in sorted(directory.glob(f"*/{MANIFEST}")):
        judge = _read(manifest.parent, base)
        if only and judge.name not in only:
            continue
        if judge.name in judges:
            raise EvaluationError(f"two judges below {directory.name} have the name {judge.name}")
        check_split(judge, steering)
        judges[judge.name] = judge
    if unknown := sorted(set(only) - set(judges)):
        raise EvaluationError(f"no judge {', '.join(unknown)} below {directory.name}")
    chosen = [judge for judge in judges.values() if judge.is_of_pairs]
    if wrong := [name for name in only if not judges[name].is_of_pairs]:
        raise EvaluationError(
            f"{', '.join(wrong)}: learnt from judgements of single texts, not from choices between answers"
        )
    if not chosen:
        raise EvaluationError(
            f"no judge that compares answers below {directory.name}; `steer-server train reward-head "
            "--split judge` makes them"
        )
    return chosen


def check_split(judge: Judge, steering: Iterable[TrainedFolder]) -> None:
    """Raises: EvaluationError when the judge has learnt from what a head that steers has learnt from, as far
    as both say it, or when recipe and config disagree."""
    split = judge.recipe.get("split")
    if split != judge.config.split:
        raise EvaluationError(
            f"judge {judge.name}: {RECIPE} says split {split!r}, its config {judge.config.split!r}"
        )
    if split == "steer":
        raise EvaluationError(
            f"judge {judge.name} is of split {split!r}, as the heads that steer are: it would judge what it "
            "taught; train it with --split judge"
        )
    for head in steering:
        if num_shared := len((judge.trained_on or frozenset()) & (head.hashes or frozenset())):
            raise EvaluationError(
                f"judge {judge.name} and {head.name}, which steers, were trained on {num_shared} prompts "
                "together; train both by one recipe on the same data, the judge with --split judge"
            )


class Scorer:
    """Scores texts by judges, through the cache of hidden states. Loads the model when it is first needed."""

    def __init__(self, base: BaseModel, cache: Path) -> None:
        # Torch is slow to import, and wrong options should end the command before that.
        from transformers import AutoTokenizer

        from steer_server.training.hidden_states import HiddenStates

        self._tokenizer: Any = AutoTokenizer.from_pretrained(base.path)
        self._states = HiddenStates(base.path, cache)

    def scores(self, judge: Judge, texts: Sequence[tuple[Sequence[Message], str]]) -> np.ndarray:
        """Raw scores, float64 `[N]`, of (messages, answer); equal texts have equal scores."""
        layout = judge.config.text_format
        ids = [
            layout.token_ids(self._tokenizer, messages, text_or_space(answer)) for messages, answer in texts
        ]
        h_N_H = self._states.of(ids, f"judge {judge.name}")
        return np.asarray(h_N_H.astype(np.float64) @ judge.weight_H + judge.bias)


def _read(folder: Path, base: BaseModel) -> Judge:
    from safetensors.numpy import load_file

    try:
        loaded = validate_folder(folder, base, max_rank=0)
        if not isinstance(loaded, LoadedRewardHead):
            raise EvaluationError(f"{folder.name} is no reward head")
        recipe = json.loads((folder / RECIPE).read_text(encoding="utf-8"))
        trained_on = read_trained_on(folder)
    except (CatalogueError, TrainingError, OSError, ValueError) as error:
        raise EvaluationError(f"{folder.name} cannot be a judge: {error}") from error
    tensors = load_file(folder / HEAD_WEIGHTS)
    assert loaded.manifest.head is not None
    return Judge(
        loaded.manifest.head,
        loaded.config,
        recipe,
        tensors["weight"].astype(np.float64),
        float(tensors["bias"][0]),
        loaded.digest,
        trained_on,
    )


def _few(scores: Any) -> dict[str, Any]:
    wanted = ("rows", "accuracy", "majority", "bag_of_words", "length")
    return {key: scores[key] for key in wanted if key in scores} if isinstance(scores, dict) else {}
