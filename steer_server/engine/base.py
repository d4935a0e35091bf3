"""The seam: what the rest of the server needs of an engine. VllmEngine and FakeEngine have it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from starlette.requests import Request

from steer_server.catalogue.reward_head import Message, TextFormat
from steer_server.catalogue.snapshot import LoadedAdapter, LoadedRewardHead
from steer_server.steering.plan import SteeringPlan

Route = Literal["chat", "completion"]

ChoiceScores = Mapping[int, Mapping[str, float]]
"""Choice -> head digest -> raw score."""


@dataclass
class Answer:
    """One OpenAI answer: exactly one of the two is set."""

    body: dict[str, Any] | None = None
    """The whole response, when not streaming."""
    events: AsyncIterator[str] | None = None
    """SSE events as text, each ending in a blank line; the last is `data: [DONE]`."""
    choice_scores: Callable[[], ChoiceScores] | None = None
    """Of a run that reads heads: what they say of each choice so far, so of the whole answer once it is
    there. To be called while the heads are held."""


@dataclass(frozen=True)
class ScoringText:
    """An answer to score, where it stands in its conversation."""

    messages: tuple[Message, ...]
    answer: str
    text_format: TextFormat
    """Of the heads that it is scored for."""
    cache_salt: str | None = None
    """As in a request: the prefix cache is shared with requests that have the same."""


@dataclass(frozen=True)
class ScoredText:
    """What the base model's state at a text's last token is worth."""

    raw: Mapping[str, float]
    """By digest, of every head that was loaded when the text was read, whatever its text format."""
    num_tokens: int
    """That were read."""
    is_cut: bool
    """The text is longer than its format's `max_tokens`; its beginning was not read."""


@dataclass(frozen=True)
class TokenisedText:
    """A text as the model reads it."""

    token_ids: tuple[int, ...]
    ends: tuple[int, ...]
    """Where each token ends, in characters."""


@dataclass(frozen=True)
class ReadText:
    """A text whose tokens' log-probabilities are wanted, from one of them on."""

    token_ids: tuple[int, ...]
    """With the prompt that it stands behind."""
    first: int
    """Index of the first token that is wanted: at least 1, since nothing comes before token 0."""


class EngineRun(Protocol):
    """One request's use of the engine."""

    async def answer(self) -> Answer:
        """Starts the request.

        Raises: SteerError when the engine refuses it or fails before the first byte.
        """
        ...

    async def stop(self) -> None:
        """Ends whatever is still running for this request; returns when the engine has been told so."""
        ...


class Runner(Protocol):
    """What answers requests: the engine, or an upstream."""

    @property
    def provider(self) -> str:
        """One word for who answers, for traces."""
        ...

    def run(self, route: Route, body: dict[str, Any], plan: SteeringPlan, request: Request) -> EngineRun:
        """One request under one plan. Every adapter of the plan must be leased until it has stopped."""
        ...


class Engine(Runner, Protocol):
    """A model with a bank of adapters."""

    served_name: str
    """The base model's name in the API."""
    num_slots: int
    """S: adapters resident at once."""
    max_model_tokens: int
    """Longest prompt and answer together."""
    can_read_heads: bool
    """Whether answers can be scored while they are generated; not where decoding is speculative."""

    def run(
        self,
        route: Route,
        body: dict[str, Any],
        plan: SteeringPlan,
        request: Request,
        *,
        reads_heads: bool = False,
    ) -> EngineRun:
        """As a runner's.

        Args:
            reads_heads: the answer comes with `choice_scores`: of each choice, by all loaded heads, the score
                of the state (after the final norm) that its last token was sampled from, in the generating
                pass and under the run's own plan. Not for beam search.
        """
        ...

    async def load_slot(self, slot: int, adapter: LoadedAdapter) -> None:
        """Puts an adapter into a slot in place of what was there.

        Raises: EngineError; the slot is then empty.
        """
        ...

    async def clear_slot(self, slot: int) -> None:
        """Empties a slot.

        Raises: EngineError.
        """
        ...

    async def load_head(self, head: LoadedRewardHead) -> None:
        """From now on, texts are scored by this version too. Versions do not replace each other.

        Raises: EngineError; nothing has changed then.
        """
        ...

    async def drop_head(self, digest: str) -> None:
        """Forgets a version; one that is not loaded is no error. Raises: EngineError."""
        ...

    async def score(self, texts: Sequence[ScoringText]) -> list[ScoredText]:
        """Scores of every text by all loaded heads, under the base model. Cancelled, it leaves nothing
        running.

        Raises: RequestError for messages that the chat template refuses, or a text that is too long;
            EngineError.
        """
        ...

    async def log_probs(
        self, texts: Sequence[ReadText], plan: SteeringPlan, cache_salt: str | None = None
    ) -> list[list[float]]:
        """Of each text, log p(token | all before it) in nats for the tokens from `first` on, under the plan,
        whose adapters must be leased meanwhile. Cancelled, it leaves nothing running.

        Args:
            cache_salt: as in a request: the prefix cache is shared with requests that have the same.

        Raises: EngineRefusal for a text of `max_model_tokens` tokens or more; EngineError.
        """
        ...

    async def tokenise_chat(self, body: Mapping[str, Any], request: Request) -> list[int]:
        """The prompt that a chat request makes, up to where the answer begins.

        Raises: EngineRefusal for messages or a model that the engine does not take; EngineError.
        """
        ...

    async def tokenise(self, texts: Sequence[str]) -> list[TokenisedText]:
        """Texts as the model reads them behind a chat's prompt, without special tokens."""
        ...

    async def check_health(self) -> None:
        """Raises: EngineError when the engine is dead."""
        ...

    async def bank_info(self) -> dict[str, Any]:
        """Shape and bytes of the bank, and in how many copies: 2 where products read packed ones."""
        ...
