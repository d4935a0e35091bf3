from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from steer_server.errors import TrainingError
from steer_server.training.answers import AnswerEncoder
from steer_server.training.self_pluralising import fill_in, read_questions
from tests.support.adapters import TINY
from tests.support.tiny_model import tiny_model_with_weights


def write_questions(path: Path, rows: list[dict]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_questions_that_cannot_be_lettered_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"question": "Tea?", "option_lst": ["yes", "no"]},
        {"question": "One?", "option_lst": ["yes", "yes"]},
        {"question": "", "option_lst": ["yes", "no"]},
    ]
    (found,) = read_questions(write_questions(tmp_path / "q.gz", rows), 10, seed=1)
    assert found.question == "Tea?" and found.distribution == (0.5, 0.5)
    with pytest.raises(TrainingError, match=r"q\.gz"):
        read_questions(write_questions(tmp_path / "q.gz", rows[1:]), 10, seed=1)


def test_only_answers_that_naming_the_culture_changes_are_kept(tmp_path: Path) -> None:
    """The reference asks one question at a time and compares the two most likely answers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from steer_server.training.self_pluralising import UNAWARE, _likeliest, aware

    folder = tiny_model_with_weights(tmp_path / TINY)
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    for parameter in model.parameters():
        parameter.data *= 5  # Fresh weights are so small that no prompt changes an answer.
    encoder = AnswerEncoder(AutoTokenizer.from_pretrained(folder))
    rows = [
        {"question": f"Tea {i}{'!' * i}?", "option_lst": ["yes", "no", "maybe", "why"]} for i in range(24)
    ]
    questions = read_questions(write_questions(tmp_path / "q.gz", rows), 24, seed=1)
    survey = fill_in(model, encoder, questions, "Atlantis")
    kept = {row.question: row.distribution for row in survey.changed}
    assert survey.num_asked == 24 and 0 < len(kept) < 24
    for question in questions:
        before, after = (
            _likeliest(model, encoder, [question] * 2, [range(4), range(4)[::-1]], system, "one")[0]
            for system in (UNAWARE, aware("Atlantis"))
        )
        assert (question.question in kept) == (before != after)
        if before != after:
            assert kept[question.question][after] == 1.0
