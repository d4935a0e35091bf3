"""What `eval survey` asks: which questions of a file, for which countries, under which culture of each.

What a model answers to questions that it was trained on does not show what it learnt of a people. So by
default (`auto`) those are left out where adapters were trained on the file, and none where they were not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steer_server.errors import EvaluationError
from steer_server.evaluation.answers import Answers, Key, Readout
from steer_server.evaluation.client import Culture
from steer_server.evaluation.survey.scores import FIXED_ROWS
from steer_server.evaluation.survey.trained import (
    Survey,
    check_split,
    read_recipes,
    trained_texts,
    was_trained_on,
)
from steer_server.training.survey_data import LETTERS, SurveyQuestion, read_survey


@dataclass(frozen=True)
class SurveyOptions:
    url: str
    data: Path
    known: Path | None = None
    """The data that was trained on: says what training saw, and baselines learn from it too."""
    api_key: str = ""
    questions: str = "auto"
    """`held-out`: those that training does not see, which is a question's text in `known`, and without that
    its id in `data`; `all`; or `auto`: `held-out` if adapters were trained on rows of `data`, else `all`."""
    seed: int = 20261121
    """Training's; also of option orders and resamples."""
    held_out_share: float = 0.2
    """Training's."""
    adapters: Path = Path("adapters")
    """Where the recipes of the served cultures are, which say how they were trained."""
    mapped: tuple[str, ...] = ()
    """`COUNTRY=CULTURE` that a country is asked under, whatever the culture lists."""
    concurrency: int = 16
    orders: int = 2
    """Option orders of the letters readout: natural, reversed, then random."""
    cultures: tuple[str, ...] = ()
    """Only these, and no countries that others list; empty for all."""
    readouts: tuple[Readout, ...] = ("letters", "words")
    pairs: int = 3
    """Pairs of cultures, the most different first, that are blended."""
    limit: int = 0
    """Only so many questions, spread over the survey; 0 for all."""


@dataclass
class SurveyRun:
    """Everything that was asked and answered."""

    cultures: dict[str, Culture]
    own: dict[str, str]
    """Country -> the culture that it is asked under; not all have one."""
    countries: list[str]
    """That are scored."""
    people: dict[str, dict[Key, SurveyQuestion]]
    """Country -> its questions; also those that are not asked, and of countries that are not scored."""
    asked: list[Key]
    """Questions of `countries`."""
    learnt: dict[str, dict[Key, SurveyQuestion]]
    """By country, what baselines without a model learn from."""
    answers: dict[Readout, Answers]
    questions: str
    """`held-out` or `all`."""
    num_trained: int
    """Questions of the file that were left out, as training sees them."""
    num_left_out: int
    """Questions with fewer than two options or more than there are letters."""
    remarks: list[str]
    baselines: str
    """What those without a model learnt from, in words."""
    pairs: list[tuple[str, str]] = field(default_factory=list)


def plan_run(options: SurveyOptions, offered: Sequence[Culture]) -> SurveyRun:
    """What is to be asked.

    Raises: EvaluationError for an unknown culture, a wrong `mapped`, a seed or share that is not that of the
    cultures' recipes, or when there is nothing to ask.
    """
    survey = read_survey(options.data)
    known = read_survey(options.known) if options.known else {}
    if taken := sorted({c.id for c in offered} & set(FIXED_ROWS)):
        raise EvaluationError(f"a culture has the name of a row of the report: {', '.join(taken)}")
    listed = own_cultures(offered, options.cultures, survey)
    cultures = {c.id: c for c in offered if not options.cultures or c.id in options.cultures}
    own = dict(sorted((listed | _mapped(options.mapped, survey, cultures)).items()))
    others = own_cultures(offered, (), survey).keys() - own.keys()
    countries = sorted(survey.keys() - others)
    if not countries:
        raise EvaluationError(
            f"no country of {options.data.name} ({', '.join(sorted(survey))}) is asked under "
            f"{', '.join(options.cultures)}"
        )
    trained = trained_texts(known or survey, options.seed, options.held_out_share)
    is_held_out, why = _leaves_out(options, cultures, survey, known)
    people = {country: _by_key(rows) for country, rows in survey.items()}
    every = list(dict.fromkeys(key for country in countries for key in people[country]))
    left_out = [key for key in every if is_held_out and key[0] in trained]
    may_be_asked = [key for key in every if key not in left_out]
    asked = [key for key in may_be_asked if 2 <= len(key[1]) <= len(LETTERS)]
    remarks = [
        _remark_on_questions(options, is_held_out, why, len(left_out), asked, trained),
        *_remarks_on_countries(options, cultures, own, countries),
    ]
    if not asked:
        raise EvaluationError(f"there is no question to ask. {remarks[0]}")
    num_left_out = len(may_be_asked) - len(asked)
    if options.limit and len(asked) > options.limit:
        asked = [asked[i * len(asked) // options.limit] for i in range(options.limit)]

    def may_learn(row: SurveyQuestion) -> bool:
        return bool(known) or not is_held_out or row.question in trained

    return SurveyRun(
        cultures=cultures,
        own=own,
        countries=countries,
        people=people,
        asked=asked,
        learnt={
            c: _by_key([*known.get(c, ()), *filter(may_learn, survey.get(c, ()))])
            for c in {**known, **survey}
        },
        answers={readout: {} for readout in options.readouts},
        questions="held-out" if is_held_out else "all",
        num_trained=len(left_out),
        num_left_out=num_left_out,
        remarks=remarks,
        baselines=_describe_baselines(options, survey, known),
    )


def own_cultures(
    offered: Sequence[Culture], only: Sequence[str], countries: Collection[str]
) -> dict[str, str]:
    """Country -> the culture that lists it or has its name, for those of `countries` that have one; of
    several, the one with the fewest countries. `only` narrows the cultures; empty for all.

    Raises: EvaluationError for a culture that the server does not have.
    """
    known = {culture.id for culture in offered}
    if unknown := sorted(set(only) - known):
        raise EvaluationError(f"the server has no culture {', '.join(unknown)}; it has {sorted(known)}")
    own: dict[str, str] = {}
    for culture in sorted(offered, key=lambda c: (len(c.countries), c.id)):
        for country in (*culture.countries, culture.id):
            if country in countries and (not only or culture.id in only):
                own.setdefault(country, culture.id)
    return dict(sorted(own.items()))


def _leaves_out(
    options: SurveyOptions, cultures: Mapping[str, Culture], survey: Survey, known: Survey
) -> tuple[bool, str]:
    """(whether questions that training sees are left out, why).

    Raises: EvaluationError by `check_split`.
    """
    if options.questions == "all":
        return False, "as --questions all says"
    recipes = read_recipes(options.adapters, cultures.values())
    of_this_file = any(was_trained_on(recipe, survey) for recipe in recipes.values())
    if options.questions == "auto":
        if options.known:
            seen = {(country, row.question) for country, rows in known.items() for row in rows}
            if not any((country, row.question) in seen for country, rows in survey.items() for row in rows):
                return False, f"{options.known.name} has none of these countries' answers to them"
        elif len(recipes) == len(cultures) and not of_this_file:
            return False, "by their recipes, no culture was trained on this file"
    check_split(recipes, options.seed, options.held_out_share)
    if options.known:
        return True, f"training on {options.known.name} saw them"
    if of_this_file:
        return True, "training saw them, as the cultures' recipes say"
    return True, "training saw them if this file is what was trained on; --known FILE says what was"


def _mapped(pairs: Iterable[str], survey: Survey, cultures: Collection[str]) -> dict[str, str]:
    """Raises: EvaluationError for a country or a culture that there is not."""
    found = {}
    for pair in pairs:
        country, _, culture = pair.partition("=")
        for name, names in ((country, survey), (culture, cultures)):
            if name not in names:
                raise EvaluationError(
                    f"--map {pair}: not COUNTRY=CULTURE; there is no {name!r}, there are {sorted(names)}"
                )
        found[country] = culture
    return found


def _by_key(rows: Iterable[SurveyQuestion]) -> dict[Key, SurveyQuestion]:
    return {(row.question, row.options): row for row in rows}


def _remark_on_questions(
    options: SurveyOptions,
    is_held_out: bool,
    why: str,
    num_trained: int,
    asked: Sequence[Key],
    trained: Collection[str],
) -> str:
    name = options.data.name
    if is_held_out:
        total = len(asked) + num_trained
        left_out = f"{num_trained} of {total} questions of {name} were left out: {why}."
        return f"{left_out} --questions all asks them too."
    remark = f"All {len(asked)} questions of {name} are asked: {why}."
    if options.known:
        num_seen = sum(text in trained for text, _ in asked)
        return f"{remark} Training saw {num_seen} of them, answered in the countries of {options.known.name}."
    return f"{remark} Which of them training saw, in whatever country, only --known FILE says."


def _remarks_on_countries(
    options: SurveyOptions,
    cultures: Mapping[str, Culture],
    own: Mapping[str, str],
    countries: Iterable[str],
) -> list[str]:
    remarks = []
    if without := [country for country in countries if country not in own]:
        remarks.append(
            f"No culture lists {', '.join(without)}: scored apart, without an own culture; "
            "--map COUNTRY=CULTURE asks a country under one."
        )
    foreign = {c: k for c, k in own.items() if c != k and c not in cultures[k].countries}
    if foreign:
        mapped = ", ".join(f"{country} ({culture})" for country, culture in foreign.items())
        remarks.append(f"By --map, asked under a culture that does not list it: {mapped}.")
    return remarks


def _describe_baselines(options: SurveyOptions, survey: Survey, known: Survey) -> str:
    learnt = f"Same options and pooled learnt from the file's {sum(map(len, survey.values()))} rows"
    if options.known:
        return f"{learnt} and {sum(map(len, known.values()))} of {options.known.name}."
    return f"{learnt} only; --known FILE adds the data that was trained on."
