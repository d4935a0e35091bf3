"""What importing vLLM warns of, its own and its libraries' deprecations: marks of tests that import it."""

from __future__ import annotations

import pytest

IMPORTS_VLLM = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
