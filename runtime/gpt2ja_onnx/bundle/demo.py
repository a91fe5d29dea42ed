"""Where the bundled demo model lies: in the installed package, or in the source tree."""

from __future__ import annotations

from pathlib import Path

from gpt2ja_onnx.errors import BundleError

_PLACES = (
    Path(__file__).parents[1] / "models" / "demo",  # a wheel
    Path(__file__).parents[3] / "models" / "demo",  # an editable install
)
FULL_MODEL = "colorfulscoop/gpt2-small-ja"
FULL_REVISION = "20210820.1.0"
NOTICE = (
    "using the small demo model. For the full one, with the 'export' extra installed:\n"
    f"  gpt2ja-onnx export {FULL_MODEL} gpt2-small-ja --revision {FULL_REVISION} "
    "--precision int8\n"
    "then --model gpt2-small-ja (--model demo hides this notice)"
)


def demo_bundle() -> Path:
    """The directory of the demo bundle."""
    return _find("bundle")


def find_bundle(directory: str | Path | None) -> Path:
    """The directory of a bundle: the demo's for None, and for ``demo`` if there is no such file."""
    if directory is None or (str(directory) == "demo" and not Path("demo").exists()):
        return demo_bundle()
    return Path(directory)


def demo_checkpoint() -> Path:
    """The directory of the demo checkpoint, in the Hugging Face layout."""
    return _find("checkpoint")


def _find(name: str) -> Path:
    for place in _PLACES:
        if (place / name).is_dir():
            return place / name
    raise BundleError(f"the demo model's {name} is not installed; name one with --model")
