import pytest

from steer_server.errors import ConfigError
from steer_server.settings import Settings


def test_upstreams_come_from_options_or_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"a": "http://a:1/v1", "b-2": "https://b/api/v2"}
    assert Settings.read(upstream=["a=http://a:1", "b-2=https://b/api/v2/"]).upstream == expected
    monkeypatch.setenv("STEER_UPSTREAM", " a=http://a:1/  b-2=https://b/api/v2 ")
    assert Settings.read().upstream == expected


def test_upstreams_and_keys_survive_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(f"STEER_{name.upper()}", "")
        monkeypatch.delenv(f"STEER_{name.upper()}")
    monkeypatch.setenv("VLLM_PLUGINS", "")
    monkeypatch.setenv("STEER_UPSTREAM_B_2_KEY", "hush-hush")
    settings = Settings.read(upstream=["a=http://a:1", "b-2=https://b/api"])
    settings.export()
    again = Settings.read()
    assert again == settings
    assert {name: key.get_secret_value() for name, key in again.upstream_keys().items()} == {
        "b-2": "hush-hush"
    }
    assert "hush" not in repr(again) + repr(again.upstream_keys())


@pytest.mark.parametrize(
    "given",
    [
        "a",
        "A=http://a",
        "a/b=http://a",
        "=http://a",
        "a=ftp://a",
        "a=a.example/v1",
        "a=http://",
        "a=http://a:none/",
        "a=http://[::1/",
        "a=http://me:hush@a/v1",
        "a=http://hush@a/v1",
        "a=http://a/v1?api-key=hush",
        "hush-hush-hush-hush-hush-hush-hush-hush=http://a",
        "a=http://a a=http://b",
        "a-b=http://a a_b=http://b",
    ],
)
def test_a_bad_upstream_stops_the_start_and_repeats_no_credentials(given: str) -> None:
    with pytest.raises(ConfigError, match="upstream") as caught:
        Settings.read(upstream=given)
    assert "hush" not in str(caught.value)


def test_a_key_of_no_upstream_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEER_UPSTREAM_B_KEY", "hush-hush")
    with pytest.raises(ConfigError, match="STEER_UPSTREAM_B_KEY: there is no such upstream") as caught:
        Settings.read(upstream=["a=http://a"])
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("key", ["hush hush", "hush\n", "hüsh"])
def test_a_key_that_no_header_can_carry_stops_the_start(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("STEER_UPSTREAM_A_KEY", key)
    with pytest.raises(ConfigError, match="STEER_UPSTREAM_A_KEY: not a key") as caught:
        Settings.read(upstream=["a=http://a"])
    assert key not in str(caught.value)
