import gzip
import json
from pathlib import Path

import pytest

from steer_server.errors import TrainingError
from steer_server.training.reward_data import Row, assign_folds, assign_parts, read_rows
from steer_server.training.reward_recipe import RewardRecipe
from tests.support.servers import ROOT


def write(path: Path, *records: dict) -> Path:
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def row(unit: str, group: str) -> Row:
    return Row(unit, group, (("user", "?"),), "a", None, 1.0)


def test_a_neutral_norm_counts_half(tmp_path: Path) -> None:
    records = [{"country": "chad", "story": "Tea.", "label": label} for label in ("yes", "neutral", "no")]
    rows = read_rows("normad", write(tmp_path / "n.gz", *records))
    assert [r.target for r in rows] == [1.0, 0.5, 0.0]
    assert {(r.unit, r.group, r.answer, r.other) for r in rows} == {("chad", "chad", "Tea.", None)}


def test_a_post_is_one_unit_that_every_country_judges(tmp_path: Path) -> None:
    record = {"id": "p1", "text": "hi", "labels": {"A": 1, "B": 0}}
    rows = read_rows("crehate", write(tmp_path / "c.gz", record))
    assert [(r.unit, r.group, r.target) for r in rows] == [("p1", "A", 0.0), ("p1", "B", 1.0)]


def test_a_dialogue_becomes_turns_and_two_last_answers(tmp_path: Path) -> None:
    start = "\n\nHuman: Q\n\nAssistant: A\n\nsecond paragraph\n\nHuman: R\n\nAssistant: "
    (pair,) = read_rows("hh", write(tmp_path / "h.gz", {"chosen": start + "good", "rejected": start + "bad"}))
    assert pair.messages == (("user", "Q"), ("assistant", "A\n\nsecond paragraph"), ("user", "R"))
    assert (pair.answer, pair.other, pair.target) == ("good", "bad", 1.0)


def test_dialogues_that_part_earlier_are_left_out(tmp_path: Path) -> None:
    same = {"chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: Q\n\nAssistant: b"}
    other = {"chosen": "\n\nHuman: Q\n\nAssistant: a", "rejected": "\n\nHuman: R\n\nAssistant: b"}
    assert len(read_rows("hh", write(tmp_path / "h.gz", same, other))) == 1


def test_votes_become_a_share_and_ties_are_not_forced(tmp_path: Path) -> None:
    base = {"instruction": "Do", "input": "", "response1": "x", "response2": "y"}
    votes = [(1, 1, 2), (0, 0, 0), (2, 2, 2)]
    records = [{**base, **{f"annotator{i + 1}": v for i, v in enumerate(vote)}} for vote in votes]
    rows = read_rows("pandalm", write(tmp_path / "p.gz", *records))
    assert [r.target for r in rows] == [pytest.approx(2 / 3), 0.5, 0.0]
    tie = {"prompt": "Do", "response 1": "x", "response 2": "y", "label": 2}
    assert read_rows("autoj", write(tmp_path / "a.gz", tie))[0].target == 0.5


def test_a_newcomers_own_tables_can_be_read(tmp_path: Path) -> None:
    table = tmp_path / "own.csv"
    table.write_text('prompt,answer,label,group\n"Hello, you",hi,1,north\nBye,no,0.25,south\n')
    judged = read_rows("judgements", table)
    assert [(r.unit, r.group, r.target) for r in judged] == [
        ("Hello, you", "north", 1.0),
        ("Bye", "south", 0.25),
    ]
    lines = tmp_path / "own.jsonl"
    lines.write_text('{"prompt": "Hello", "chosen": "hi", "rejected": "go"}\n\n')
    (pair,) = read_rows("choices", lines)
    assert (pair.answer, pair.other, pair.group, pair.target) == ("hi", "go", "", 1.0)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "prompt,answer,label\nq,a,3\n", "row 1: ValueError label 3.0"),
        ("a.csv", "prompt,answer\nq,a\n", "row 1: KeyError 'label'"),
        ("a.csv", "prompt,answer,label\n", "no rows"),
        ("a.jsonl", "{", "cannot read"),
    ],
)
def test_a_bad_table_is_an_error_that_names_the_row(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TrainingError, match=says):
        read_rows("judgements", tmp_path / name)


def test_an_unknown_reader_or_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no reader 'nromad'"):
        read_rows("nromad", tmp_path / "x")
    with pytest.raises(TrainingError, match="cannot read"):
        read_rows("normad", tmp_path / "x.gz")


def test_every_unit_lies_in_one_part_whatever_the_order_and_every_head_has_all_parts() -> None:
    owner = {f"north{i}": "north" for i in range(3)} | {f"south{i}": "south" for i in range(30)}
    rows = [row(country, country) for country in owner for _ in range(4)]
    parts = assign_parts(rows, owner, 0.2, 0.3, seed=1)
    assert parts == assign_parts(rows[::-1], owner, 0.2, 0.3, seed=1)
    assert parts != assign_parts(rows, owner, 0.2, 0.3, seed=2)
    assert sorted(parts[f"north{i}"] for i in range(3)) == ["judge", "steer", "test"]
    south = [parts[f"south{i}"] for i in range(30)]
    assert (south.count("test"), south.count("judge"), south.count("steer")) == (6, 9, 15)


def test_a_unit_that_several_heads_share_is_still_in_one_part() -> None:
    rows = [row(f"post{i}", country) for i in range(50) for country in ("A", "B")]
    parts = assign_parts(rows, {"A": "a", "B": "b"}, 0.2, 0.3, seed=1)
    assert len(parts) == 50 and list(parts.values()).count("test") == 10


def test_folds_spread_every_heads_units() -> None:
    owner = {f"north{i}": "north" for i in range(5)} | {f"south{i}": "south" for i in range(15)}
    folds = assign_folds([row(c, c) for c in owner], owner, 5, seed=1)
    assert {folds[f"north{i}"] for i in range(5)} == set(range(5))


def test_the_shipped_recipe_has_eight_cultures_and_the_two_values() -> None:
    recipe = RewardRecipe.read(ROOT / "adapters" / "reward_heads.yaml")
    assert sum(head.culture is not None for head in recipe.heads) >= 8
    assert {"helpful", "harmless"} <= {head.head for head in recipe.heads}


GOOD = """
sources: {s: {file: f, reader: judgements, source: mine, licence: mine}}
heads:
  - {head: a, sources: [s], description: d, label_meaning: m, groups: {x: AAA}}
  - {head: b, sources: [s], description: d, label_meaning: m, groups: {y: BBB}}
"""


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("head: b", "head: a", "share a name"),
        ("sources: [s]", "sources: [t]", "no source"),
        ("y: BBB", "x: BBB", "group x is in a and in b"),
        ("reader:", "raeder:", "raeder"),
    ],
)
def test_a_recipe_that_does_not_fit_together_is_an_error(
    tmp_path: Path, before: str, after: str, says: str
) -> None:
    (tmp_path / "r.yaml").write_text(GOOD)
    assert len(RewardRecipe.read(tmp_path / "r.yaml").heads) == 2
    (tmp_path / "r.yaml").write_text(GOOD.replace(before, after))
    with pytest.raises(TrainingError, match=says):
        RewardRecipe.read(tmp_path / "r.yaml")
