"""Made-up reports: engines of every status, workloads of every kind, and known figures."""

from __future__ import annotations

import dataclasses

import numpy as np

from gpt2ja_bench.report import (
    Check,
    EngineReport,
    Machine,
    Report,
    Result,
    Sample,
    Served,
    Settings,
    Workload,
)

PARAMETERS = 109_000_000
WORKLOADS = (
    Workload("interactive", "Interactive, 16 + 96 tokens", "generate", 1, 16, 96, 1),
    Workload("batch-8", "Batch of 8, 16 + 96 tokens", "generate", 8, 16, 96, 8),
    Workload("batch-32", "Batch of 32, 16 + 96 tokens", "generate", 32, 16, 96, 32),
    Workload("batch-64", "Batch of 64, 16 + 96 tokens", "generate", 64, 16, 96, 64),
    Workload("long-prompt", "Long prompt, 768 + 64 tokens", "generate", 1, 768, 64, 1),
    Workload("shared", "16 sequences of one prompt", "generate", 16, 512, 64, 16, True),
    Workload("queue", "Queue of 200 requests", "queue", 32, 16, 96, 200),
    Workload("score", "Scoring 100 texts", "score", 32, 128, 0, 100),
    Workload("long-texts", "32 long texts", "generate", 32, 64, 320, 32, peers=2),
    Workload("batch-256", "Batch of 256, 16 + 16 tokens", "generate", 256, 16, 16, 256, peers=2),
    Workload("serve", "Serving", "serve", 32, 32, 48, 40, rates=(2.0, 8.0, 32.0), seed=7),
    Workload("cold-start", "Cold start", "cold_start", 1, 16, 1, 1),
)
# Engine → title, library, precision, bytes on disk, change of perplexity in percent,
# step in ms at 1, 8, 32 and 64 rows, first token in ms for 16 tokens and one row, start in s, MiB.
_MEASURED = {
    "torch": ("transformers + PyTorch", "transformers 4.57.6", "fp32", 442, 0.0,
              (36.1, 92.0, 203.0, 371.0), 52.0, 9.6, 1271),
    "optimum": ("Optimum ORTModel", "optimum-onnx 0.1.0", "fp32", 442, 0.0,
                (21.0, 58.0, 140.0, 290.0), 38.0, 7.9, 1604),
    "ctranslate2-float32": ("CTranslate2 float32", "ctranslate2 4.8.5", "float32", 440, 0.0,
                            (19.0, 54.0, 147.0, 262.0), 29.0, 0.7, 612),
    "ctranslate2-int8": ("CTranslate2 int8", "ctranslate2 4.8.5", "int8", 112, 0.31,
                         (14.4, 28.0, 45.0, 88.0), 17.0, 0.19, 148),
    "llamacpp-f32": ("llama.cpp f32", "llama-cpp-python 0.3.36", "f32", 438, 0.0,
                     (16.5, 27.0, 67.0, 150.0), 41.0, 0.4, 498),
    "llamacpp-q8_0": ("llama.cpp q8_0", "llama-cpp-python 0.3.36", "q8_0", 117, 0.05,
                      (4.9, 18.7, 48.6, 93.0), 19.0, 0.27, 214),
    "llamacpp-q4_0": ("llama.cpp q4_0", "llama-cpp-python 0.3.36", "q4_0", 64, 2.6,
                      (2.9, 17.8, 44.2, 85.0), 22.0, 0.25, 151),
    "genai-int4": ("onnxruntime-genai int4", "onnxruntime-genai 0.18.0", "int4", 84, 412.0,
                   (4.1, 21.0, 70.0, 141.0), 24.0, 1.4, 390),
    "ours-fp32": ("gpt2ja-onnx fp32", "onnxruntime 1.32.0", "fp32", 442, 0.0,
                  (12.7, 20.8, 51.8, 98.0), 24.0, 1.2, 560),
    "ours-fp16": ("gpt2ja-onnx fp16", "onnxruntime 1.32.0", "fp16", 222, 0.00005,
                  (14.0, 26.0, 66.0, 121.0), 27.0, 1.0, 480),
    "ours-int8": ("gpt2ja-onnx int8", "onnxruntime 1.32.0", "int8", 114, 0.023,
                  (4.0, 9.1, 22.5, 44.0), 14.0, 0.38, 216),
    "ours-int4": ("gpt2ja-onnx int4", "onnxruntime 1.32.0", "int4", 83, 0.24,
                  (3.2, 11.4, 30.5, 60.0), 16.0, 0.37, 190),
}  # fmt: skip
_NO_STEPS = "optimum"
SERVERS = {"ours-int8": 30.0, "llamacpp-q8_0": 5.0}  # requests a second that they stand
FASTEST = ("ctranslate2-int8", "llamacpp-q8_0")  # of the peers, in int8
_LAST_FAILED = "llamacpp-f32"  # at batch-64


def make_report(
    *, seed: int = 0, noise: float = 0.02, repeats: int = 5, slower: dict[str, float] | None = None
) -> Report:
    """A report with so much noise on every duration, and some engines slowed by a factor."""
    random = np.random.default_rng(seed)
    slower = slower or {}
    engines = [_engine(name) for name in _MEASURED]
    engines.insert(1, _absent("torch-compile", "PyTorch, compiled", "skipped", "no C++ compiler"))
    engines.append(
        _absent("openvino", "OpenVINO GenAI", "failed", "ended by signal 9 | <out of memory>\nat 3")
    )
    results = []
    for workload in WORKLOADS:
        if workload.kind == "serve":
            results += [_served(name, workload) for name in SERVERS]
            results.append(Result("ours-int4", "serve", "skipped", "uvicorn is not installed"))
            continue
        for name in _MEASURED:
            if workload.peers and not name.startswith("ours") and name not in FASTEST:
                continue
            if (name, workload.id) == (_LAST_FAILED, "batch-64"):
                results.append(Result(name, workload.id, "failed", "took longer than 300 s"))
                continue
            factor = slower.get(name, 1.0)
            samples = tuple(_sample(name, workload, factor, noise, random) for _ in range(repeats))
            memory = _MEASURED[name][8] * 2**20
            results.append(Result(name, workload.id, "ok", "", samples, memory))
    return Report(
        created="2026-11-24T03:20:00+00:00",
        complete=True,
        seconds=1503.0,
        machine=Machine(
            "AMD EPYC 9V74 80-Core Processor",
            ("avx2", "avx512f", "avx512_vnni"),
            2,
            16 * 2**30,
            "Linux 6.8, Python 3.11.2",
            33e9,
            140e9,
            900e9,
            "avx512_vnni",
        ),
        settings=Settings(
            False,
            repeats,
            2,
            "cpu",
            {"top_k": 50, "top_p": 0.95},
            "synthetic",
            {"layers": 12, "width": 768, "heads": 12, "context": 1024, "vocabulary": 32000},
            PARAMETERS,
            "One call of the engine's own generation loop, sampling included, without tokenizing.",
        ),
        versions={"numpy": "2.4.6", "torch": "2.13.0", "onnxruntime": "1.32.0"},
        engines=tuple(engines),
        workloads=WORKLOADS,
        results=tuple(results),
    )


def partial_report() -> Report:
    """A run that was interrupted in its second workload."""
    report = make_report(repeats=2)
    return dataclasses.replace(
        report, complete=False, seconds=95.0, results=report.results[: len(_MEASURED) + 3]
    )


def _engine(name: str) -> EngineReport:
    title, library, precision, size, change, *_ = _MEASURED[name]
    agreement = None if name.startswith("ctranslate2") else (0.02 if change > 100 else 1.0)
    perplexity = None if name == _NO_STEPS else 60.0 * (1 + change / 100)
    return EngineReport(
        name,
        title,
        library,
        precision,
        "ok",
        model_bytes=size * 10**6,
        load=(0.2, 0.21, 0.19),
        check=Check(64, agreement, perplexity, 60.0, change < 100),
        weight_bytes=size * 10**6 - 2_000_000,
        step_operations=2 * PARAMETERS,
        kernels=_kernels(name),
        fingerprint=f"0123456789ab-ort1.32.0-{_kernels(name)}" if _kernels(name) else "",
    )


def _kernels(name: str) -> str:
    native = name in ("ours-int8", "ours-int4")
    return "avx512_vnni" if native else "standard" if name.startswith("ours") else ""


def _absent(name: str, title: str, status: str, reason: str) -> EngineReport:
    return EngineReport(name, title, "", "", status, reason)  # type: ignore[arg-type]


def _served(name: str, workload: Workload) -> Result:
    """Requests beyond what a server stands, fewer than half at the last rate, wait for 2 s."""
    served = []
    for rate in workload.rates:
        count = round(workload.requests * rate / workload.rates[0])
        met = round(count * min(1.0, SERVERS[name] / rate))
        served.append(
            Served(
                rate=rate,
                seconds=20.0,
                first_tokens=(0.05,) * met + (2.0,) * (count - met),
                gaps=(0.02,) * count,
                between_tokens=(0.02, 0.03, 0.05),
                tokens=48 * count,
                failed=0,
                server_seconds=0.0008 * 48 * count,
                client_seconds=0.0001 * 48 * count,
            )
        )
    return Result(name, workload.id, "ok", "", (), 200 * 2**20, tuple(served))


def _sample(
    name: str, workload: Workload, factor: float, noise: float, random: np.random.Generator
) -> Sample:
    *_, steps, first, start, _ = _MEASURED[name]

    def drawn() -> float:
        return float(np.exp(noise * random.standard_normal())) * factor

    if workload.kind == "cold_start":
        seconds = start * drawn()
        return Sample(seconds, seconds, (), 1)
    rows = (1, 8, 32, 64, 256)
    step = float(np.interp(workload.rows, rows, (*steps, 4 * steps[-1]))) / 1e3
    if workload.kind != "generate":
        tokens = workload.requests * (workload.new_tokens or workload.prompt_tokens)
        share = 1.0 if workload.kind == "queue" else 0.2
        return Sample(tokens / workload.rows * step * share * drawn(), None, (), tokens)
    first_token = first / 1e3 * workload.rows * workload.prompt_tokens / 16 * drawn()
    scale = drawn()
    jitter = 1 + noise * random.exponential(size=workload.new_tokens - 1)
    if workload.new_tokens > 100:  # and one a thousandth longer with each position
        jitter *= 1 + np.arange(workload.new_tokens - 1) / 1000
    durations = tuple(float(step * scale * each) for each in jitter)
    told = () if name == _NO_STEPS else durations
    total = first_token + sum(durations)
    calls = 63 * workload.new_tokens if _kernels(name) == "avx512_vnni" else 0
    tokens = workload.rows * workload.new_tokens
    return Sample(total, first_token if told else None, told, tokens, calls)
