"""Stock vLLM's own OpenAI server with nothing of ours in it, to compare with: what `vllm serve` starts.

Run as a module, because the `vllm` command of the CPU wheel asks for the metadata of a distribution that has
another name there. Options are those of `vllm serve`.
"""

from __future__ import annotations

import sys

from steer_server.engine.launch import launch
from steer_server.settings import allow_plugins

if __name__ == "__main__":
    allow_plugins(engine=False)
    launch(sys.argv[1:], {}, program="vllm serve")
