"""Native operators run whole or not at all, from the installed library alone, and leave nothing."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import onnx.inliner
import pytest

import gpt2ja_kernels
from gpt2ja_export import ExportSettings, export_bundle, pipeline
from gpt2ja_kernels import Kernels, load_kernels
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.demo import demo_bundle
from gpt2ja_onnx.bundle.manifest import read_manifest, write_manifest
from gpt2ja_onnx.cli import main
from gpt2ja_onnx.device.cpu.native import OPERATORS, STANDARD
from gpt2ja_onnx.device.cpu.session import CpuSession
from gpt2ja_onnx.errors import SettingError
from tests.runtime.test_lifetime import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def native() -> Kernels:
    kernels = load_kernels()
    if isinstance(kernels, str):
        pytest.skip(f"{kernels}; run make kernels")
    return kernels


@pytest.fixture
def bundle(bundles: dict[str, Path]) -> Path:
    return bundles["int8"]


def greedy(bundle: Path, **options: Any) -> list[int]:
    with GPT2Ja.load(bundle, **options) as model:
        return model.generate("朝の", max_new_tokens=12, eos_token_id=[])[0].token_ids


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def process(code: str, *arguments: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *(str(argument) for argument in arguments)],
        capture_output=True, text=True, env=ENVIRONMENT, check=False, cwd=cwd,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- which run ---


def test_every_function_of_a_step_is_a_native_call_or_none_is(
    bundle: Path, native: Kernels
) -> None:
    manifest = read_manifest(bundle)
    for kernels, calls in (("auto", sum(manifest.quantization[OPERATORS].values())), ("off", 0)):
        session = CpuSession(bundle, manifest, threads=1, kernels=kernels)  # type: ignore[arg-type]
        assert session.kernels == (native.instruction_set if calls else STANDARD)
        cache = session.new_cache()
        cache.reserve(3, 32, 0)
        for new, total in ((5, 5), (1, 6)):
            plan = cache.plan(0, 3, new, 1)
            plan.input_ids[...] = 9
            plan.lengths[...] = total
            before = native.calls
            plan.run()
            assert native.calls - before == calls


def test_an_unknown_choice_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingError, match=r"kernels must be one of \('auto', 'off'\), not 'on'"):
        GPT2Ja.load(bundle, kernels="on")  # type: ignore[arg-type]
    code, _, errors = command(capsys, "generate", "朝の", "--model", bundle, "--kernels", "on")
    assert code == 2
    assert "'on' is not one of 'auto', 'off'" in errors


@pytest.mark.parametrize("name", ["generate", "score"])
def test_the_commands_turn_them_off(
    bundle: Path, native: Kernels, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for choice in ("off", "auto"):
        before = native.calls
        code, out, _ = command(capsys, name, "朝の", "--model", bundle, "--kernels", choice)
        assert (code, out != "") == (0, True)
        assert (native.calls > before) is (choice == "auto")


def test_fingerprints(bundle: Path, bundles: dict[str, Path], native: Kernels) -> None:
    code = """
import sys
from gpt2ja_onnx import GPT2Ja
for kernels in ("auto", "off"):
    print(GPT2Ja.load(sys.argv[1], kernels=kernels).fingerprint)
"""
    first, second = process(code, bundle), process(code, bundle)
    assert first == second
    auto, off = first.split()
    assert auto.endswith(f"-{native.instruction_set}")
    assert off.endswith(f"-{STANDARD}")
    assert auto.rsplit("-", 1)[0] == off.rsplit("-", 1)[0]
    with GPT2Ja.load(bundle) as model, GPT2Ja.load(bundles["fp32"]) as other:
        assert model.fingerprint == auto
        assert other.fingerprint.split("-")[0] != auto.split("-")[0]
        assert other.kernels == STANDARD


def test_verification_runs_both_ways(
    checkpoint: Path, tmp_path: Path, native: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The limits are about trained weights; random ones lose more.
    monkeypatch.setattr(pipeline, "check", lambda *_: None)
    text = tmp_path / "text.txt"
    text.write_text("朝の京都は静かである。\n" * 20, encoding="utf-8")
    before = native.calls
    settings = ExportSettings(precision="int8", eval_text=text)
    manifest = export_bundle(str(checkpoint), tmp_path / "out", settings)
    assert native.calls > before
    found = manifest.verification
    assert found["kernels"] == native.instruction_set
    standard = found["with_standard_kernels"]
    assert set(standard) < set(found)
    assert standard["batch_difference"] == found["batch_difference"] == 0
    assert standard["mean_logit_difference"] != found["mean_logit_difference"]


# --- where they do not run ---

VERSION = "int gpt2ja_version(void) {{ return {}; }}\n"
SET = "const char *gpt2ja_instruction_set(void) {{ return {}; }}\n"
SIZES = "long gpt2ja_calls(void) { return 0; }\nlong gpt2ja_bytes(void) { return 0; }\n"


def compiled(path: Path, code: str) -> Path:
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", path], input=code, text=True, check=True
    )
    return path


def missing(path: Path) -> Path:
    return path


def garbage(path: Path) -> Path:
    path.write_bytes(b"\x7fELF of another machine")
    return path


def empty(path: Path) -> Path:
    return compiled(path, "")


def newer(path: Path) -> Path:
    version = VERSION.format(gpt2ja_kernels.VERSION + 1)
    return compiled(path, version + SET.format('"avx2"') + SIZES)


def without_avx2(path: Path) -> Path:
    version = VERSION.format(gpt2ja_kernels.VERSION)
    return compiled(path, version + SET.format("(void *)0") + SIZES)


def cut_off(path: Path) -> Path:
    library = Path(gpt2ja_kernels.__file__).with_name("_kernels.so").read_bytes()
    path.write_bytes(library[: len(library) // 2])
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (missing, "this installation has no native operators"),
        (garbage, "the native operators cannot be loaded: "),
        (empty, "the native operators cannot be loaded: "),
        (cut_off, "the native operators cannot be loaded: "),
        (newer, "the native operators are of version {}, not {}; install them again"),
        (without_avx2, "the processor has neither AVX-512 VNNI nor AVX2"),
    ],
)
def test_where_the_library_does_not_run_the_standard_bodies_do(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], Path],
    reason: str,
) -> None:
    expected = greedy(bundle, kernels="off")
    reason = reason.format(gpt2ja_kernels.VERSION + 1, gpt2ja_kernels.VERSION)
    monkeypatch.setattr(gpt2ja_kernels, "_LIBRARY", make(tmp_path / "_kernels.so"))
    caplog.clear()
    with caplog.at_level(logging.INFO, "gpt2ja_onnx"):
        assert greedy(bundle) == expected
    about, opened = [record.getMessage() for record in caplog.records]
    assert about.startswith(f"{bundle}: native operators do not run: {reason}")
    assert opened.endswith("int8 on cpu with standard kernels, 2 threads")
    code, out, _ = command(capsys, "inspect", "--model", bundle)
    (line,) = [line for line in out.splitlines() if line.startswith("native operators")]
    assert (code, line.split(maxsplit=2)[2].startswith(f"no: {reason}")) == (0, True)


def test_inspect_says_what_runs(
    bundle: Path, native: Kernels, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = command(capsys, "inspect", "--model", bundle)
    (line,) = [line for line in out.splitlines() if line.startswith("native operators")]
    assert line.split() == ["native", "operators", native.instruction_set]


def test_a_bundle_of_before_runs(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, native: Kernels
) -> None:
    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    graph = onnx.load(bundle / names.MODEL_FILE, load_external_data=False)
    onnx.save(onnx.inliner.inline_local_functions(graph), old / names.MODEL_FILE)
    manifest = read_manifest(bundle)
    quantization = {k: v for k, v in manifest.quantization.items() if k != OPERATORS}
    write_manifest(old, replace(manifest, quantization=quantization))
    before = native.calls
    with caplog.at_level(logging.INFO, "gpt2ja_onnx"):
        found = greedy(old)
    assert native.calls == before
    assert found == greedy(bundle, kernels="off")
    assert caplog.messages[0].endswith("the bundle was made before there were any; export it again")


def test_no_library_is_taken_from_elsewhere(bundle: Path, tmp_path: Path) -> None:
    """Libraries that leave a file behind when they are loaded lie where one might look."""
    mark = tmp_path / "loaded"
    code = f"""
#include <stdio.h>
__attribute__((constructor)) static void run(void) {{ fclose(fopen("{mark}", "w")); }}
"""
    library = compiled(tmp_path / "_kernels.so", code)
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    shutil.copy(library, copy)
    run = """
import sys
import gpt2ja_kernels
gpt2ja_kernels._LIBRARY = gpt2ja_kernels._LIBRARY.with_name("missing.so")
from gpt2ja_onnx import GPT2Ja
for name in ("LD_LIBRARY_PATH", "GPT2JA_CC", "GPT2JA_KERNELS"):
    import os
    os.environ[name] = sys.argv[1]
with GPT2Ja.load("bundle") as model:
    model.generate("朝の", max_new_tokens=2)
    print(model.kernels)
"""
    assert process(run, library, cwd=tmp_path) == f"{STANDARD}\n"
    assert not mark.exists()
    gpt2ja_kernels._load(library)  # the trap works
    assert mark.exists()


# --- memory ---


def test_a_hundred_sessions_leave_nothing(bundle: Path, native: Kernels) -> None:
    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * 4096

    def use() -> int:
        model = GPT2Ja.load(demo_bundle())
        model.generate("朝の", max_new_tokens=2)
        held = native.nbytes
        model.close()
        return held

    before = native.nbytes
    assert use() > before + 5e6  # the demo's packed weights
    for _ in range(5):
        use()
    grown = resident()
    for _ in range(100):
        use()
    assert native.nbytes == before
    assert resident() - grown < 24e6  # four times the weights


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.device.cpu.session import CpuSession
from gpt2ja_onnx.errors import Gpt2jaError
directory = Path(sys.argv[1])
manifest = read_manifest(directory)

def attempt(megabytes, action):
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * 4096 + megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        return action()
    except Gpt2jaError as error:
        assert "\\n" not in str(error)
        print(error)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

def load():
    return CpuSession(directory, manifest, threads=1)

def run():
    plan.run()

print(sum(attempt(megabytes, load) is None for megabytes in range(4, 104, 4)) > 3)
session = load()
cache = session.new_cache()
cache.reserve(1, 1024, 0)
plan = cache.plan(0, 1, 1000, 1)
plan.lengths[...] = 1000
for megabytes in range(0, 24, 2):
    attempt(megabytes, run)
plan.run()
print(session.kernels)
"""


def test_too_little_memory_is_an_error(native: Kernels) -> None:
    *errors, kernels = process(LITTLE_MEMORY, demo_bundle()).splitlines()
    assert kernels == native.instruction_set
    assert "True" in errors
    about = "Failed to allocate memory for a native operator"
    while_loading = errors[: errors.index("True")]
    assert any(about in error for error in while_loading), errors
    assert any("onnxruntime failed" in error for error in errors[len(while_loading) :]), errors
