"""Japanese GPT-2 on onnxruntime: low-latency batch sampling without PyTorch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpt2ja_onnx.engine.request import Chunk, GenerationResult, Request
    from gpt2ja_onnx.engine.scoring import Score
    from gpt2ja_onnx.errors import Gpt2jaError
    from gpt2ja_onnx.model import GPT2Ja
    from gpt2ja_onnx.settings import GenerationConfig

__all__ = [
    "Chunk",
    "GPT2Ja",
    "GenerationConfig",
    "GenerationResult",
    "Gpt2jaError",
    "Request",
    "Score",
]

_MODULES = {
    "Chunk": "engine.request",
    "GPT2Ja": "model",
    "GenerationConfig": "settings",
    "GenerationResult": "engine.request",
    "Gpt2jaError": "errors",
    "Request": "engine.request",
    "Score": "engine.scoring",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that ``--help`` loads neither engine."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
