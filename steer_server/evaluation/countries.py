"""Country names for prompts, and ISO 3166 alpha-3 codes for names as data sets write them."""

from __future__ import annotations

from steer_server.errors import EvaluationError

OTHER_NAMES = {"palestinian territories": "PSE", "russia": "RUS", "turkey": "TUR"}
"""Names in use that the ISO list does not have."""


def alpha_3(name: str) -> str:
    """The code of a country written as `saudi_arabia`, `Saudi Arabia` or `SAU`.

    Raises: EvaluationError for a name that is not known.
    """
    import pycountry

    spoken = name.replace("_", " ").strip()
    if spoken.lower() in OTHER_NAMES:
        return OTHER_NAMES[spoken.lower()]
    try:
        return str(pycountry.countries.lookup(spoken).alpha_3)
    except LookupError as error:
        raise EvaluationError(f"{name!r} is not the name of a country") from error


def country_name(code: str) -> str:
    """What a country is called in a sentence, such as `Russia` for RUS; the code itself when unknown."""
    import pycountry

    for name, known in OTHER_NAMES.items():
        if known == code:
            return name.title()
    found = pycountry.countries.get(alpha_3=code)
    return str(getattr(found, "common_name", found.name)) if found else code
