import pytest

from steer_server.errors import ConfigError
from steer_server.settings import Settings


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_BANK_SLOTS", "5")
    assert Settings.read().bank_slots == 5
    assert Settings.read(bank_slots=7, bank_rank=None).bank_slots == 7


def test_bad_and_unknown_variables_are_all_listed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_BANK_SLOTS", "many")
    monkeypatch.setenv("STEER_BNAK_RANK", "8")
    with pytest.raises(ConfigError) as caught:
        Settings.read()
    assert "STEER_BNAK_RANK" in str(caught.value) and "bank_slots" in str(caught.value)


def test_settings_survive_their_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "somebody_else")
    for name in Settings.model_fields:
        monkeypatch.setenv(f"STEER_{name.upper()}", "")
        monkeypatch.delenv(f"STEER_{name.upper()}")
    settings = Settings.read(bank_slots=3, api_key="secret", max_wait_seconds=1.5)
    settings.export()
    assert Settings.read() == settings
    import os

    assert os.environ["VLLM_PLUGINS"] == "somebody_else,steer_server_engine,steer_server_http"


def test_keys_are_masked() -> None:
    assert "hush" not in repr(Settings.read(api_key="hush"))
