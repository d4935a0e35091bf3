from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from steer_server.errors import TrainingError
from steer_server.training.panacea_recipe import PanaceaRecipe
from steer_server.training.preference_data import (
    PairSampler,
    PreferencePair,
    axis_split,
    fold_of,
    held_out_pairs,
    read_pairs,
    split_pairs,
    spread,
    without_near_copies,
)
from steer_server.training.reward_data import read_rows
from tests.support.servers import ROOT

RECIPE = PanaceaRecipe.model_validate(
    {
        "name": "small",
        "training": {"held_out_share": 0.5},
        "sources": {
            "votes": {"file": "votes.gz", "reader": "pandalm", "source": "made up", "licence": "none"},
            "bold": {"file": "bold.gz", "reader": "persona", "source": "made up", "licence": "none"},
        },
        "axes": [
            {"axis": "helpful", "description": "h", "sources": ["votes"]},
            {"axis": "careful", "description": "c", "reversed_sources": ["bold"]},
        ],
    }
)


def write(path: Path, records: list[dict]) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    votes = [(1, 1, 2), (2, 2, 2), (0, 0, 0)]
    write(
        tmp_path / "votes.gz",
        [
            {"instruction": f"Do {i}", "input": "", "response1": "x", "response2": "y"}
            | {f"annotator{j + 1}": vote for j, vote in enumerate(votes[i % 3])}
            for i in range(30)
        ],
    )
    matching = {"answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}
    write(tmp_path / "bold.gz", [{"question": f"Jump {i}?", **matching} for i in range(30)])
    return tmp_path


def pairs_of(source: str, units: dict[str, int]) -> list[PreferencePair]:
    return [
        PreferencePair(unit, source, (("user", unit),), f"good {i}", "bad", 1.0)
        for unit, count in units.items()
        for i in range(count)
    ]


def test_a_persona_row_is_a_choice_between_yes_and_no(data: Path) -> None:
    row = read_rows("persona", data / "bold.gz")[0]
    assert (row.unit, row.answer, row.other, row.target) == ("Jump 0?", "Yes", "No", 1.0)


def test_votes_choose_ties_drop_and_a_reversed_source_turns_round(data: Path) -> None:
    first, second, third, *_ = read_pairs(RECIPE, RECIPE.axis("helpful"), data)
    assert (first.chosen, first.certainty) == ("x", pytest.approx(2 / 3))
    assert (second.chosen, second.rejected, second.certainty) == ("y", "x", 1.0)
    assert third.unit == "Do 3", "the tie is left out"
    (bold, *_) = read_pairs(RECIPE, RECIPE.axis("careful"), data)
    assert (bold.chosen, bold.rejected, bold.certainty) == ("No", "Yes", 1.0)


def test_a_prompt_is_on_one_side_whatever_the_source_and_the_order() -> None:
    one, other = (
        pairs_of("a", {f"u{i}": 3 for i in range(40)}),
        pairs_of("b", {f"u{i}": 1 for i in range(40)}),
    )
    training, held_out = split_pairs(one + other, 0.25, seed=3)
    assert not {p.unit for p in training} & {p.unit for p in held_out}
    assert len(training) + len(held_out) == 160 and held_out
    assert set(split_pairs(other[::-1], 0.25, seed=3)[1]) == {p for p in held_out if p.source == "b"}


def test_the_held_out_pairs_can_be_found_again(data: Path) -> None:
    training, held_out = axis_split(RECIPE, "helpful", data)
    assert held_out_pairs(RECIPE, "helpful", data) == held_out
    few = held_out_pairs(RECIPE, "helpful", data, most=3)
    assert few == held_out_pairs(RECIPE, "helpful", data, most=3) and len(few) == 3
    assert set(few) <= set(held_out) and not set(few) & set(training)
    with pytest.raises(TrainingError, match="helpfull"):
        held_out_pairs(RECIPE, "helpfull", data)


def test_near_copies_of_what_is_trained_on_are_left_out() -> None:
    """Jaccard index of the words at least 0.7: of ten words one changed gives 9/11, two 8/12."""
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    training = pairs_of("a", {" ".join(words): 1, "something else": 1})
    copies = [" ".join(words).upper() + "?", " ".join(["eleven", *words[1:]]), " ".join(words[:7])]
    others = [" ".join(["eleven", "twelve", *words[2:]]), " ".join(words[:6]), "nothing else"]
    held_out = pairs_of("b", dict.fromkeys([*copies, *others], 2))
    assert [pair.unit for pair in without_near_copies(held_out, training)[::2]] == others
    with pytest.raises(TrainingError, match="each of 2 held-out pairs is a near copy"):
        without_near_copies(held_out[:2], training)


def test_what_all_prompts_of_a_source_begin_with_makes_no_near_copies() -> None:
    begin = "Is the following statement something that you would say? "
    training, held_out = (pairs_of("a", {f"{begin}{text}": 1 for text in texts}) for texts in ("bcd", "efg"))
    assert without_near_copies(held_out, training) == held_out
    copy = pairs_of("a", {f"{begin}D!": 1})
    assert without_near_copies([*held_out, *copy], training) == held_out


def test_the_held_out_pairs_are_the_first_of_the_folds() -> None:
    pairs = pairs_of("a", {f"u{i}": 1 for i in range(200)})
    _, held_out = split_pairs(pairs, 0.2, seed=3)
    folds = [fold_of(pair, 0.2, seed=3) for pair in pairs]
    assert [pair for pair, fold in zip(pairs, folds, strict=True) if fold == 0] == held_out
    assert set(folds) == set(range(5)) and min(Counter(folds).values()) > 20


def test_a_few_pairs_cover_sources_and_prompts() -> None:
    pairs = pairs_of("big", {"often": 50, "once": 1, "twice": 2}) + pairs_of("small", {"s1": 1, "s2": 1})
    found = spread(pairs, 5, seed=1)
    assert Counter(p.source for p in found) == {"big": 3, "small": 2}
    assert {p.unit for p in found} == {"often", "once", "twice", "s1", "s2"}


def test_minibatches_follow_from_their_key_and_count_sources_and_prompts_alike() -> None:
    pairs = pairs_of("big", {"often": 90, "once": 1}) + pairs_of("small", {"s": 1})
    sampler = PairSampler(pairs, batch_size=4)
    drawn = [sampler.draw(f"1:{step}") for step in range(2000)]
    assert sampler.draw("1:17") == drawn[17]
    assert all(len(batch) == 4 and len({p.source for p in batch}) == 1 for batch in drawn)
    units = Counter(p.unit for batch in drawn for p in batch)
    total = sum(units.values())
    assert units["s"] / total == pytest.approx(0.5, abs=0.05)
    assert units["often"] / total == pytest.approx(0.25, abs=0.05)


def test_the_shipped_recipe_has_the_axes_that_are_promised() -> None:
    recipe = PanaceaRecipe.read(ROOT / "adapters" / "panacea.yaml")
    assert {"helpful", "harmless", "risk_averse", "traditional"} == {axis.axis for axis in recipe.axes}
    assert all(axis.description and axis.known_failures for axis in recipe.axes)
    assert len(recipe.data_sources) == len(recipe.sources)


def test_what_differs_from_the_file_is_part_of_the_name() -> None:
    assert RECIPE.narrowed([], None).name == "small"
    assert RECIPE.narrowed([], "linear") == RECIPE
    one = RECIPE.narrowed(["careful"], "tchebycheff")
    assert one.training.num_steps == RECIPE.training.num_steps // 2
    assert one.name == "small-careful-tchebycheff" and one.training.aggregation == "tchebycheff"
    assert [source.source for source in one.data_sources] == ["made up"] and len(one.axes) == 1
    with pytest.raises(TrainingError, match="carefull"):
        RECIPE.narrowed(["carefull"], None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nsources: {}\naxes: []", "axes"),
        ("name: a\nsources: {}\naxes: [{axis: x, description: d, sources: [nowhere]}]", "nowhere"),
        ("name: a\nsources: {}\naxes: [{axis: x, description: d}]", "needs sources"),
        ("name: a\ntraining: {num_step: 3}\nsources: {}\naxes: []", "num_step"),
        ("name: {", "cannot read"),
    ],
)
def test_a_bad_recipe_is_an_error_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(TrainingError, match=message):
        PanaceaRecipe.read(path)
