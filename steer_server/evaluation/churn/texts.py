"""Whether every text is the one of the version that it names: asked again under that version alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from steer_server.evaluation.churn.acts import Operator
from steer_server.evaluation.churn.packages import ChurnedPackage
from steer_server.evaluation.churn.streams import Answered, Ask, Load
from steer_server.evaluation.streaming import Refused, StreamFailed, read_stream
from steer_server.together import together

MAX_LISTED = 20
Key = tuple[Ask, tuple[str, ...]]
"""A request and what was applied to it."""


@dataclass
class CheckedTexts:
    """How many answers had the text of their own version. Answers without a reference are not counted."""

    num_equal: Counter[str] = field(default_factory=Counter)
    """By group: alone, blend, unsteered; so are the next ones."""
    num_checked: Counter[str] = field(default_factory=Counter)
    of_another: list[str] = field(default_factory=list)
    """Answers with the text of the other version of the same name; where both versions say the same, none."""
    unequal: list[dict[str, str]] = field(default_factory=list)

    def share(self, groups: Iterable[str]) -> float | None:
        """Of equal texts; None without any."""
        groups = list(groups)
        checked = sum(self.num_checked[group] for group in groups)
        return sum(self.num_equal[group] for group in groups) / checked if checked else None

    @property
    def steered_share(self) -> float | None:
        return self.share(["alone", "blend"])

    @property
    def unsteered_share(self) -> float | None:
        return self.share(["unsteered"])

    def describe(self) -> dict[str, Any]:
        return {
            "groups": {
                group: {"checked": checked, "equal": self.num_equal[group]}
                for group, checked in sorted(self.num_checked.items())
            },
            "steered_equal_share": self.steered_share,
            "unsteered_equal_share": self.unsteered_share,
            "of_another_version": len(self.of_another),
            "unequal": self.unequal[:MAX_LISTED],
        }


async def check_texts(load: Load, operator: Operator, packages: Sequence[ChurnedPackage]) -> CheckedTexts:
    """Brings up every version in turn and asks it, and no other, what its answers had been asked.

    The server computes these texts anew: each has a cache salt of its own. Their number at one time is that
    of the streams. Requests that fail are failures of the load.

    Raises: ActFailed when a version cannot be brought up.
    """
    load.phase = "texts"
    # In the order of their first answer, so that a run is the same again.
    keys: list[Key] = list(dict.fromkeys((one.ask, one.applied) for one in load.answered))
    titles = {package.title for package in packages}
    references: dict[Key, str] = {}
    for package in packages:
        mine = [key for key in keys if package.title in key[1]]
        if mine:
            await operator.bring(package)
            references |= await _ask_again(load, mine)
    references |= await _ask_again(load, [key for key in keys if not titles & set(key[1])])
    return compare(load.answered, references)


def compare(answered: Sequence[Answered], references: dict[Key, str]) -> CheckedTexts:
    """Pure: each answer beside the text of its key."""
    by_ask: dict[Ask, dict[tuple[str, ...], str]] = {}
    for (ask, applied), text in references.items():
        by_ask.setdefault(ask, {})[applied] = text
    checked = CheckedTexts()
    for one in answered:
        own = references.get((one.ask, one.applied))
        if own is None:
            continue
        group = ("unsteered", "alone", "blend")[min(2, len(one.ask.cultures))]
        checked.num_checked[group] += 1
        if one.text == own:
            checked.num_equal[group] += 1
            continue
        checked.unequal.append(
            {"applied": ", ".join(one.applied), "prompt": one.ask.prompt, "text": one.text, "alone": own}
        )
        if one.text in by_ask[one.ask].values():
            checked.of_another.append(f"{', '.join(one.applied)}: {one.ask.prompt}")
    return checked


async def _ask_again(load: Load, keys: Sequence[Key]) -> dict[Key, str]:
    found: dict[Key, str] = {}
    waiting = iter(enumerate(keys))

    async def work() -> None:
        for number, (ask, applied) in waiting:
            body = ask.body(load.model) | {"cache_salt": f"{number} {load.rng.random()}"}
            try:
                again, text = await read_stream(load.http, body)
            except (Refused, StreamFailed) as error:
                load.fail(getattr(error, "kind", "refused_while_active"), f"{applied}: {error}")
                continue
            if again == applied:
                found[ask, applied] = text
            else:
                load.fail("not_active", f"{applied} was asked for and {again} answered")

    await together(work() for _ in range(load.num_streams))
    return found
