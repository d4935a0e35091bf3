"""How vLLM's own launcher is called, and left alone where it is not."""

from __future__ import annotations

import pytest

from tests.support.vllm_warnings import IMPORTS_VLLM

pytestmark = IMPORTS_VLLM


def test_a_plain_vllm_in_the_same_environment_is_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an allowlist vLLM loads every installed plugin; ours then does nothing."""
    from vllm.platforms import current_platform

    from steer_server.engine.plugin import WRAPPER, install

    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    install()
    assert current_platform.get_punica_wrapper() != WRAPPER


def test_options_that_the_server_sets_itself_cannot_be_given() -> None:
    from steer_server.catalogue.base_model import BaseModel
    from steer_server.engine.launch import serve
    from steer_server.errors import ConfigError
    from steer_server.settings import Settings

    base = BaseModel("nowhere", "x", frozenset())
    with pytest.raises(ConfigError, match="--max-loras"):
        serve(base, Settings(), "127.0.0.1", 1, ["--max_loras=4"])
