"""What cannot be exported ends in one clear line and leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.errors import CheckpointError, ExportError, Gpt2jaError, HubError, OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gpt2ja_onnx.bundle.manifest import Precision

FP32 = ExportSettings(precision="fp32", verify=False)


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint, to be broken."""
    return shutil.copytree(checkpoint, tmp_path / "broken")


def edit(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def expect_failure(
    source: Path, kind: type[Gpt2jaError], message: str, settings: ExportSettings = FP32
) -> None:
    before = sorted(source.parent.iterdir())
    with pytest.raises(kind, match=message) as raised:
        export_bundle(str(source), source.parent / "new" / "out", settings)
    assert len(str(raised.value).splitlines()) == 1
    assert sorted(source.parent.iterdir()) == before


# --- weights ---


@pytest.mark.parametrize("kept", [0, 0.5, 0.999])
@pytest.mark.parametrize("pickled", [False, True])
def test_truncated_weights(broken: Path, pickled: bool, kept: float) -> None:
    weights = broken / "model.safetensors"
    if pickled:
        torch.save(load_file(weights), broken / "pytorch_model.bin")
        weights.unlink()
        weights = broken / "pytorch_model.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[: int(kept * len(content))])
    expect_failure(broken, CheckpointError, "the weights cannot be read")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(broken: Path, value: float) -> None:
    tensors = load_file(broken / "model.safetensors")
    tensors["transformer.ln_f.weight"][3] = value
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    expect_failure(broken, CheckpointError, "ln_f.weight has NaN or infinite values")


def test_weights_of_another_shape(broken: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    save_file(
        {name: t for name, t in tensors.items() if name != "transformer.h.1.mlp.c_fc.weight"},
        broken / "model.safetensors",
        metadata={"format": "pt"},
    )
    expect_failure(
        broken, CheckpointError, r"the weights lack transformer\.h\.1\.mlp\.c_fc\.weight"
    )


# --- configuration and tokenizer ---


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", b'{"model_type": "bert"}', "is a 'bert' model, not a 'gpt2'"),
        ("config.json", b"[]", "holds a list, expected an object"),
        ("config.json", b"{", "has no readable config.json"),
        ("config.json", b"\xff\xfe", "has no readable config.json"),
        ("tokenizer_config.json", b"{", "has no readable tokenizer_config.json"),
        ("generation_config.json", b"{", "has no readable generation_config.json"),
        ("generation_config.json", b'{"temperature": 0.0}', "temperature must be above 0, not 0.0"),
        ("spiece.model", b"pieces", "is not a sentencepiece model"),
        ("spiece.model", b"", "is not a sentencepiece model"),
    ],
)
def test_a_file_that_is_not_what_it_should_be(
    broken: Path, name: str, content: bytes, message: str
) -> None:
    (broken / name).write_bytes(content)
    expect_failure(broken, CheckpointError, message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 300}, "the tokenizer has 384 tokens, the model 300"),
        ({"n_head": 5}, "n_embd 64 is not a multiple of n_head 5"),
        ({"n_layer": "two"}, "config.json has no usable n_layer"),
        ({"activation_function": "relu"}, "has activation 'relu', expected 'gelu_new'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ({"vocab_size": 1000}, "the weights cannot be read"),
        ({"n_positions": 64}, "the weights cannot be read"),
    ],
)
def test_a_configuration_that_does_not_fit(
    broken: Path, values: dict[str, Any], message: str
) -> None:
    edit(broken / "config.json", **values)
    expect_failure(broken, CheckpointError, message)


def test_heads_that_the_fused_attention_cannot_take(make_checkpoint: Callable[..., Path]) -> None:
    source = make_checkpoint(1, 36, 3)
    expect_failure(source, ExportError, "heads of a multiple of 8, not of 12; --graph portable")


def test_missing_parts(broken: Path, tmp_path: Path) -> None:
    for name, message in (
        ("spiece.model", "has no spiece.model"),
        ("model.safetensors", "has neither model.safetensors nor pytorch_model.bin"),
        ("config.json", "has no readable config.json"),
    ):
        (broken / name).unlink()
        expect_failure(broken, CheckpointError, message)
    expect_failure(tmp_path / "nowhere", CheckpointError, "nowhere: no such directory")


# --- the evaluation text ---


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), (b"\xff", "cannot be read as UTF-8"), (b"\n", "at least 3")],
)
def test_a_text_that_cannot_be_used(broken: Path, content: bytes | None, message: str) -> None:
    text = broken / "text.txt"
    if content is not None:
        text.write_bytes(content)
    settings = ExportSettings(precision="fp32", eval_text=text)
    expect_failure(broken, ExportError, message, settings)


# --- devices and the hub ---


def test_precisions_that_a_device_cannot_run() -> None:
    with pytest.raises(ExportError, match="cuda runs fp16 and bf16, not int8; the CPU runs fp32"):
        ExportSettings(precision="int8", device="cuda")
    with pytest.raises(ExportError, match="bf16 runs on CUDA only; add --device cuda"):
        ExportSettings(precision="bf16")
    with pytest.raises(ExportError, match="--graph portable is exported in fp32, not int8"):
        ExportSettings(precision="int8", graph="portable")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub, which itself is out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_an_unreachable_hub(hub: Path, tmp_path: Path) -> None:
    with pytest.raises(HubError, match="the hub cannot be reached, and the model is not in its"):
        export_bundle("someone/some-model", tmp_path / "out", FP32)
    with pytest.raises(HubError, match="cannot be downloaded: Repo id must use"):
        export_bundle("some model", tmp_path / "out", FP32)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("revision", [None, "v1"])
def test_the_hubs_cache_serves_without_the_hub(
    hub: Path, checkpoint: Path, tmp_path: Path, revision: str | None
) -> None:
    cached = hub / "models--someone--some-model"
    shutil.copytree(checkpoint, cached / "snapshots" / ("c0ffee" * 7)[:40])
    (cached / "refs").mkdir()
    (cached / "refs" / (revision or "main")).write_text(("c0ffee" * 7)[:40])
    export_bundle("someone/some-model", tmp_path / "out", FP32, revision=revision)
    source = read_manifest(tmp_path / "out").source
    assert (source.repository, source.revision) == ("someone/some-model", ("c0ffee" * 7)[:40])


def test_a_connection_that_fails_is_an_unreachable_hub(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("proxy: refused")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", fail)
    with pytest.raises(HubError, match="the hub cannot be reached"):
        export_bundle("someone/some-model", tmp_path / "out", FP32)


# --- the output ---


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_no_bundle(checkpoint: Path, tmp_path: Path, force: bool) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "link").symlink_to("kept")
    for output, message in (
        (tmp_path, "holds 'kept' and is not a bundle, so it is not replaced"),
        (tmp_path / "kept", "exists and is not a directory"),
        (tmp_path / "kept" / "out", "cannot be written: Not a directory"),
        (tmp_path / "link", "is a link; name the directory that it leads to"),
    ):
        with pytest.raises(OutputError, match=message):
            export_bundle(str(checkpoint), output, FP32, force=force)
    assert contents(tmp_path) == {
        str(tmp_path / name): b"kept" for name in ("kept", "link")
    }  # and nothing beside it


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", "mine", "holds 'notes.txt', which is no part of a bundle; move it away"),
        ("bundle.json", "{", "holds 'bundle.json' and is not a bundle"),
        ("bundle.json", "[" * 100_000, "holds 'bundle.json' and is not a bundle"),
        ("bundle.json", '{"format": "other", "files": {}}', "and is not a bundle"),
        ("bundle.json", '{"format": "gpt2ja-onnx", "files": {"x": 1}}', "holds 'config.json'"),
        ("model.onnx/mine", "mine", "holds 'model.onnx', which is no part of a bundle"),
    ],
)
def test_force_replaces_a_bundle_alone(
    checkpoint: Path,
    bundles: dict[str, Path],
    tmp_path: Path,
    name: str,
    content: str,
    message: str,
) -> None:
    output = shutil.copytree(bundles["fp32"], tmp_path / "out")
    with pytest.raises(OutputError, match="exists already; use --force to replace it"):
        export_bundle(str(checkpoint), output, FP32)
    export_bundle(str(checkpoint), output, FP32, force=True)
    path = output / name
    if path.parent != output:
        path.parent.unlink()
        path.parent.mkdir()
    path.write_text(content)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=message):
        export_bundle(str(checkpoint), output, FP32, force=True)
    assert contents(tmp_path) == before


def test_an_output_that_is_written_to_meanwhile(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    export_bundle(str(checkpoint), output, FP32)

    def write(step: str) -> None:
        if step == "hashing":
            (output / "notes.txt").write_text("mine")

    with pytest.raises(OutputError, match=r"holds 'notes\.txt'"):
        export_bundle(str(checkpoint), output, FP32, force=True, report=write)
    assert (output / "notes.txt").read_text() == "mine"
    assert read_manifest(output).precision == "fp32"
    assert [*tmp_path.iterdir()] == [output]


def test_an_output_that_another_takes_at_the_last_moment(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    export_bundle(str(broken), output, FP32)
    before = (output / "bundle.json").read_bytes()
    rename = os.rename

    def taken(source: Path, target: Path) -> None:
        rename(source, target)
        if str(target).endswith(".old"):
            output.mkdir()
            (output / "notes.txt").write_text("mine")

    monkeypatch.setattr("os.rename", taken)
    with pytest.raises(OutputError, match="out: cannot be written: Directory not empty"):
        export_bundle(str(broken), output, FP32, force=True)
    assert (output / "notes.txt").read_text() == "mine"
    (old,) = tmp_path.glob(".out.*.old")
    assert (old / "bundle.json").read_bytes() == before


def test_an_output_that_is_around_or_in_an_input(broken: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    text = tmp_path / "texts" / "text.txt"
    text.write_text("朝の市場。")
    (tmp_path / "link").symlink_to(broken)
    before = contents(tmp_path)
    with_texts = ExportSettings(precision="fp32", eval_text=text, calibration_text=text)
    for source, output, settings, message in (
        (broken, broken, FP32, "is the input"),
        (broken, tmp_path, FP32, "holds the input"),
        (broken, broken / "out", FP32, "lies inside the input"),
        (tmp_path / "link", broken / "out", FP32, "lies inside the input"),
        (broken, tmp_path / "texts", with_texts, r"holds the input .*text\.txt"),
    ):
        with pytest.raises(OutputError, match=message):
            export_bundle(str(source), output, settings, force=True)
        assert contents(tmp_path) == before


def test_an_output_around_the_hubs_cache(hub: Path, checkpoint: Path, tmp_path: Path) -> None:
    cached = hub / "models--someone--some-model"
    snapshot = cached / "snapshots" / ("c0ffee" * 7)[:40]
    shutil.copytree(checkpoint, snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(snapshot.name)
    with pytest.raises(OutputError, match="lies inside the input"):
        export_bundle("someone/some-model", snapshot / "out", FP32)
    assert not (snapshot / "out").exists()


def test_a_file_size_limit(broken: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        expect_failure(broken, OutputError, "out: cannot be written: File too large")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


@pytest.mark.parametrize(
    "writes",
    ["onnx.save", "onnx_ir.save", "shutil.copyfile", "gpt2ja_export.pipeline.write_manifest"],
)
def test_a_full_disk(broken: Path, monkeypatch: pytest.MonkeyPatch, writes: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writes, full)
    expect_failure(broken, OutputError, "out: cannot be written: No space left on device")


# --- interrupts ---


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """Children of a test run in the background would inherit that SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("step", ["exporting", "verifying"])
def test_an_interrupted_export_leaves_nothing(checkpoint: Path, tmp_path: Path, step: str) -> None:
    command = [sys.executable, "-m", "gpt2ja_onnx.cli", "export", str(checkpoint), "out"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    while step not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.split("\n")[-2] == "interrupted"
    assert "Traceback" not in errors
    assert [*tmp_path.iterdir()] == []


def test_an_interrupt_while_replacing_keeps_the_old_bundle(
    broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    export_bundle(str(broken), output, FP32)
    before = (output / "bundle.json").read_bytes()
    rename = os.rename

    def interrupted(source: Path, target: Path) -> None:
        if target == output and not str(source).endswith(".old"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr("os.rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(str(broken), output, FP32, force=True)
    assert (output / "bundle.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "out"]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_activations_that_are_not_finite(broken: Path, precision: Precision) -> None:
    weights = load_file(broken / "model.safetensors")
    weights["transformer.h.1.ln_2.weight"].fill_(1e38)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    settings = ExportSettings(precision=precision, verify=False)
    with pytest.raises(ExportError, match="on the calibration text are not finite"):
        export_bundle(str(broken), broken.parent / "out", settings)
    assert not (broken.parent / "out").exists()
