"""`steer-server eval …`: measurements of how well a running server steers, that write a report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steer_server.evaluation.answers import Readout
from steer_server.evaluation.command_options import (
    REPORTS,
    ApiKey,
    Concurrency,
    Judges,
    MaxTokens,
    OnlyCultures,
    RecipeData,
    SamplingSeed,
    Steering,
    Url,
)
from steer_server.settings import Settings

commands = typer.Typer(no_args_is_help=True, help="Measure how well a running server steers.")


class Questions(StrEnum):
    AUTO = "auto"
    HELD_OUT = "held-out"
    ALL = "all"


Known = Annotated[
    Path | None,
    typer.Option(
        help="The data that was trained on: baselines without a model learn from it too.", exists=True
    ),
]


class Pairs(StrEnum):
    HELD_OUT = "held-out"
    ALL = "all"


class Readouts(StrEnum):
    LETTERS = "letters"
    WORDS = "words"
    BOTH = "both"


READOUTS: dict[Readouts, tuple[Readout, ...]] = {
    Readouts.LETTERS: ("letters",),
    Readouts.WORDS: ("words",),
    Readouts.BOTH: ("letters", "words"),
}


@commands.command("survey")
def survey(
    data: Annotated[
        Path, typer.Option(help="Survey answers: JSON lines, gzipped or not, or a CSV.", exists=True)
    ],
    out: Annotated[Path, typer.Option(help="Directory for report.json and report.html.")],
    known: Known = None,
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    questions: Annotated[
        Questions,
        typer.Option(help="Those held out of training, or all; auto: held out if this file was trained on."),
    ] = Questions.AUTO,
    seed: Annotated[int, typer.Option(help="Training's, which decides what is held out.")] = 20261121,
    held_out_share: Annotated[float, typer.Option(min=0, max=1, help="Training's.")] = 0.2,
    adapters: Annotated[
        Path, typer.Option(help="The served adapters, whose recipes say what was trained on.")
    ] = Path("adapters"),
    mapped: Annotated[
        list[str] | None,
        typer.Option("--map", help="COUNTRY=CULTURE that a country is asked under; repeatable."),
    ] = None,
    concurrency: Concurrency = 16,
    orders: Annotated[
        int, typer.Option(min=1, help="Option orders by letter: natural, reversed, random.")
    ] = 2,
    culture: OnlyCultures = None,
    readout: Annotated[Readouts, typer.Option(help="How answers are read.")] = Readouts.BOTH,
    pairs: Annotated[int, typer.Option(min=0, help="Pairs of cultures to blend, most different first.")] = 3,
    limit: Annotated[int, typer.Option(min=0, help="At most so many questions; 0 for all.")] = 0,
) -> None:
    """Distance of a running server's answers from people's, by country, beside baselines."""
    from steer_server.evaluation.survey.plan import SurveyOptions
    from steer_server.evaluation.survey.survey import evaluate_survey

    evaluate_survey(
        SurveyOptions(
            url=url,
            data=data,
            known=known,
            api_key=api_key,
            questions=questions.value,
            seed=seed,
            held_out_share=held_out_share,
            adapters=adapters,
            mapped=tuple(mapped or ()),
            concurrency=concurrency,
            orders=orders,
            cultures=tuple(culture or ()),
            readouts=READOUTS[readout],
            pairs=pairs,
            limit=limit,
        ),
        out,
    )


@commands.command("norms")
def norms(
    data: Annotated[
        Path, typer.Option(help="Social stories by country: JSON lines, gzipped or not.", exists=True)
    ],
    out: Annotated[Path, typer.Option(help="Directory for report.json and report.html.")],
    known: Known = None,
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    seed: Annotated[int, typer.Option(help="Of option orders and of the sample.")] = 20261121,
    concurrency: Concurrency = 16,
    orders: Annotated[int, typer.Option(min=1, max=6, help="Option orders to average over.")] = 3,
    culture: OnlyCultures = None,
    steered_only: Annotated[
        bool, typer.Option("--steered-only", help="Only stories of countries that a culture lists.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="At most so many stories, spread over countries.")] = 0,
) -> None:
    """Accuracy of a running server's judgements of social norms, by country, beside baselines."""
    from steer_server.evaluation.norms.norms import NormsOptions, evaluate_norms

    evaluate_norms(
        NormsOptions(
            url=url,
            data=data,
            known=known,
            api_key=api_key,
            seed=seed,
            concurrency=concurrency,
            orders=orders,
            cultures=tuple(culture or ()),
            steered_only=steered_only,
            limit=limit,
        ),
        out,
    )


@commands.command("pareto")
def pareto(
    recipe: Annotated[Path, typer.Option(help="That the preference adapter was trained by.", exists=True)],
    data: Annotated[Path, typer.Option(help="Directory of the recipe's data files.", exists=True)],
    url: Url = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/pareto"),
    api_key: ApiKey = "",
    points: Annotated[int, typer.Option(min=3, help="Of each sweep between two axes; odd.")] = 11,
    split: Annotated[
        Pairs, typer.Option(help="Those that training leaves out of these data, or all that are there.")
    ] = Pairs.HELD_OUT,
    pairs: Annotated[int, typer.Option(min=0, help="Most of these preference pairs per axis; 0: all.")] = 10,
    soup: Annotated[
        list[str] | None,
        typer.Option(help="AXIS=CULTURE trained on this axis alone; repeatable. Default RECIPE-AXIS."),
    ] = None,
    concurrency: Concurrency = 16,
) -> None:
    """How well a preference vector weighs one value axis against another, beside soups, prompts and fixed
    vectors."""
    from steer_server.evaluation.pareto.pareto import ParetoOptions, evaluate_pareto

    evaluate_pareto(
        ParetoOptions(
            url=url,
            recipe=recipe,
            data=data,
            api_key=api_key,
            points=points,
            split=split.value,
            pairs=pairs,
            soups=tuple(soup or ()),
            concurrency=concurrency,
        ),
        out,
    )


@commands.command("win-rate")
def win_rate(
    judges: Judges,
    data: RecipeData,
    url: Url = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/win-rate"),
    api_key: ApiKey = "",
    setting: Annotated[
        list[str] | None,
        typer.Option(help="NAME=JSON of a `steering` object; repeatable. Without: each value axis, a blend."),
    ] = None,
    against: Annotated[str, typer.Option(help="NAME=JSON to compare with; without, the base model.")] = "",
    judge: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    adapters: Steering = Path("adapters"),
    prompts: Annotated[int, typer.Option(min=0, help="Most prompts per judge; 0 for all.")] = 100,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    max_tokens: MaxTokens = 128,
    seed: SamplingSeed = 20261121,
    model: Annotated[str, typer.Option(help="The model that judges were trained on.")] = "builtin",
    concurrency: Concurrency = 16,
) -> None:
    """Whose answers judges prefer: a setting's or the base model's, beside length and the noise floor."""
    from steer_server.evaluation.samples import Sampling
    from steer_server.evaluation.win_rate.win_rate import WinRateOptions, evaluate_win_rate

    evaluate_win_rate(
        WinRateOptions(
            url=url,
            data=data,
            judges=judges,
            shipped=adapters,
            api_key=api_key,
            settings=tuple(setting or ()),
            against=against,
            only_judges=tuple(judge or ()),
            prompts=prompts,
            sampling=Sampling(temperature, max_tokens, seed),
            concurrency=concurrency,
        ),
        Settings.read(model=model),
        out,
    )


@commands.command("frozen")
def frozen(
    judges: Judges,
    data: RecipeData,
    url: Url = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help=f"{REPORTS} Answers are kept there too.")] = Path("out/frozen"),
    api_key: ApiKey = "",
    model: Annotated[str, typer.Option(help="NAME/model of an upstream; without, the served model.")] = "",
    value: Annotated[
        list[str] | None, typer.Option(help="Judge and steering head; repeatable. Without: every judge.")
    ] = None,
    statement: Annotated[
        list[str] | None, typer.Option(help="VALUE=TEXT: what is valued, in words; repeatable.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="NAME=JSON of a further `steering` object; repeatable.")
    ] = None,
    way: Annotated[list[str] | None, typer.Option(help="Only these, beside plain; repeatable.")] = None,
    adapters: Steering = Path("adapters"),
    candidates: Annotated[int, typer.Option(min=2, help="Of best-of-n, and of the prompt search.")] = 5,
    prompts: Annotated[int, typer.Option(min=0, help="Most prompts per value; 0 for all.")] = 100,
    timed_prompts: Annotated[int, typer.Option(min=0, help="Most that rewriting is timed with.")] = 30,
    temperature: Annotated[float, typer.Option(min=0.01)] = 0.7,
    max_tokens: MaxTokens = 128,
    seed: SamplingSeed = 20261121,
    judge_model: Annotated[str, typer.Option(help="The model that judges were trained on.")] = "builtin",
    concurrency: Annotated[int, typer.Option(min=1, help="Prompts under way at once.")] = 1,
) -> None:
    """Ways to steer a frozen model side by side: prompts, rewriting, denoising, best-of-n, adapters."""
    from steer_server.evaluation.frozen.frozen import FrozenOptions, evaluate_frozen
    from steer_server.evaluation.samples import Sampling

    evaluate_frozen(
        FrozenOptions(
            url=url,
            data=data,
            judges=judges,
            shipped=adapters,
            api_key=api_key,
            model=model,
            values=tuple(value or ()),
            statements=tuple(statement or ()),
            settings=tuple(setting or ()),
            only=tuple(way or ()),
            candidates=candidates,
            prompts=prompts,
            timed_prompts=timed_prompts,
            sampling=Sampling(temperature, max_tokens, seed),
            concurrency=concurrency,
        ),
        Settings.read(model=judge_model),
        out,
    )


@commands.command("ability")
def ability(
    url: Url = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/ability"),
    api_key: ApiKey = "",
    setting: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=JSON of a `steering` object; repeatable. Without: each culture and axis, a blend."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of resamples.")] = 20261121,
    concurrency: Concurrency = 16,
    limit: Annotated[
        int, typer.Option(min=0, help="At most so many passages and so many questions; 0 for all.")
    ] = 0,
) -> None:
    """Perplexity of neutral prose and accuracy on common knowledge under every setting, beside the base."""
    from steer_server.evaluation.ability.ability import AbilityOptions, evaluate_ability

    evaluate_ability(
        AbilityOptions(
            url=url,
            api_key=api_key,
            settings=tuple(setting or ()),
            seed=seed,
            concurrency=concurrency,
            limit=limit,
        ),
        out,
    )
