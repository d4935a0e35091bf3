"""Requests that a server must refuse, and how: the client's own faults in a mixed load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from steer_server.evaluation.load.offer import Offer

CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}
PLAIN_TEXT = {"Content-Type": "text/plain"}
MESSAGES = [{"role": "user", "content": "What matters most in life?"}]
NOWHERE = "atlantis"
"""A culture, head and model that nobody has."""
ERROR_KEYS = ("message", "type", "param", "code")
NUM_TOKENS = 8


@dataclass(frozen=True)
class BadRequest:
    """Sent with POST."""

    name: str
    path: str
    content: bytes = field(repr=False)
    statuses: tuple[int, ...] = (400,)
    """Any of these is right."""
    code: str = ""
    """Of the error; empty where the engine has words of its own."""
    param: str = ""
    """The same."""
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)

    def problem(self, response: httpx.Response) -> str:
        """What is wrong with the answer to it; empty when it is the right refusal."""
        if response.status_code not in self.statuses:
            wanted = " or ".join(map(str, self.statuses))
            return f"{response.status_code} in place of {wanted}: {response.text[:200]}"
        try:
            error = response.json()["error"]
            missing = [key for key in ERROR_KEYS if key not in error]
        except (ValueError, KeyError, TypeError):
            return f"not an error in OpenAI's shape: {response.text[:200]}"
        if missing or not error["message"]:
            return f"the error lacks {', '.join(missing) or 'a message'}"
        for key, wanted in (("code", self.code), ("param", self.param)):
            if wanted and error[key] != wanted:
                return f"{key} is {error[key]!r} in place of {wanted!r}"
        return ""


def bad_requests(offer: Offer, oversized_bytes: int) -> list[BadRequest]:
    """One of each kind. Args: oversized_bytes: of a body that must be too long, one way or the other."""

    def chat(name: str, code: str, param: str, **changed: Any) -> BadRequest:
        return BadRequest(name, CHAT, _body(offer, **changed), code=code, param=param)

    def steered(name: str, code: str, param: str, steering: Any) -> BadRequest:
        return chat(name, code, param, steering=steering)

    found = [
        BadRequest("broken_json", CHAT, _body(offer)[:-1], code="invalid_body"),
        BadRequest("not_json", CHAT, _body(offer), code="invalid_body", headers=PLAIN_TEXT),
        BadRequest("unknown_model", CHAT, _body(offer, model=NOWHERE), statuses=(404,)),
        BadRequest(
            "oversized_body",
            CHAT,
            _body(offer, messages=[{"role": "user", "content": "very " * (oversized_bytes // 5)}]),
            # Over a limit of bodies, or longer than the model can read.
            statuses=(413, 400),
        ),
        steered(
            "unknown_culture", "unknown_culture", f"steering.cultures.{NOWHERE}", {"cultures": {NOWHERE: 1.0}}
        ),
        steered("misspelt_key", "unknown_key", "steering.culturs", {"culturs": {}}),
        steered("unknown_method", "unknown_method", "steering.method", {"method": NOWHERE}),
        steered("nothing_to_steer_by", "invalid_steering", "steering", {}),
        BadRequest(
            "unsupported_route",
            "/tokenize",
            _body(offer, prompt="a", steering={"method": "none"}),
            code="steering_unsupported",
            param="steering",
        ),
        BadRequest(
            "unknown_head",
            "/v1/rewards",
            json.dumps({"messages": MESSAGES, "answers": ["Bread."], "heads": [NOWHERE]}).encode(),
            code="unknown_reward_head",
            param="heads[0]",
        ),
    ]
    if offer.cultures:
        culture = offer.cultures[0]
        too_much = {"cultures": {culture: offer.max_weight + 1}}
        model = f"{offer.model}@{culture}"
        found += [
            steered("too_much", "policy_violation", f"steering.cultures.{culture}", too_much),
            chat("two_sources", "two_sources", "steering", model=model, steering={"method": "none"}),
        ]
    return found


def _body(offer: Offer, **changed: Any) -> bytes:
    body = {"model": offer.model, "messages": MESSAGES, "max_tokens": NUM_TOKENS, **changed}
    return json.dumps(body).encode()
