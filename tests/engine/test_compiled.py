"""C++ that is compiled when it is first needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from vllm import envs

from steer_server.engine import compiled
from steer_server.engine.compiled import load_operation

SOURCE = """
#include <ATen/core/Tensor.h>
#include <torch/library.h>
TORCH_LIBRARY(steer_test, m) {
  m.def("twice", [](const at::Tensor& x) { return x.add(x); });
}
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(envs, "VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_operation_is_compiled_once_and_anew_for_another_source(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "twice.cpp"
    source.write_text(SOURCE)
    assert load_operation(source)
    assert torch.ops.steer_test.twice(torch.ones(2)).tolist() == [2.0, 2.0]
    (library,) = cache.rglob("*.so")
    commands: list[Path] = []
    monkeypatch.setattr(compiled, "_compile", lambda source, library, flags: commands.append(library))
    assert load_operation(source) and not commands
    source.write_text(SOURCE + "// changed")
    assert not load_operation(source), "what was to be compiled is not there"
    assert commands and commands[0] != library


def test_what_cannot_be_compiled_is_told_and_leaves_nothing(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "wrong.cpp"
    source.write_text("this is no C++")
    assert not load_operation(source)
    assert "wrong.cpp cannot be compiled" in caplog.text and "error" in caplog.text
    assert not [path for path in cache.rglob("*") if path.is_file()]
