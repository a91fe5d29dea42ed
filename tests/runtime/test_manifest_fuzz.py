"""Whatever bundle.json says, a bundle is loaded and works, or is refused in one line."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.errors import BundleError, PromptError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    # Keys from the outermost object on, and what they get; `DROP` takes them away.
    Change = tuple[tuple[str, ...], Any]

DROP = "(dropped)"
# Too deep for us, and too deep for Python.
DEPTHS = {f"({depth} lists)": depth for depth in (30, 900, 990, 100_000)}
HUGE = 10**400


@pytest.fixture(scope="module")
def bundle(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose manifest the tests replace."""
    return shutil.copytree(bundles["fp32"], tmp_path_factory.mktemp("fuzz") / "bundle")


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "bundle.json").read_text())
    # Settings to mutate, and an entry that may name any file.
    content["generation_defaults"] = {
        "temperature": 0.5, "top_k": 5, "stop": ["。"], "bad_words_ids": [[7]], "do_sample": True,
        "early_stopping": "never", "eos_token_id": [3, 10], "num_beams": 2, "seed": 1,
    }  # fmt: skip
    return content


def load(bundle: Path, content: object) -> None:
    """Load the bundle with this manifest; what can be loaded must also run."""
    text = json.dumps(content)
    for name, depth in DEPTHS.items():
        text = text.replace(f'"{name}"', "[" * depth + "]" * depth)
    (bundle / "bundle.json").write_text(text)
    with GPT2Ja.load(bundle, threads=1) as model, contextlib.suppress(PromptError, SettingError):
        model.generate("朝", max_new_tokens=1, num_beams=1, num_return_sequences=1, timeout=60)


def changed(content: dict[str, Any], change: Change) -> dict[str, Any]:
    keys, value = change
    content = copy.deepcopy(content)
    place = content
    for key in keys[:-1]:
        place = place[key]
    if value == DROP:
        del place[keys[-1]]
    else:
        place[keys[-1]] = value
    return content


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ("shape.cache_dtype", "float8", "shape.cache_dtype must be one of .*, not 'float8'"),
        ("shape.cache_dtype", "int8", "shape.cache_dtype must be float32 in fp32, not int8"),
        ("shape.layers", 4.0, "shape.layers must be a whole number, not 4.0"),
        ("shape.layers", True, "shape.layers must be a whole number, not True"),
        ("shape.layers", 10**9, "shape.layers must be from 1 to 10000, not 1000000000"),
        ("shape.cache_16_bits", [0], "shape.cache_16_bits must be empty in fp32"),
        ("shape.cache_16_bits", ["0"], r"shape.cache_16_bits\[0\] must be a whole number, not '0'"),
        ("shape.candidates", -1, "shape.candidates must be from 1 to 2147483647, not -1"),
        ("shape.candidates", 5, "gives 64 candidates, the manifest says 5"),
        ("shape.context", HUGE, r"shape.context must be from 1 to 2147483647, not 10{79}…"),
        ("shape.heads", None, "shape.heads must be a whole number, not None"),
        ("shape", [], "shape must be an object, not a list"),
        ("version", True, "has version True"),
        ("version", "1", "has version '1'"),
        ("source.licence", 3, "source.licence must be a string, not 3"),
        ("source.repository", None, "source.repository must be a string, not None"),
        ("special_ids.eos", "</s>", "special_ids.eos must be a whole number, not '</s>'"),
        ("special_ids.eos", 384, "special_ids.eos must be from 0 to 383, not 384"),
        ("special_ids.eos", -1, "special_ids.eos must be from 0 to 383, not -1"),
        ("weights.norms", {}, "weights.norms must be a whole number, not an object"),
        ("tools.onnx", 1.0, "tools.onnx must be a string, not 1.0"),
        ("device", "cuda", "device must be one of .* in fp32, not cuda"),
        ("device", ["cpu"], "device must be one of .*, not a list"),
        ("precision", "fp16", "shape.cache_dtype must be float16 in fp16, not float32"),
        ("files.x", {"size": -5, "sha256": ""}, "files.x.size must be from 0 to 92233.*, not -5"),
        ("files.x", {"size": 5}, "files.x.sha256 is missing"),
        ("files.x", 5, "files.x must be an object, not 5"),
        ("files.x", {"size": 5, "sha256": None}, "files.x.sha256 must be a string, not None"),
        ("files./etc/passwd", {"size": 5, "sha256": ""}, "//etc/passwd: is outside of the bundle"),
        ("files.\ud800\n", {"size": 5, "sha256": ""}, r"/\\ud800\\n: the file is missing"),
        ("quantization.x", "(30 lists)", "quantization.x is nested more than 16 deep"),
        ("generation_defaults.stop", "(900 lists)", "generation_defaults.stop is nested more"),
        ("generation_defaults.temperature", 0, "generation_defaults: temperature must be above 0"),
        ("generation_defaults.top_k", 2**63, "generation_defaults: top_k must be at least 0"),
        ("generation_defaults.stop", {"a": 1}, "bundle.json: generation_defaults: stop must be"),
        ("generation_defaults.eos_token_id", [384], "eos_token_id must hold ids below 384"),
        ("generation_defaults.num_return_sequences", 9, "must not be above num_beams"),
    ],
)
def test_what_is_wrong_is_named(
    bundle: Path, manifest: dict[str, Any], keys: str, value: Any, message: str
) -> None:
    first, _, second = keys.partition(".")
    path = (first, second) if second else (first,)
    with pytest.raises(BundleError, match=message) as raised:
        load(bundle, changed(manifest, (path, value)))
    assert len(str(raised.value).splitlines()) == 1
    assert "bundle" in str(raised.value)


def test_a_cache_that_the_graph_does_not_have(bundles: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(bundles["int8"], tmp_path / "bundle")
    content = json.loads((other / "bundle.json").read_text())
    shape = content["shape"] | {"cache_dtype": "float32", "cache_16_bits": []}
    with pytest.raises(BundleError, match=r"cache is a tensor\(int8\), the manifest says float32"):
        load(other, content | {"precision": "fp32", "shape": shape})


def test_cache_bytes_that_the_graph_does_not_have(bundles: dict[str, Path], tmp_path: Path) -> None:
    other = shutil.copytree(bundles["int8"], tmp_path / "bundle")
    content = json.loads((other / "bundle.json").read_text())
    for layers, message in (
        ([], "its cache has 2 heads of 64 in layer 1, the manifest says 2 of 32"),
        ([0, 1], "its cache has 2 heads of 32 in layer 0, the manifest says 2 of 64"),
        ([1, 1], "must be rising layers from 0 to 1"),
        ([2], "must be rising layers from 0 to 1"),
        ([-1], "must be rising layers from 0 to 1"),
    ):
        shape = content["shape"] | {"cache_16_bits": layers}
        with pytest.raises(BundleError, match=message):
            load(other, content | {"shape": shape})


@pytest.mark.parametrize("content", [[], None, 5, "bundle", {}, *DEPTHS])
def test_what_is_no_manifest_at_all(bundle: Path, content: object) -> None:
    with pytest.raises(BundleError, match=r"is not a manifest of this project|cannot be read"):
        load(bundle, content)


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 500),
    st.sampled_from([HUGE, -HUGE, 2**31 - 1, 2**31, 2**63, 2**64, 4.0, 2.0, 0.0, 1e308]),
    st.floats(),
    st.text(max_size=4),
    st.sampled_from(
        ["float8", "float16", "int8", "bf16", "int4", "cuda", "portable", "../x", "/", "", "\0"]
    ),
)
junk = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def places(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every value's place, and one for a new value in every object."""
    if isinstance(content, dict):
        yield (*keys, "new")
        for key, value in content.items():
            yield (*keys, key)
            yield from places(value, (*keys, key))


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from([DROP, *DEPTHS]) | junk),
        min_size=1,
        max_size=3,
    )
)
def test_any_manifest_is_refused_or_works(
    bundle: Path, manifest: dict[str, Any], changes: list[tuple[int, Any]]
) -> None:
    content = manifest
    for number, value in changes:
        open_places = [
            keys for keys in places(content) if not (value == DROP and keys[-1] == "new")
        ]
        if open_places:
            content = changed(content, (open_places[number % len(open_places)], value))
    error = None
    try:
        load(bundle, content)
    except BundleError as raised:
        error = raised
    assert error is None or len(str(error).splitlines()) == 1
