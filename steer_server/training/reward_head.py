"""Trains reward heads: hidden states of a recipe's texts, one linear fit per head, scores, and the folder.

Source of the Bradley-Terry and logistic losses: `logistic.py`. The base model is frozen; nothing here
computes a gradient through it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from steer_server.catalogue.base_model import BaseModel
from steer_server.catalogue.folders import write_reward_head_folder
from steer_server.catalogue.manifest import MANIFEST, RECIPE, CultureInfo, DataSource
from steer_server.catalogue.reward_head import RewardHeadConfig, TextFormat
from steer_server.errors import TrainingError
from steer_server.evaluation.report import provenance
from steer_server.settings import Settings
from steer_server.training import reward_scores as scoring
from steer_server.training.align_pro_data import same_prompt
from steer_server.training.bag_of_words import bag_of_words_classes
from steer_server.training.calibration import platt
from steer_server.training.hidden_states import HiddenStates
from steer_server.training.pooled_head import Fit, Folds, Table, choose_fit, fit_offset, fit_pool
from steer_server.training.reward_card import card
from steer_server.training.reward_data import Part, Row, assign_folds, assign_parts, read_rows
from steer_server.training.reward_recipe import HeadRecipe, RewardRecipe
from steer_server.training.trained_on import TRAINED_ON, trained_on_text

Split = Literal["steer", "judge"]
FOLDER_PREFIX: Mapping[Split, str] = {"steer": "head", "judge": "judge"}
VERSION = "1.0.0"


@dataclass
class SourceTable:
    """What the heads of one set of sources share: rows, states, parts and folds."""

    table: Table
    parts: dict[str, Part]
    fold_of_unit: dict[str, int]
    head_of_group: dict[str, str]
    training: Folds
    """Folds over this split's part, to choose penalties and to calibrate."""
    scored: Folds
    """Folds over this split's part and the test part, for scores on as many rows as there are."""
    _words: dict[int, np.ndarray] = field(default_factory=dict)

    def words(self, num_classes: int) -> np.ndarray:
        """Out-of-fold classes of all rows of `scored` by a bag of words that learns from the whole pool."""
        if num_classes not in self._words:
            found = scoring.words_by_fold(self.scored.table, self.scored.fold_N, num_classes)
            self._words[num_classes] = found
        return self._words[num_classes]


def train_reward_heads(
    recipe_file: Path,
    data: Path,
    out: Path,
    settings: Settings,
    split: Split = "steer",
    only: Sequence[str] = (),
) -> None:
    """Trains every head of the recipe that is not in `out` yet, one line of JSON scores each.

    Args:
        data: directory of the recipe's files.
        split: which part of the units is trained on; the test part is trained on by neither.

    Raises: TrainingError for a bad recipe or bad data, or a head in `only` that the recipe does not have.
    """
    recipe = RewardRecipe.read(recipe_file)
    if unknown := sorted(set(only) - {head.head for head in recipe.heads}):
        raise TrainingError(f"{recipe_file.name} has no head {', '.join(unknown)}")
    base = BaseModel.fetched(settings)
    states = HiddenStates(base.path, settings.cache)
    tables: dict[tuple[str, ...], SourceTable] = {}
    for head in recipe.heads:
        folder = out / f"{FOLDER_PREFIX[split]}-{head.head}"
        if only and head.head not in only:
            continue
        if (folder / MANIFEST).exists():
            print(f"{head.head}: already in {out}, skipped", file=sys.stderr)
            continue
        if head.sources not in tables:
            tables[head.sources] = read_table(recipe, head.sources, data, base, states, split)
        scores = train_head(recipe, head, tables[head.sources], folder, base, split)
        print(json.dumps({"head": head.head, "split": split, **scores}), flush=True)


def read_table(
    recipe: RewardRecipe,
    sources: tuple[str, ...],
    data: Path,
    base: BaseModel,
    states: HiddenStates,
    split: Split,
) -> SourceTable:
    """Rows of some sources with their hidden states, less copies of units that lie in an earlier part.

    Raises: TrainingError when judgements and choices are mixed.
    """
    defaults = recipe.defaults
    rows = [row for name in sources for row in _read_source(recipe, name, data)]
    if len({row.other is None for row in rows}) > 1:
        raise TrainingError(f"sources {', '.join(sources)} mix judgements and choices")
    head_of_group = {
        group: head.head for head in recipe.heads if head.sources == sources for group in head.groups
    }
    parts = assign_parts(rows, head_of_group, defaults.test_share, defaults.judge_share, defaults.seed)
    folds = assign_folds(rows, head_of_group, defaults.folds, defaults.seed)
    copies = copied_units(parts)
    table = make_table(
        [row for row in rows if row.unit not in copies],
        base.path,
        states,
        TextFormat(layout="conversation", max_tokens=defaults.max_tokens),
    )
    in_split = table.mask(lambda row: parts[row.unit] == split)
    in_scored = table.mask(lambda row: parts[row.unit] in (split, "test"))
    return SourceTable(
        table,
        parts,
        folds,
        head_of_group,
        Folds(table.take(in_split), folds, head_of_group),
        Folds(table.take(in_scored), folds, head_of_group),
    )


def copied_units(parts: Mapping[str, Part]) -> set[str]:
    """Units of which an earlier part (of steer, judge, test) has a copy in other writing: a judge would know
    what the heads have learnt from, and a test what was trained on."""
    first: dict[str, Part] = {}
    ordered: Sequence[Part] = get_args(Part)
    return {
        unit
        for part in ordered
        for unit, its_part in parts.items()
        if its_part == part and first.setdefault(same_prompt(unit), part) != part
    }


def _read_source(recipe: RewardRecipe, name: str, data: Path) -> list[Row]:
    source = recipe.sources[name]
    return read_rows(source.reader, data / source.file)


def make_table(rows: Sequence[Row], model: str, states: HiddenStates, text_format: TextFormat) -> Table:
    """The rows with features from the hidden states of their answers."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def ids(row: Row, answer: str) -> tuple[int, ...]:
        messages = [{"role": role, "content": content} for role, content in row.messages]
        return tuple(text_format.token_ids(tokenizer, messages, answer))

    first = states.of([ids(row, row.answer) for row in rows])
    if rows[0].other is None:
        return Table(tuple(rows), first, first, is_pairs=False)
    second = states.of([ids(row, row.other or "") for row in rows])
    return Table(tuple(rows), first - second, (first + second) / 2, is_pairs=True)


def train_head(
    recipe: RewardRecipe, head: HeadRecipe, source: SourceTable, folder: Path, base: BaseModel, split: Split
) -> dict[str, Any]:
    """Fits, calibrates, scores and writes one head. Returns: the scores that are also in its config."""
    defaults = recipe.defaults
    training, own = source.training.table, _own_rows(head, source.training.table)
    if not own.any():
        raise TrainingError(f"{head.head}: no rows of groups {sorted(head.groups)} in split {split}")
    chosen = choose_fit(source.training, own, defaults.pool_penalties, defaults.offset_penalties)
    is_robust = defaults.weighting == "group_robust"
    fit = Fit(chosen.pool_penalty, chosen.offset_penalty, is_robust, defaults.eta, defaults.rounds)

    out_of_fold = source.training.raw(own, fit)
    own_training = training.take(own)
    calibration = platt(out_of_fold, own_training.target_N, offset=not training.is_pairs)
    trained = fit_offset(fit_pool(training, fit, source.head_of_group), own_training, fit)

    test = source.table.take(source.table.mask(lambda row: source.parts[row.unit] == "test"))
    test = test.take(_own_rows(head, test))
    raw = trained.raw(test)
    words = [bag_of_words_classes(some.rows, test.rows) for some in (training, own_training)]
    scores: dict[str, Any] = {
        "rows_trained": len(own_training.rows),
        "rows_in_pool": len(training.rows),
        "num_groups_in_pool": len(set(training.group_N)),
        "fit": {"pool_penalty": fit.pool_penalty, "offset_penalty": fit.offset_penalty},
        "weighting": defaults.weighting,
        "cross_validated": cross_validated_scores(head, source, fit),
        "test": {
            **scoring.accuracies(raw, test, _better_words(test, words)),
            **scoring.calibration_errors(raw, test, calibration),
        },
    }
    linear = trained.folded()
    config = RewardHeadConfig(
        schema_version=1,
        hidden_size=len(linear.weight),
        layer="final_norm",
        text_format=TextFormat(layout="conversation", max_tokens=defaults.max_tokens),
        model="bradley_terry" if training.is_pairs else "logistic",
        label_meaning=head.label_meaning,
        calibration=calibration,
        split=split,
        metrics=scores,
    )
    culture = None
    if head.culture:
        culture = CultureInfo(id=head.culture, countries=tuple(sorted(head.groups.values())))
    sources = [recipe.sources[name] for name in head.sources]
    own_recipe = {
        "split": split,
        "defaults": defaults.model_dump(mode="json"),
        "sources": {name: recipe.sources[name].model_dump() for name in head.sources},
        "head": head.model_dump(mode="json"),
        "groups_by_head_of_the_pool": source.head_of_group,
    }
    write_reward_head_folder(
        folder,
        name=folder.name,
        version=VERSION,
        head=head.head,
        base_model=min(base.names, key=len),
        weight=linear.weight,
        bias=linear.bias,
        config=config,
        description=head.description,
        licence=head.licence,
        culture=culture,
        data=[DataSource(source=each.source, licence=each.licence) for each in sources],
        card=card(head, sources, config, provenance()),
        listed={TRAINED_ON: trained_on_text({row.unit for row in training.rows})},
        extra={RECIPE: json.dumps(own_recipe, indent=2) + "\n"},
    )
    return scores


def cross_validated_scores(head: HeadRecipe, source: SourceTable, fit: Fit) -> dict[str, Any]:
    """Scores of the recipe on every row of the training and test parts, each by a head that saw nothing of
    its unit. The penalties were chosen on the training part."""
    folds = source.scored
    own = _own_rows(head, folds.table)
    table, fold_N = folds.table.take(own), folds.fold_N[own]
    raw, shared = folds.raw(own, fit), folds.raw(own, replace(fit, offset_penalty=None))
    words = [source.words(2)[own], scoring.words_by_fold(table, fold_N)]
    best_words = _better_words(table, words)
    groups = scoring.by_group(raw, table, best_words)
    scores: dict[str, Any] = {
        **scoring.accuracies(raw, table, best_words),
        "shared_part": scoring.accuracies(shared, table, best_words).get("accuracy"),
        **scoring.calibration_errors(raw, table, None, fold_N),
        "by_group": groups,
        "worst": scoring.worst_group(groups),
    }
    if not table.is_pairs and (table.target_N == 0.5).any():
        words = [source.words(3)[own], scoring.words_by_fold(table, fold_N, 3)]
        classes = np.array([2 if target == 0.5 else int(target > 0.5) for target in table.target_N])
        best = max(words, key=lambda predicted: float((predicted == classes).mean()))
        scores["three_classes"] = scoring.three_classes(raw, table, fold_N, best)
    return scores


def _own_rows(head: HeadRecipe, table: Table) -> np.ndarray:
    return table.mask(lambda row: not head.groups or row.group in head.groups)


def _better_words(table: Table, candidates: Sequence[np.ndarray]) -> np.ndarray:
    """The stronger of two baselines: learnt on the pool, or on the head's own rows alone."""
    decided = table.target_N != 0.5
    yes = table.target_N > 0.5
    return max(candidates, key=lambda words: float((words == yes)[decided].mean()) if decided.any() else 0.0)
