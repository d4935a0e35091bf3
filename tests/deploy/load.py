"""Mixed load: a bit of everything that a server does, what goes wrong included, again and again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx

from tests.support.administration import PROMPT, act, push
from tests.support.servers import Running

CHAT = "/v1/chat/completions"


async def answer_requests(server: Running, *, head: str) -> None:
    """Every method, streamed and whole, with and without steering; scores; refusals."""
    scoring: dict[str, Any] = {"reward_heads": [head]}
    first, second, *others = server.cultures
    steerings: list[Any] = [
        {"cultures": {first: 0.6, second: 0.4}, **scoring},
        {"method": "none", **scoring},
        {"method": "best_of_n", "cultures": {second: 1.0}, "options": {"n": 2}, **scoring},
        *({"cultures": {culture: 1.0}} for culture in others),
    ]
    bodies: list[Any] = [{"steering": steering} for steering in steerings]
    bodies += [{}, {"steering": {"cultures": {"atlantis": 1.0}}}]
    async with server.http() as http:

        async def ask(**body: Any) -> None:
            await http.post(CHAT, json={"model": server.model, "messages": PROMPT, "max_tokens": 8, **body})

        await asyncio.gather(*(ask(**body, stream=stream) for body in bodies for stream in (False, True)))
        scored = {"messages": PROMPT, "answers": ["Yes.", "No."], "heads": [head]}
        await http.post("/v1/rewards", json=scored)


async def rewrite_and_denoise(server: Running, question: str) -> None:
    """Args: question: another one each time, as rewrites are kept."""
    drafts = ("w01 w02 w03 w57. w04 w05 w06 w58. w07 w08 w09 w60.", "w11 w12 w13 w14 w57. w15 w16 w17 w58.")
    steerings: list[Any] = [{"method": "align_pro"}]
    steerings += [
        {
            "method": "diffpo",
            # So little, and so many candidates, that some are better, whatever the fake's noise.
            "cultures": {server.cultures[0]: 0.2},
            "options": {"draft": draft, "candidates": 16},
        }
        for draft in drafts
    ]
    body = {"model": server.model, "messages": [{"role": "user", "content": question}], "max_tokens": 24}
    async with server.http() as http:
        for steering in steerings:
            await http.post(CHAT, json={**body, "steering": steering})


async def ask_upstreams(server: Running) -> None:
    """One that answers, and one that is away."""
    async with server.http() as http:
        for model in ("up/big", "down/big"):
            await http.post(CHAT, json={"model": model, "messages": PROMPT})


async def ask_without_a_key(server: Running) -> None:
    """Through a proxy: this machine itself may do anything here."""
    async with server.http() as http:
        await http.get("/v1/audit", headers={"X-Forwarded-For": "192.0.2.1"})


async def act_on_adapters(server: Running, good: Path, bad: Path) -> None:
    """Acts that are done, a folder that is refused, and a version that the engine cannot load."""
    assert server.fake is not None and server.steer is not None
    await push(server, good)
    await act(server, f"{good.name}/deactivate")
    await act(server, f"{good.name}/rollback")
    await push(server, bad)
    snapshot = server.steer.catalogue.snapshot
    digest = snapshot.cultures[good.name].digest
    await act(server, f"{good.name}/deactivate")
    server.fake.failing_digests.add(digest)
    await act(server, f"{good.name}/versions/1.0.0/activate")
    await act(server, f"{good.name}/deactivate")
    # An active adapter whose slot was taken by another cannot be loaded again.
    resident = server.steer.leases.resident
    pushed_out = next(one for one in snapshot.adapters if one.digest not in resident and one.manifest.culture)
    assert pushed_out.manifest.culture is not None
    server.fake.failing_digests.add(pushed_out.digest)
    await _ask_for(server, pushed_out.manifest.culture.id)
    server.fake.failing_digests.clear()


async def _ask_for(server: Running, culture: str) -> httpx.Response:
    body = {"model": server.model, "messages": PROMPT, "steering": {"cultures": {culture: 1.0}}}
    async with server.http() as http:
        return await http.post(CHAT, json=body)
