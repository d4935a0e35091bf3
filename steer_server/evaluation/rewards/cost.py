"""What scoring costs: many answers at once, beside a plain prefill of the same tokens, and with more heads.

Each measurement reads texts of its own, since a text that was read before is in the prefix cache. All three
ways are measured in every round, in changing order; what counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from steer_server.catalogue.folders import write_reward_head_folder
from steer_server.catalogue.manifest import read_manifest
from steer_server.catalogue.package import pack
from steer_server.catalogue.reward_head import HEAD_CONFIG, HEAD_WEIGHTS, RewardHeadConfig
from steer_server.errors import CatalogueError, EvaluationError
from steer_server.progress import Progress

WORDS = ("bread", "luck", "a promise", "the law", "a stranger", "rain", "the old house", "a debt", "the sea")
NUM_ANSWER_WORDS = 45


@dataclass(frozen=True)
class CostOptions:
    model: str
    package: Path
    """Of the head; copies of it are the further heads."""
    head: str
    answers: int
    more_heads: int
    rounds: int


async def measure_cost(http: httpx.AsyncClient, options: CostOptions, tokenizer: Any) -> dict[str, Any]:
    """Seconds and ratios. Raises: httpx.HTTPError; EvaluationError when the package is no reward head."""
    config = _read_config(options.package)
    draw = random.Random(0)
    seconds: dict[str, list[float]] = {"prefill": [], "scoring": [], "scoring, more heads": []}
    num_tokens: list[int] = []

    async def prefill() -> None:
        texts = _texts(options.answers, draw)
        ids = [config.text_format.token_ids(tokenizer, m, a) for m, a in texts]
        body = {"model": options.model, "prompt": ids, "max_tokens": 1, "temperature": 0}
        num_tokens.append(sum(map(len, ids)))
        seconds["prefill"].append(await _timed(http, "/v1/completions", body))

    async def scoring(way: str, heads: Sequence[str]) -> None:
        texts = _texts(options.answers, draw)
        batch = [{"messages": m, "answers": [a], "heads": heads} for m, a in texts]
        seconds[way].append(await _timed(http, "/v1/rewards", {"batch": batch}))

    async def with_more() -> None:
        async with more.active() as heads:
            # Loaded, and the code paths warm, before time counts.
            await _timed(http, "/v1/rewards", _one(heads))
            await scoring("scoring, more heads", [options.head, *heads])

    async with pushed_copies(http, options, config) as more:
        ways: list[Callable[[], Awaitable[None]]] = [
            prefill,
            lambda: scoring("scoring", [options.head]),
            with_more,
        ]
        for warm_up in ways:
            await warm_up()
        for times in seconds.values():
            times.clear()
        with Progress("cost of scoring", options.rounds, "rounds") as progress:
            for round_number in range(options.rounds):
                shift = round_number % len(ways)
                for way in ways[shift:] + ways[:shift]:
                    await way()
                progress.advance()
    return {
        "answers": options.answers,
        "tokens": round(statistics.mean(num_tokens)),
        "more_heads": options.more_heads,
        "rounds": options.rounds,
        "seconds": {way: round(statistics.median(times), 4) for way, times in seconds.items()},
        "all_seconds": seconds,
        "scoring_over_prefill": _ratio(seconds, "scoring", "prefill"),
        "more_heads_over_one": _ratio(seconds, "scoring, more heads", "scoring"),
    }


@dataclass
class Copies:
    """Heads that the benchmark pushed."""

    http: httpx.AsyncClient
    names: list[str]

    @asynccontextmanager
    async def active(self) -> AsyncIterator[list[str]]:
        """Serves them until the block ends. Yields: their head ids."""
        try:
            for name in self.names:
                await _act(self.http, f"{name}/versions/1.0.0/activate")
            yield self.names
        finally:
            for name in self.names:
                await _act(self.http, f"{name}/deactivate")


@asynccontextmanager
async def pushed_copies(
    http: httpx.AsyncClient, options: CostOptions, config: RewardHeadConfig
) -> AsyncIterator[Copies]:
    """Copies of the head with other weights, not active; gone from the server when the block ends."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(options.package / HEAD_WEIGHTS)
    run = uuid.uuid4().hex[:6]
    copies = Copies(http, [])
    try:
        with tempfile.TemporaryDirectory() as work:
            for i in range(options.more_heads):
                name = f"bench-{run}-{i}"
                folder = Path(work) / name
                write_reward_head_folder(
                    folder,
                    name=name,
                    version="1.0.0",
                    head=name,
                    base_model=read_manifest(options.package).base_model,
                    weight=torch.roll(tensors["weight"], i + 1),
                    bias=float(tensors["bias"][0]),
                    config=config,
                )
                archive = b"".join(pack(folder))
                headers = {"Content-Type": "application/gzip"}
                (await http.post("/v1/adapters", content=archive, headers=headers)).raise_for_status()
                copies.names.append(name)
        yield copies
    finally:
        for name in copies.names:
            await asyncio.shield(http.delete(f"/v1/adapters/{name}"))


def _read_config(package: Path) -> RewardHeadConfig:
    try:
        if read_manifest(package).kind != "reward_head":
            raise EvaluationError(f"{package.name} is no reward head")
        return RewardHeadConfig.model_validate(json.loads((package / HEAD_CONFIG).read_text()))
    except (CatalogueError, OSError, ValueError) as error:
        raise EvaluationError(f"{package.name}: {error}") from error


def _texts(num: int, draw: random.Random) -> list[tuple[list[dict[str, str]], str]]:
    """Conversations that begin differently, so that no two share more of the cache than the template."""
    texts = []
    for _ in range(num):
        question = (
            f"{draw.randrange(10**9)}: what do you think of {draw.choice(WORDS)} and {draw.choice(WORDS)}?"
        )
        answer = " ".join(draw.choice(WORDS) for _ in range(NUM_ANSWER_WORDS))
        texts.append(([{"role": "user", "content": question}], answer))
    return texts


def _one(heads: Sequence[str]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Hello."}], "answers": ["Hello."], "heads": list(heads)}


async def _timed(http: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> float:
    started = time.perf_counter()
    (await http.post(path, json=body)).raise_for_status()
    return time.perf_counter() - started


async def _act(http: httpx.AsyncClient, path: str) -> None:
    (await http.post(f"/v1/adapters/{path}")).raise_for_status()


def _ratio(seconds: Mapping[str, Sequence[float]], way: str, other: str) -> float:
    pairs = zip(seconds[way], seconds[other], strict=True)
    return round(statistics.median(mine / theirs for mine, theirs in pairs), 4)
