"""An answer's spans: the pieces of text that denoising may replace, and those it must leave alone.

A span is a sentence, or a line of a list; the text between two spans (spaces, line breaks, a list's marker,
quotation marks of a block) belongs to the span behind it. Blocks of code, lines of tables and headings are
fixed spans: to draw them anew would break what they are part of.

    "".join(span.lead + span.body for span in split(text)) == text

Not covered: languages that end sentences otherwise than with . ! ? … 。 ！ ？
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

CODE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
LEAD = re.compile(r"\s*(?:>[ \t]*)*(?:(?:[-*+•]|\d{1,3}[.)]|[A-Za-z]\))[ \t]+)?")
"""What stands before a line's text: a block's quotation marks, a list's marker."""
FIXED_LINE = re.compile(r"\s*(?:#{1,6} |\|)")
SENTENCE_END = re.compile(r"""[.!?…]+["'”’)\]*_]*(?=\s|$)|[。！？]+[」』”’）]*""")
ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:[A-Za-z]|[Mm]rs?|[Mm]s|[Dd]r|[Pp]rof|St|[Vv]s|[Ee]tc|[Ee]\.g|[Ii]\.e|[Nn]o|approx|U\.S)\.$"
)
ABBREVIATION_CHARACTERS = 16
"""More than any of them has, with what stands before it."""


@dataclass(frozen=True)
class Span:
    start: int
    """Of the lead, in characters of the whole text."""
    lead: str
    body: str
    is_fixed: bool = False

    @property
    def end(self) -> int:
        return self.start + len(self.lead) + len(self.body)


def split(text: str) -> list[Span]:
    """The spans of a text, in order; none for a text of white space. White space at the end belongs to the
    last span's body."""
    spans: list[Span] = []
    for code in CODE.finditer(text):
        spans += _of_prose(text, _end(spans), code.start())
        # With the line breaks before it, which else belong to no span.
        spans.append(_span(text, _end(spans), code.end(), is_fixed=True))
    spans += _of_prose(text, _end(spans), len(text))
    if not spans or spans[-1].end == len(text):
        return spans
    last = spans.pop()
    return [*spans, _span(text, last.start, len(text), last.is_fixed)]


def ends_sentence(text: str) -> bool:
    """Whether a text ends where a sentence does."""
    stripped = text.rstrip()
    ends = [match.end() for match in SENTENCE_END.finditer(stripped)]
    return bool(ends) and ends[-1] == len(stripped) and not _is_abbreviated(stripped, 0, len(stripped))


def _end(spans: Sequence[Span]) -> int:
    return spans[-1].end if spans else 0


def _of_prose(text: str, start: int, end: int) -> Iterator[Span]:
    while start < end:
        if not text[start:end].strip():
            return
        lead_end = LEAD.match(text, start, end)
        assert lead_end is not None
        line_end = text.find("\n", lead_end.end(), end)
        line_end = end if line_end < 0 else line_end
        is_fixed = FIXED_LINE.match(text, start, end) is not None
        stop = line_end if is_fixed else _sentence_end(text, lead_end.end(), line_end)
        yield _span(text, start, stop, is_fixed)
        start = stop


def _sentence_end(text: str, start: int, end: int) -> int:
    for match in SENTENCE_END.finditer(text, start, end):
        if not _is_abbreviated(text, start, match.end()):
            return match.end()
    return start + len(text[start:end].rstrip()) if text[start:end].strip() else end


def _is_abbreviated(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] ends in an abbreviation. Only its end is looked at: it may be long."""
    return ABBREVIATION.search(text[max(start, end - ABBREVIATION_CHARACTERS) : end]) is not None


def _span(text: str, start: int, end: int, is_fixed: bool) -> Span:
    lead = LEAD.match(text, start, end)
    assert lead is not None
    return Span(start, text[start : lead.end()], text[lead.end() : end], is_fixed)
