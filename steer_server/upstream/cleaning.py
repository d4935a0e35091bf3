"""What comes from an upstream: checked to be JSON that can be sent on, without the operator's key in it."""

from __future__ import annotations

import json
from typing import Any

from pydantic import SecretStr

from steer_server.strict_json import read_json

MASK = "***"
MIN_SECRET_CHARACTERS = 8
"""A shorter key is a placeholder, such as `none` or `EMPTY`; taking it out would mutilate answers."""
MAX_MESSAGE_CHARACTERS = 2000


class Cleaner:
    """Takes one upstream's key out of what it sends."""

    def __init__(self, key: SecretStr | None) -> None:
        secret = key.get_secret_value() if key is not None else ""
        self._secret = secret if len(secret) >= MIN_SECRET_CHARACTERS else ""
        self._escaped = json.dumps(self._secret)[1:-1]

    def text(self, text: str) -> str:
        return text.replace(self._secret, MASK) if self._secret else text

    def document(self, text: str) -> dict[str, Any]:
        """A JSON object that any JSON writer can write again.

        Raises: ValueError for everything else: not JSON, not an object, NaN, half a surrogate pair.
        """
        document = read_json(text)
        if not isinstance(document, dict):
            raise ValueError("not an object")
        if self._secret and self._escaped in (written := json.dumps(document, ensure_ascii=False)):
            cleaned: dict[str, Any] = json.loads(written.replace(self._escaped, MASK))
            return cleaned
        return document

    def error_detail(self, document: Any, otherwise: str) -> dict[str, Any]:
        """The inside of an OpenAI error, from whatever an upstream wrote as one; other fields are dropped."""
        found = document.get("error", document) if isinstance(document, dict) else None
        if isinstance(found, str):
            found = {"message": found}
        fields: dict[str, Any] = found if isinstance(found, dict) else {}
        message = fields.get("message") or fields.get("detail")
        code = fields.get("code")
        return {
            "message": self._short(message) or otherwise,
            "type": self._short(fields.get("type")) or "UpstreamError",
            "param": self._short(fields.get("param")),
            "code": code if type(code) is int else self._short(code),
        }

    def _short(self, value: Any) -> str | None:
        # Cleaned before it is cut: half a key would not be found.
        return self.text(value)[:MAX_MESSAGE_CHARACTERS] if isinstance(value, str) and value else None
