"""Japanese GPT-2 on onnxruntime: low-latency batch sampling without PyTorch."""

from gpt2ja_onnx.config import GenerationConfig
from gpt2ja_onnx.errors import Gpt2jaError
from gpt2ja_onnx.model import GPT2Ja
from gpt2ja_onnx.request import Chunk, GenerationResult, Request
from gpt2ja_onnx.scoring import Score

__all__ = [
    "Chunk",
    "GPT2Ja",
    "GenerationConfig",
    "GenerationResult",
    "Gpt2jaError",
    "Request",
    "Score",
]
