"""Whether two texts are in one language: their main script, and a classifier where both texts are clear.

Short texts are hardly ever clear: of two Latin ones nothing is found out here, and what tells a translation
then is that its words are others.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache
from typing import Any

CLEAR = 0.8
"""Of either text's most probable language; below it nothing is said."""


def other_language(original: str, rewrite: str) -> str | None:
    """What the rewrite is in, such as `fr` or `CYRILLIC`, when that is not what the original is in; None when
    it is, or cannot be told. The first call loads the classifier, which takes about a second."""
    scripts = main_script(original), main_script(rewrite)
    if None not in scripts and scripts[0] != scripts[1]:
        return scripts[1]
    (one, how_clear), (two, how_clear_too) = (_classifier().classify(text) for text in (original, rewrite))
    return str(two) if one != two and min(how_clear, how_clear_too) >= CLEAR else None


def main_script(text: str) -> str | None:
    """The first word of most letters' Unicode names, such as `LATIN`; None without letters."""
    counts = Counter(_script(letter) for letter in text if letter.isalpha())
    return counts.most_common(1)[0][0] if counts else None


def _script(letter: str) -> str:
    script = unicodedata.name(letter, "UNKNOWN").split()[0]
    # Japanese is written in all three; the classifier tells it from Chinese.
    return "CJK" if script in ("HIRAGANA", "KATAKANA") else script


@cache
def _classifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
