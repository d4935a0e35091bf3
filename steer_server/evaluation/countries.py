"""Country names for prompts, and ISO 3166 alpha-3 codes for names as data sets write them."""

from __future__ import annotations

import functools
import unicodedata

NAMES_IN_PROMPTS = {"PSE": "Palestinian Territories", "RUS": "Russia", "TUR": "Turkey"}
"""Where they are not the ISO list's."""
OTHER_NAMES = {"great britain": "GBR", "ivory coast": "CIV", "palestine": "PSE", "uae": "ARE", "uk": "GBR"}
"""Names in use that the ISO list does not have."""


def alpha_3(name: str) -> str | None:
    """The code of a country written as `saudi_arabia`, `Saudi Arabia`, `SAU` or `SA`, with or without its
    accents; None for a name that is not known."""
    return _codes().get(_plain(name))


def country_name(code: str) -> str:
    """What a country is called in a sentence, such as `Russia` for RUS; what is no code stays, as words."""
    import pycountry

    if code in NAMES_IN_PROMPTS:
        return NAMES_IN_PROMPTS[code]
    found = pycountry.countries.get(alpha_3=code)
    return str(getattr(found, "common_name", found.name)) if found else code.replace("_", " ")


@functools.cache
def _codes() -> dict[str, str]:
    import pycountry

    fields = ("alpha_2", "alpha_3", "name", "common_name", "official_name")
    found = {_plain(getattr(c, f)): c.alpha_3 for c in pycountry.countries for f in fields if hasattr(c, f)}
    return found | {_plain(name): code for code, name in NAMES_IN_PROMPTS.items()} | OTHER_NAMES


def _plain(name: str) -> str:
    """Without accents, case and underscores; the same for every Unicode form of a name."""
    letters = unicodedata.normalize("NFKD", name.replace("_", " ").strip().casefold())
    return "".join(c for c in letters if not unicodedata.combining(c))
