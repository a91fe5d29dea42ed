"""The build hook: what a wheel becomes with a compiler, with another one, and without any."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

import gpt2ja_kernels
from gpt2ja_kernels import Kernels

FOLDER = Path(__file__).parents[2] / "kernels"


class App:
    """Stands for hatchling's, and keeps its warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, message: str) -> None:
        self.warnings.append(message)


class Build:
    """A copy of the sources, and hatchling's hook over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(FOLDER / "src", root / "kernels" / "src")
        shutil.copy(FOLDER / "hatch_build.py", root / "kernels")
        (root / "kernels" / "gpt2ja_kernels").mkdir()
        self.module = runpy.run_path(str(root / "kernels" / "hatch_build.py"))
        self.library: Path = self.module["LIBRARY"]
        self.app = App()

    def hook(self, target: str = "wheel") -> Any:
        return self.module["KernelsBuildHook"](
            str(self.root), {}, None, None, str(self.root / "dist"), target, self.app
        )

    def data(self, version: str = "standard", target: str = "wheel") -> dict[str, Any]:
        """What hatchling is told about the wheel."""
        data: dict[str, Any] = {"artifacts": [], "pure_python": True}
        self.hook(target).initialize(version, data)
        return data


@pytest.fixture
def build(tmp_path: Path) -> Build:
    made = Build(tmp_path)
    if not made.module["supported"]():
        pytest.skip("there are no native operators for this platform")
    return made


PLAIN: dict[str, Any] = {"artifacts": [], "pure_python": True}


@pytest.mark.parametrize("compiler", ["false", "/no/such/compiler -m64"])
def test_without_a_compiler_the_wheel_is_plain(
    build: Build, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("GPT2JA_CC", compiler)
    build.library.write_bytes(b"of another build")
    assert build.data() == PLAIN
    (warning,) = build.app.warnings
    assert warning.startswith("building without native operators: ")
    assert build.library.exists()  # an editable install's, which a wheel leaves alone
    assert build.data("editable") == PLAIN
    assert not build.library.exists()  # the sources are newer than it


def test_with_the_systems_compiler(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT2JA_CC", "gcc")
    assert build.hook().dependencies() == []
    assert build.data() == {
        "artifacts": ["kernels/gpt2ja_kernels/_kernels.so"],
        "pure_python": False,
        "tag": "py3-none-linux_x86_64",
    }
    assert build.app.warnings == []
    assert list(build.library.parent.iterdir()) == [build.library]
    kernels = gpt2ja_kernels._load(build.library)
    assert isinstance(kernels, Kernels)
    assert kernels.calls == kernels.nbytes == 0


def test_zig_is_asked_for_where_it_compiles(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GPT2JA_CC", raising=False)
    assert [name[:7] for name in build.hook().dependencies()] == ["ziglang"]
    monkeypatch.setattr("sys.platform", "darwin")
    assert build.hook().dependencies() == []
    assert build.data() == PLAIN
    assert not build.library.exists()


def test_a_source_distribution_compiles_nothing(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT2JA_CC", "gcc")
    assert build.data(target="sdist") == PLAIN
    assert not build.library.exists()
