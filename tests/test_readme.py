"""Everything in the READMEs runs: their commands against the live server, their YAML through our readers."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from steer_server.steering.policy import Policy
from tests.support.servers import ROOT, Running

READMES = (ROOT / "README.md", *sorted((ROOT / "steer_server").glob("*/README.md")))
URL = "http://127.0.0.1:8000"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    (language, code)
    for readme in READMES
    for language, code in BLOCK.findall(readme.read_text())
    if language != "text"
]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")

ASKS_A_SERVER = re.compile(r"^steer-server (keys|adapters (?!validate|keygen|sign)).*")
"""Commands whose default is port 8000."""

RUN_ELSEWHERE = {
    "make serve": "the live server of these tests is started by it",
    "make test": "this is it",
    "make bench": "minutes of measuring; `tests/evaluation` runs its parts",
    "steer-server train": "minutes of training; `tests/training` runs it on a few questions",
    "steer-server eval": "needs what was trained; `tests/evaluation` runs it on a few questions",
    "docker build": "needs a container engine",
}
"""Commands that are not run here, and why."""


def blocks(*languages: str) -> list[str]:
    return [code for language, code in BLOCKS if language in languages]


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python", "yaml"}


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_what_a_readme_links_to_is_there(readme: Path) -> None:
    links = LINK.findall(readme.read_text())
    assert [link for link in links if not (readme.parent / link).exists()] == []


@pytest.mark.engine
@pytest.mark.parametrize("code", blocks("bash"))
def test_a_command_of_the_readme_runs(code: str, vllm_process: Running) -> None:
    ours = [line for line in code.splitlines() if not any(other in line for other in RUN_ELSEWHERE)]
    ours = [ASKS_A_SERVER.sub(rf"\g<0> --url {URL}", line) for line in ours]
    script = "\n".join(ours).replace(URL, vllm_process.url)
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(Path.home()),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "curl" in script:
        assert "error" not in done.stdout.lower(), done.stdout


@pytest.mark.engine
@pytest.mark.parametrize("code", blocks("python"))
def test_a_program_of_the_readme_runs(code: str, vllm_process: Running, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(code.replace(URL, vllm_process.url))
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("code", blocks("yaml"))
def test_the_readmes_yaml_is_what_the_server_reads(code: str, tmp_path: Path) -> None:
    document = yaml.safe_load(code)
    if "max_weight" in document:
        (tmp_path / "policy.yaml").write_text(code)
        assert Policy.read(tmp_path / "policy.yaml").max_weight == document["max_weight"]
    else:
        assert all(set(preset) <= {"cultures", "strength", "values"} for preset in document.values())
