"""Japanese GPT-2 on onnxruntime: low-latency batch sampling without PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_onnx.lazy import lazily

if TYPE_CHECKING:
    from gpt2ja_onnx.errors import (
        BundleError,
        CancelledError,
        ClosedError,
        GenerationError,
        Gpt2jaError,
        PromptError,
        ProviderError,
        QueueFullError,
        RequestTimeoutError,
        SettingError,
        UnknownSettingError,
    )
    from gpt2ja_onnx.model import (
        GPT2Ja,
    )
    from gpt2ja_onnx.request import (
        Request,
    )
    from gpt2ja_onnx.results import (
        ChoiceResult,
        Chunk,
        GenerationResult,
        OptionScore,
        RequestCost,
        Score,
        TokenLogprobs,
    )
    from gpt2ja_onnx.settings.config import (
        GenerationConfig,
    )

    __version__: str

__all__ = [
    "BundleError",
    "CancelledError",
    "ChoiceResult",
    "Chunk",
    "ClosedError",
    "GPT2Ja",
    "GenerationConfig",
    "GenerationError",
    "GenerationResult",
    "Gpt2jaError",
    "OptionScore",
    "PromptError",
    "ProviderError",
    "QueueFullError",
    "Request",
    "RequestCost",
    "RequestTimeoutError",
    "Score",
    "SettingError",
    "TokenLogprobs",
    "UnknownSettingError",
    "__version__",
]

_MODULES = {
    "BundleError": "errors",
    "CancelledError": "errors",
    "ChoiceResult": "results",
    "Chunk": "results",
    "ClosedError": "errors",
    "GPT2Ja": "model",
    "GenerationConfig": "settings.config",
    "GenerationError": "errors",
    "GenerationResult": "results",
    "Gpt2jaError": "errors",
    "OptionScore": "results",
    "PromptError": "errors",
    "ProviderError": "errors",
    "QueueFullError": "errors",
    "Request": "request",
    "RequestCost": "results",
    "RequestTimeoutError": "errors",
    "Score": "results",
    "SettingError": "errors",
    "TokenLogprobs": "results",
    "UnknownSettingError": "errors",
}


_get = lazily(__name__, _MODULES)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name == "__version__":
        from importlib.metadata import version  # slow to import

        return version("gpt2ja-onnx")
    return _get(name)


def __dir__() -> list[str]:
    return __all__
