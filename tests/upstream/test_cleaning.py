import json
from typing import Any

import pytest
from pydantic import SecretStr

from steer_server.upstream.cleaning import MASK, MAX_MESSAGE_CHARACTERS, Cleaner

KEY = 'sk/"quoted\\key"'


def test_the_key_is_taken_out_however_json_spells_it() -> None:
    cleaner = Cleaner(SecretStr(KEY))
    plain = json.dumps({"said": f"your key {KEY}."})
    spelt = plain.replace("/", "\\/").replace("k", "\\u006b")
    assert cleaner.document(plain) == {"said": f"your key {MASK}."}
    assert cleaner.document(spelt) == {"said": f"your key {MASK}."}


def test_a_placeholder_is_no_secret() -> None:
    assert Cleaner(SecretStr("none")).document('{"text": "none"}') == {"text": "none"}
    assert Cleaner(None).text("x") == "x"


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", '"x"', '{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a":' * 100_000]
)
def test_what_cannot_be_sent_on_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Cleaner(None).document(text)


ERRORS: list[tuple[Any, dict[str, Any]]] = [
    (
        {"error": {"message": "m", "type": "t", "param": "p", "code": "c", "secret": "s"}},
        {"message": "m", "type": "t", "param": "p", "code": "c"},
    ),
    ({"error": {"message": "m", "code": 404}}, {"message": "m", "code": 404}),
    ({"error": "m"}, {"message": "m"}),
    ({"object": "error", "message": "m", "code": 400}, {"message": "m", "code": 400}),
    ({"detail": "m"}, {"message": "m"}),
    ({"detail": [{"loc": ["body"]}]}, {}),
    ({"error": {"message": ["m"], "type": 3, "param": {}, "code": True}}, {}),
    ({"error": None}, {}),
    ([], {}),
]


@pytest.mark.parametrize(("document", "expected"), ERRORS)
def test_errors_of_every_shape_become_openais(document: Any, expected: dict[str, Any]) -> None:
    otherwise = {"message": "otherwise", "type": "UpstreamError", "param": None, "code": None}
    assert Cleaner(None).error_detail(document, "otherwise") == {**otherwise, **expected}


def test_a_long_message_is_cut_after_it_was_cleaned() -> None:
    message = "x" * (MAX_MESSAGE_CHARACTERS - 3) + KEY
    cleaned = Cleaner(SecretStr(KEY)).error_detail({"error": message}, "")["message"]
    assert cleaned == "x" * (MAX_MESSAGE_CHARACTERS - 3) + MASK
