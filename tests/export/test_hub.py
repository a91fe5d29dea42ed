"""A model of the hub by its name: exported once, into the user's cache."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle import hub
from gpt2ja_onnx.errors import MissingExtraError

NAME = "somebody/tiny-gpt2"
COMMIT = "0" * 40


@pytest.fixture
def environment(checkpoint: Path, tmp_path: Path) -> dict[str, str]:
    """A hub that cannot be reached, and whose local cache has one model."""
    repository = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    shutil.copytree(checkpoint, repository / "snapshots" / COMMIT)
    return os.environ | {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }


def start(environment: dict[str, str], model: str = NAME) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "gpt2ja_onnx.cli", "generate", "寺", "--model", model),
            *("--seed", "1", "--max-new-tokens", "3"),
        ],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_it_is_exported_once_and_others_wait(environment: dict[str, str]) -> None:
    both = [start(environment) for _ in range(2)]
    said = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0] != ""
    assert all(err.startswith(f"exporting {NAME} to ") for _, err in said)
    cache = Path(environment["XDG_CACHE_HOME"]) / "gpt2ja-onnx" / "somebody--tiny-gpt2" / "main"
    assert sorted(item.name for item in cache.iterdir()) == [".int8.lock", "int8"]
    # From now on, neither the hub nor the exporter is needed.
    again = start(environment | {"HF_HUB_CACHE": "/nowhere"})
    assert again.communicate(timeout=60) == (said[0][0], "")


def test_a_broken_export_leaves_nothing(environment: dict[str, str]) -> None:
    weights = next(Path(environment["HF_HUB_CACHE"]).rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    failed = start(environment)
    said = failed.communicate(timeout=120)[1].splitlines()
    assert failed.returncode == 1
    assert said[-1].startswith("error: ")
    assert not list(Path(environment["XDG_CACHE_HOME"]).rglob("int8"))
    unknown = start(environment, "somebody/else")
    said = unknown.communicate(timeout=120)[1].splitlines()
    assert unknown.returncode == 1
    assert said[-1].startswith("error: somebody/else: ")


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name="torch")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(MissingExtraError) as caught:
        GPT2Ja.load(NAME)
    assert str(caught.value).endswith("pip install -c constraints.txt 'gpt2ja-onnx[export]'")
    assert "lacks torch" in str(caught.value)


def test_what_is_a_name_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    for model in (None, "demo", "models/mine", "./models/other", "a/b/c", "/a/b", "a/.b", "a/b@"):
        assert hub.hub_place(model) is None
    root = Path("/cache/gpt2ja-onnx")
    full = root / "colorfulscoop--gpt2-small-ja"
    assert hub.hub_place("colorfulscoop/gpt2-small-ja") == full / "20210820.1.0" / "int8"
    assert hub.hub_place("a/b@v2", cuda=True) == root / "a--b" / "v2" / "cuda-fp16"
