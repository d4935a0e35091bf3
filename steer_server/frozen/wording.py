"""Words of any language as the checks of rewrites compare them: written alike, without what says little."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

from steer_server.frozen.word_lists import (
    FUNCTION_WORDS,
    NEGATING_ENDINGS,
    NEGATING_STEMS,
    NEGATIONS,
    REQUEST_STARTS,
    REQUESTS_ANYWHERE,
)

STEM_LETTERS = 5
SPELT_ALIKE = 0.8
"""The least share of two words' letters that are the same in the same order."""

# Thai, Lao, Burmese, Khmer, Japanese, Chinese; and Korean, whose endings would hide its words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:'[^\W_{_UNSPACED}]+)*")

_QUESTION_MARK = re.compile(r"[?？؟;]")  # the last is Greek's
_SENTENCE_START = re.compile(r"(?:^|[.!?\n])[\W_]*([^\W_]+)")
_WISH = re.compile(r"\bi(?: need| want| would like| am looking for|'d like|'m looking for)\b")
_ANSWER_START = re.compile(
    r"sure\b|certainly\b|of course\b|absolutely\b|great question\b|thank you\b|yes\b|no,|"
    r"(?:i'm |i am )?sorry\b|i apologi|i can(?:no|')t\b|as an? (?:ai|language|assistant)\b|"
    r"here(?:'s| is| are)\b|the answer\b"
)


def plain(text: str) -> str:
    """One way of writing: NFKC, no capitals, straight apostrophes, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").split())


def words(text: str) -> list[str]:
    """In order, written plainly; of scripts without spaces, the characters."""
    return _WORD.findall(plain(text))


def content_words(text: str) -> set[str]:
    """The words that say what it is about; all words where none does."""
    found = set(words(text))
    return found - FUNCTION_WORDS or found


def kept_words(content: Iterable[str], text: str) -> set[str]:
    """Those of the words that the text has too: begun alike, as `teach` and `teaching`, or spelt nearly
    alike, as a word and its misspelling."""
    found = set(words(text))
    stems = {word[:STEM_LETTERS] for word in found}
    return {
        word
        for word in content
        if word[:STEM_LETTERS] in stems or get_close_matches(word, found, n=1, cutoff=SPELT_ALIKE)
    }


def num_negations(text: str) -> int:
    """Words that deny or exclude."""
    listed = sum(
        word in NEGATIONS or word.endswith("n't") or word.startswith(NEGATING_STEMS) for word in words(text)
    )
    return listed + sum(plain(text).count(ending) for ending in NEGATING_ENDINGS)


def asks(text: str) -> bool:
    """Whether it has a question mark, a sentence that begins as requests in English do, or a word that
    another language asks with."""
    written = plain(text)
    if _QUESTION_MARK.search(text) or _WISH.search(written):
        return True
    if any(start in REQUEST_STARTS for start in _SENTENCE_START.findall(text.casefold())):
        return True
    return any(request in written for request in REQUESTS_ANYWHERE)


def begins_like_an_answer(text: str) -> bool:
    """With a courtesy or a refusal, as answers in English do."""
    return bool(_ANSWER_START.match(plain(text)))
