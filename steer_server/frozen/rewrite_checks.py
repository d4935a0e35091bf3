"""What a rewrite must keep of the message that it stands for. Pure, deterministic, and on the safe side.

1. It says something.
2. It is at most 2 times as long as the original, and 400 characters more.
3. It is in the original's language (`frozen/languages.py`).
4. Every number, quotation, address and piece of code of the original is in it, as it was.
5. It has as many words that deny or exclude (`not`, `without`, `except`, ...) as the original, or more.
6. It has at least half of the words that say what the original is about; words that begin with the same
   five letters, or are spelt nearly alike, are the same.
7. It asks where the original asks, and does not begin as answers do.
8. It has no six words in a row of the system prompt, or of what the prompter was told, that are not in the
   original too.

Not covered: that what is kept still means the same. The words of a question can be put together to another
one, and what is added is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from steer_server.frozen.languages import other_language
from steer_server.frozen.prompter_template import INSTRUCTION
from steer_server.frozen.wording import (
    asks,
    begins_like_an_answer,
    content_words,
    kept_words,
    num_negations,
    plain,
    words,
)

MAX_GROWTH = 2.0
MAX_ADDED_CHARACTERS = 400
MIN_CONTENT_SHARE = 0.5
LEAK_WORDS = 6
MIN_LEAK_WORDS = 3
"""A system prompt of fewer words than `LEAK_WORDS` leaks as a whole; one of fewer than these says nothing."""
MAX_SHOWN_CHARACTERS = 80

_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_ADDRESS = re.compile(r"(?:https?://|www\.)[^\s<>\"]+|[^\s<>\"@]+@[^\s<>\"@]+\.[a-z]+", re.IGNORECASE)
_QUOTATION = re.compile(r"\"([^\"]+)\"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|「([^」]+)」|『([^』]+)』")
_PUNCTUATION = " .,;:!?)'"
"""May stand on either side of a quotation mark, and is no part of an address that it ends."""
_NUMBER = re.compile(r"(?<![^\W_])\d+(?:[.,:]\d+)*(?![^\W_])")


class Reason(StrEnum):
    """Why the original is sent in place of a rewrite."""

    STRENGTH_0 = "strength_0"
    """The prompter has no part in the plan."""
    NO_TEXT = "no_text"
    """The conversation has no user message with text."""
    TOO_LONG_TO_REWRITE = "too_long_to_rewrite"
    """The message is longer than what the prompter is given."""
    EMPTY = "empty"
    CUT = "cut"
    """The prompter did not come to an end."""
    TOO_LONG = "too_long"
    LANGUAGE = "language"
    LITERAL_LOST = "literal_lost"
    NEGATION_LOST = "negation_lost"
    CONTENT_LOST = "content_lost"
    ANSWER = "answer"
    LEAK = "leak"


@dataclass(frozen=True)
class Problem:
    """What is wrong with a rewrite."""

    reason: Reason
    detail: str


def check_rewrite(original: str, rewrite: str) -> Problem | None:
    """The first of the module's rules that it breaks; of the last one, as to what the prompter was told."""
    if not words(rewrite):
        return Problem(Reason.EMPTY, "It has no words.")
    limit = int(MAX_GROWTH * len(original)) + MAX_ADDED_CHARACTERS
    if len(rewrite) > limit:
        return Problem(Reason.TOO_LONG, f"It has {len(rewrite)} characters; at most {limit}.")
    if language := other_language(original, rewrite):
        return Problem(Reason.LANGUAGE, f"It is in another language: {language}.")
    for literal in literals(original):
        if not _has(rewrite, literal):
            return Problem(Reason.LITERAL_LOST, f"{literal[:MAX_SHOWN_CHARACTERS]!r} is not in it.")
    if num_negations(rewrite) < num_negations(original):
        return Problem(Reason.NEGATION_LOST, "A word that denies or excludes is not in it.")
    about = content_words(original)
    kept = kept_words(about, rewrite)
    if len(kept) < MIN_CONTENT_SHARE * len(about):
        return Problem(Reason.CONTENT_LOST, f"It has {len(kept)} of the {len(about)} words that matter.")
    if asks(original) and not asks(rewrite):
        return Problem(Reason.ANSWER, "The original asks for something; it does not.")
    if begins_like_an_answer(rewrite) and not begins_like_an_answer(original):
        return Problem(Reason.ANSWER, "It begins like an answer.")
    return check_leak(original, rewrite, [INSTRUCTION])


def check_leak(original: str, rewrite: str, secrets: Iterable[str]) -> Problem | None:
    """Rule 8. Args: secrets: the system prompt, say."""
    added, given = words(rewrite), words(original)
    for secret in map(words, secrets):
        size = min(LEAK_WORDS, len(secret))
        # A system prompt may be long, and this runs for cached rewrites too: it is searched, not cut up.
        text = f" {' '.join(secret)} "
        new = _runs(added, size) - _runs(given, size)
        if size >= MIN_LEAK_WORDS and any(f" {run} " in text for run in new):
            return Problem(Reason.LEAK, f"It has {size} words in a row of what is not the user's.")
    return None


def literals(text: str) -> Iterator[str]:
    """What must be kept as it is, such as `2026` or `"as is"`, without its quotation marks."""
    for pattern in (_CODE, _ADDRESS):
        for found in pattern.finditer(text):
            yield found.group().strip("`").rstrip(_PUNCTUATION)
        text = pattern.sub(" ", text)
    for found in _QUOTATION.finditer(text):
        yield next(part for part in found.groups() if part is not None).strip(_PUNCTUATION)
    for found in _NUMBER.finditer(text):
        yield found.group()


def _has(rewrite: str, literal: str) -> bool:
    if _NUMBER.fullmatch(literal):
        return literal in _NUMBER.findall(rewrite)
    return plain(literal) in plain(rewrite)


def _runs(words: list[str], size: int) -> set[str]:
    """Every `size` words in a row."""
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}
