"""`steer-server bench …` and `steer-server eval …`: measurements that write a report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steer_server.evaluation.answers import Readout
from steer_server.settings import Settings

bench_commands = typer.Typer(no_args_is_help=True, help="Measure speed.")
eval_commands = typer.Typer(no_args_is_help=True, help="Measure how well a running server steers.")


class Questions(StrEnum):
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
Url = Annotated[str, typer.Option(help="Such as http://127.0.0.1:8000")]
REPORTS = "Directory for report.json and report.html."
ApiKey = Annotated[str, typer.Option(envvar="STEER_API_KEY")]
OperatorKey = Annotated[str, typer.Option(envvar="STEER_ADMIN_KEY", help="Operator key, if any is needed.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Requests under way at once.")]
OnlyCultures = Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")]


@bench_commands.command("throughput")
def throughput(
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/throughput"),
    adapters: Annotated[Path, typer.Option()] = Path("adapters"),
    batch: Annotated[list[int] | None, typer.Option(help="Batch sizes; repeatable.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of all engines, interleaved.")] = 2,
) -> None:
    """Speed side by side: no LoRA, stock vLLM LoRA, and the bank unsteered, with one blend and with
    all-different ones."""
    from steer_server.evaluation.throughput import run_throughput

    run_throughput(Settings.read(adapters=adapters.resolve()), batch or [1, 8, 32, 64], repeats, out)


@bench_commands.command("scale")
def scale(
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/scale"),
    bank: Annotated[list[str] | None, typer.Option(help="SLOTSxRANK, such as 32x16; repeatable.")] = None,
    operations_per_byte: Annotated[
        float, typer.Option(min=1, help="Of the machine in bf16; an H100 has 989 TFLOP/s over 3.35 TB/s.")
    ] = 295.0,
) -> None:
    """The bank's memory and work in larger models, and when a gather per adapter is cheaper, by formula."""
    from steer_server.evaluation.scale import show_scale

    banks = []
    for text in bank or ["8x8", "8x16", "32x16", "128x16"]:
        slots, _, rank = text.partition("x")
        if not (slots.isdigit() and rank.isdigit() and int(slots) and int(rank)):
            raise typer.BadParameter(f"takes SLOTSxRANK, not {text!r}", param_hint="--bank")
        banks.append((int(slots), int(rank)))
    show_scale(banks, operations_per_byte, out)


@bench_commands.command(
    "overhead", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def overhead(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/overhead"),
    model: Annotated[str, typer.Option(help="Of both servers.")] = "builtin",
    adapters: Annotated[Path, typer.Option(help="Cultures to blend; at least two.")] = Path("adapters"),
    rounds: Annotated[int, typer.Option(min=1, help="Of all ways, interleaved.")] = 5,
    requests: Annotated[int, typer.Option(min=1, help="Of each way in a round.")] = 200,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 8,
    tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 4,
    plans: Annotated[int, typer.Option(min=0, help="Distinct ones to watch memory over; 0: none.")] = 10_000,
) -> None:
    """What the HTTP part costs beside stock vLLM's own server, which this starts too: CPU, memory, planning.
    Further options go to both servers, such as `--max-model-len 2048`."""
    from steer_server.evaluation.overhead import OverheadOptions, evaluate_overhead

    options = OverheadOptions(rounds, requests, concurrency, tokens, plans)
    settings = Settings.read(model=model, adapters=adapters.resolve())
    evaluate_overhead(options, settings, context.args, out)


@bench_commands.command("churn")
def churn(
    package: Annotated[Path, typer.Option(help="Of a culture; copies of it are churned.", exists=True)],
    url: Url = "http://127.0.0.1:8000",
    key: OperatorKey = "",
    streams: Annotated[int, typer.Option(min=1, help="Streaming requests under way at once.")] = 32,
    acts: Annotated[int, typer.Option(min=0, help="Acts of the operator.")] = 200,
    names: Annotated[int, typer.Option(min=2, help="Churned adapters, of two versions each.")] = 3,
    quiet_seconds: Annotated[float, typer.Option(min=0, help="The same streams without acts.")] = 60.0,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/churn"),
    seed: Annotated[int, typer.Option(help="Of requests and acts.")] = 20261121,
) -> None:
    """Streams of a running server while adapters are pushed, switched, quarantined and removed."""
    from steer_server.evaluation.churn import ChurnOptions, evaluate_churn

    options = ChurnOptions(url, package, key, streams, acts, names, quiet_seconds, seed=seed)
    evaluate_churn(options, out)


@bench_commands.command("reload")
def reload(
    package: Annotated[Path, typer.Option(help="Of a culture; copies of it are loaded.", exists=True)],
    url: Url = "http://127.0.0.1:8000",
    key: OperatorKey = "",
    cycles: Annotated[int, typer.Option(min=1, help="Times an adapter is loaded and unloaded.")] = 1000,
    slots: Annotated[int, typer.Option(min=0, help="Of the bank; 0: as the server says.")] = 0,
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/reload"),
) -> None:
    """Load and unload adapters of a running server many times: are slots and memory back where they were?"""
    from steer_server.evaluation.reload import ReloadOptions, evaluate_reload

    evaluate_reload(ReloadOptions(url, package, key, cycles, slots), out)


@bench_commands.command("rewards")
def rewards(
    judges: Annotated[
        Path, typer.Option(help="Directory of judges: `train reward-head --split judge`.", exists=True)
    ],
    data: Annotated[Path, typer.Option(help="Directory of the recipes' data files.", exists=True)],
    url: Url = "http://127.0.0.1:8000",
    key: OperatorKey = "",
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/rewards"),
    adapters: Annotated[Path, typer.Option(help="The adapters that are served.")] = Path("adapters"),
    head: Annotated[str, typer.Option(help="That chooses.")] = "harmless",
    judge: Annotated[str, typer.Option(help="Without: of the head's name.")] = "",
    answers: Annotated[int, typer.Option(min=1, max=256, help="Scored at once.")] = 64,
    more_heads: Annotated[int, typer.Option(min=0, help="Pushed for the comparison.")] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Of measuring the cost.")] = 7,
    prompts: Annotated[int, typer.Option(min=1, help="Most prompts to answer.")] = 100,
    candidates: Annotated[int, typer.Option(min=2, help="n of best-of-n.")] = 4,
    temperature: Annotated[float, typer.Option(min=0.01)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 64,
    seed: Annotated[int, typer.Option(help="Of prompts and sampling.")] = 20261121,
    model: Annotated[str, typer.Option(help="The model that the judge was trained on.")] = "builtin",
    concurrency: Annotated[int, typer.Option(min=1, help="Prompts under way at once.")] = 4,
) -> None:
    """What scoring costs beside a prefill, and what best-of-n gains beside one answer and a client's own."""
    from steer_server.evaluation.rewards import RewardsOptions, evaluate_rewards
    from steer_server.evaluation.samples import Sampling

    evaluate_rewards(
        RewardsOptions(
            url=url,
            data=data,
            judges=judges,
            shipped=adapters,
            key=key,
            head=head,
            judge=judge,
            answers=answers,
            more_heads=more_heads,
            rounds=rounds,
            prompts=prompts,
            candidates=candidates,
            sampling=Sampling(temperature, max_tokens, seed),
            concurrency=concurrency,
        ),
        Settings.read(model=model),
        out,
    )


@eval_commands.command("survey")
def survey(
    data: Annotated[Path, typer.Option(help="Survey answers, gzipped JSON lines.", exists=True)],
    out: Annotated[Path, typer.Option(help="Directory for report.json and report.html.")],
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    questions: Annotated[Questions, typer.Option(help="Those held out of training, or all.")] = (
        Questions.HELD_OUT
    ),
    seed: Annotated[int, typer.Option(help="Training's, which decides what is held out.")] = 20261121,
    held_out_share: Annotated[float, typer.Option(min=0, max=1, help="Training's.")] = 0.2,
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
    from steer_server.evaluation.survey import SurveyOptions, evaluate_survey

    evaluate_survey(
        SurveyOptions(
            url=url,
            data=data,
            api_key=api_key,
            questions=questions.value,
            seed=seed,
            held_out_share=held_out_share,
            concurrency=concurrency,
            orders=orders,
            cultures=tuple(culture or ()),
            readouts=READOUTS[readout],
            pairs=pairs,
            limit=limit,
        ),
        out,
    )


@eval_commands.command("norms")
def norms(
    data: Annotated[Path, typer.Option(help="Social stories by country, gzipped JSON lines.", exists=True)],
    out: Annotated[Path, typer.Option(help="Directory for report.json and report.html.")],
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = "",
    seed: Annotated[int, typer.Option(help="Of option orders, of the sample and of the folds.")] = 20261121,
    concurrency: Concurrency = 16,
    orders: Annotated[int, typer.Option(min=1, max=6, help="Option orders to average over.")] = 3,
    culture: OnlyCultures = None,
    steered_only: Annotated[
        bool, typer.Option("--steered-only", help="Only stories of countries that a culture lists.")
    ] = False,
    limit: Annotated[int, typer.Option(min=0, help="At most so many stories, spread over countries.")] = 0,
) -> None:
    """Accuracy of a running server's judgements of social norms, by country, beside baselines."""
    from steer_server.evaluation.norms import NormsOptions, evaluate_norms

    evaluate_norms(
        NormsOptions(
            url=url,
            data=data,
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


@eval_commands.command("pareto")
def pareto(
    recipe: Annotated[Path, typer.Option(help="That the preference adapter was trained by.", exists=True)],
    data: Annotated[Path, typer.Option(help="Directory of the recipe's data files.", exists=True)],
    url: Url = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/pareto"),
    api_key: ApiKey = "",
    points: Annotated[int, typer.Option(min=3, help="Of each sweep between two axes; odd.")] = 11,
    pairs: Annotated[
        int, typer.Option(min=0, help="Most held-out preference pairs per axis; 0 for all.")
    ] = 10,
    soup: Annotated[
        list[str] | None,
        typer.Option(help="AXIS=CULTURE trained on this axis alone; repeatable. Default RECIPE-AXIS."),
    ] = None,
    concurrency: Concurrency = 16,
) -> None:
    """How well a preference vector weighs one value axis against another, beside soups, prompts and fixed
    vectors."""
    from steer_server.evaluation.pareto import ParetoOptions, evaluate_pareto

    evaluate_pareto(
        ParetoOptions(
            url=url,
            recipe=recipe,
            data=data,
            api_key=api_key,
            points=points,
            pairs=pairs,
            soups=tuple(soup or ()),
            concurrency=concurrency,
        ),
        out,
    )


@eval_commands.command("win-rate")
def win_rate(
    judges: Annotated[
        Path, typer.Option(help="Directory of judges: `train reward-head --split judge`.", exists=True)
    ],
    data: Annotated[Path, typer.Option(help="Directory of the recipes' data files.", exists=True)],
    url: Url = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help=REPORTS)] = Path("out/win-rate"),
    api_key: ApiKey = "",
    setting: Annotated[
        list[str] | None,
        typer.Option(help="NAME=JSON of a `steering` object; repeatable. Without: each value axis, a blend."),
    ] = None,
    against: Annotated[str, typer.Option(help="NAME=JSON to compare with; without, the base model.")] = "",
    judge: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    adapters: Annotated[
        Path, typer.Option(help="The adapters that steer, whose training data is not asked about.")
    ] = Path("adapters"),
    prompts: Annotated[int, typer.Option(min=0, help="Most prompts per judge; 0 for all.")] = 100,
    temperature: Annotated[float, typer.Option(min=0)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    seed: Annotated[int, typer.Option(help="Of prompts and sampling.")] = 20261121,
    model: Annotated[str, typer.Option(help="The model that judges were trained on.")] = "builtin",
    concurrency: Concurrency = 16,
) -> None:
    """Whose answers judges prefer: a setting's or the base model's, beside length and the noise floor."""
    from steer_server.evaluation.samples import Sampling
    from steer_server.evaluation.win_rate import WinRateOptions, evaluate_win_rate

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


@eval_commands.command("frozen")
def frozen(
    judges: Annotated[
        Path, typer.Option(help="Directory of judges: `train reward-head --split judge`.", exists=True)
    ],
    data: Annotated[Path, typer.Option(help="Directory of the recipes' data files.", exists=True)],
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
    adapters: Annotated[
        Path, typer.Option(help="The adapters that steer, whose training data is not asked about.")
    ] = Path("adapters"),
    candidates: Annotated[int, typer.Option(min=2, help="Of best-of-n, and of the prompt search.")] = 5,
    prompts: Annotated[int, typer.Option(min=0, help="Most prompts per value; 0 for all.")] = 100,
    timed_prompts: Annotated[int, typer.Option(min=0, help="Most that rewriting is timed with.")] = 30,
    temperature: Annotated[float, typer.Option(min=0.01)] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    seed: Annotated[int, typer.Option(help="Of prompts and sampling.")] = 20261121,
    judge_model: Annotated[str, typer.Option(help="The model that judges were trained on.")] = "builtin",
    concurrency: Annotated[int, typer.Option(min=1, help="Prompts under way at once.")] = 1,
) -> None:
    """Ways to steer a frozen model side by side: prompts, rewriting, denoising, best-of-n, adapters."""
    from steer_server.evaluation.frozen import FrozenOptions, evaluate_frozen
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


@eval_commands.command("ability")
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
    from steer_server.evaluation.ability import AbilityOptions, evaluate_ability

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
