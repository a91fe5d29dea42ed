"""The engines of the comparison, by name."""

from __future__ import annotations

from dataclasses import replace

from gpt2ja_bench.report import BASELINE
from gpt2ja_bench.running.engines.spec import EngineSpec

_PACKAGE = "gpt2ja_bench.running.engines"
_SERVED = ("int8", "q8_0", "fp16")  # one precision a library and device, since serving takes long


def _torch(name: str, title: str, precision: str, bits: float) -> EngineSpec:
    return EngineSpec(
        id=name,
        title=title,
        kind=f"{_PACKAGE}.pytorch:Torch",
        precision=precision,
        weight_bits=bits,
        packages=("torch", "transformers"),
        extra="bench",
    )


def _ours(precision: str, bits: float, build: str = "cpu") -> EngineSpec:
    return EngineSpec(
        id=f"ours-{precision}",
        title=f"gpt2ja-onnx {precision}",
        kind=f"{_PACKAGE}.ours:Ours",
        precision=precision,
        weight_bits=bits,
        packages=("gpt2ja-onnx", "onnx-ir"),
        extra=f"{build},bench",
        server="gpt2ja" if precision in _SERVED else "",
    )


def _standard(spec: EngineSpec) -> EngineSpec:
    """This project without its native operators: what they gain."""
    return replace(
        spec,
        id=f"{spec.id}-standard",
        title=f"{spec.title}, standard kernels",
        precision=f"{spec.precision} standard",
        by_default=False,
    )


def _ctranslate2(precision: str, bits: float) -> EngineSpec:
    return EngineSpec(
        id=f"ctranslate2-{precision}",
        title=f"CTranslate2 {precision}",
        kind=f"{_PACKAGE}.ctranslate2:CTranslate2",
        precision=precision,
        weight_bits=bits,
        packages=("ctranslate2", "transformers"),
        extra="bench,bench-ctranslate2",
    )


def _llama_cpp(precision: str, bits: float) -> EngineSpec:
    return EngineSpec(
        id=f"llama.cpp-{precision}",
        title=f"llama.cpp {precision}",
        kind=f"{_PACKAGE}.llama_cpp:LlamaCpp",
        precision=precision,
        weight_bits=bits,
        packages=("llama-cpp-python", "gguf", "transformers"),
        extra="bench,bench-llama-cpp",
        server="llama.cpp" if precision in _SERVED else "",
    )


def _openvino(precision: str, bits: float) -> EngineSpec:
    quantiser = ("nncf",) if precision == "int8" else ()
    return EngineSpec(
        id=f"openvino-{precision}",
        title=f"OpenVINO GenAI {precision}",
        kind=f"{_PACKAGE}.openvino:OpenVino",
        precision=precision,
        weight_bits=bits,
        packages=("openvino-genai", "optimum-intel", *quantiser),
        extra="bench,bench-openvino",
    )


OPTIMUM = EngineSpec(
    id="optimum",
    title="Optimum ORTModel",
    kind=f"{_PACKAGE}.optimum:Optimum",
    precision="fp32",
    weight_bits=32,
    packages=("optimum-onnx", "torch", "transformers"),
    extra="bench",
)
ORT_GENAI = EngineSpec(
    id="onnxruntime-genai",
    title="onnxruntime-genai",
    kind=f"{_PACKAGE}.ort_genai:OrtGenai",
    precision="fp32",
    weight_bits=32,
    packages=("onnxruntime-genai", "optimum-onnx"),
    extra="bench,bench-genai",
)
ENGINES: tuple[EngineSpec, ...] = (
    _torch(BASELINE, "PyTorch", "fp32", 32),
    _torch("torch-compiled", "PyTorch compiled", "fp32 compiled", 32),
    OPTIMUM,
    ORT_GENAI,
    _ctranslate2("float32", 32),
    _ctranslate2("int8", 8),
    _llama_cpp("f32", 32),
    _llama_cpp("q8_0", 8.5),
    _llama_cpp("q4_0", 4.5),
    _openvino("f32", 32),
    _openvino("int8", 8),
    _ours("fp32", 32),
    _ours("int8", 8),
    _ours("int4", 4.75),
    _standard(_ours("int8", 8)),
    _standard(_ours("int4", 4.75)),
)
CUDA_ENGINES: tuple[EngineSpec, ...] = (
    _torch(BASELINE, "PyTorch", "fp16", 16),
    _torch("torch-compiled", "PyTorch compiled", "fp16 compiled", 16),
    OPTIMUM,
    _ours("fp16", 16, "gpu"),
    _ours("bf16", 16, "gpu"),
)
