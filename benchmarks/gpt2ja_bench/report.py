"""The report's contract: what the runner writes, and what pages and `compare` read.

``report.json`` is `Report` as JSON, field by field; every duration is in seconds, every size in
bytes. Samples are kept as they were measured; what is derived from them is in
`gpt2ja_bench.reporting.statistics`, so that a reader of the file can check it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 2
_READABLE = (1, VERSION)  # version 1 has no integer rate, kernels, native calls and servers
REPORT_FILE = "report.json"
BASELINE = "torch"  # the engine that ratios are taken to

Status = Literal["ok", "skipped", "failed"]
Kind = Literal["generate", "queue", "score", "cold_start", "serve"]


@dataclass(frozen=True, slots=True)
class Machine:
    """What the report was measured on.

    Attributes:
        name: Of the processor, or of the GPU for a CUDA report.
        flags: Instruction sets that matter to matrix products.
        cores: Cores that this process may use.
        memory: Bytes of main memory.
        system: Operating system and Python.
        bandwidth: Measured bytes a second when reading memory, with the threads of the report.
        matrix_rate: Measured floating point operations a second of an fp32 product (fp16 on CUDA).
        integer_rate: Measured integer operations a second of an int8 product, by this project's
            native operators with weights from the cache; 0 where there are none.
        kernels: The instruction set of these operators, or why there are none.
    """

    name: str
    flags: tuple[str, ...]
    cores: int
    memory: int
    system: str
    bandwidth: float
    matrix_rate: float
    integer_rate: float = 0.0
    kernels: str = "not measured"


@dataclass(frozen=True, slots=True)
class Rates:
    """What the machine could do right before a round: see `Machine` for the rates."""

    workload: str
    bandwidth: float
    integer_rate: float


@dataclass(frozen=True, slots=True)
class Settings:
    """How the report was measured.

    Attributes:
        quick: Fewer repeats and workloads.
        repeats: Timed calls of each engine and workload, after one that warms up.
        threads: Threads of every engine.
        device: Where the engines ran.
        sampling: Settings of every engine, by transformers' names.
        checkpoint: The checkpoint, or ``synthetic``.
        shape: Layers, width, heads, context and vocabulary of the model.
        parameters: Of the model.
        timed: What the durations hold, in words.
    """

    quick: bool
    repeats: int
    threads: int
    device: Literal["cpu", "cuda"]
    sampling: dict[str, Any]
    checkpoint: str
    shape: dict[str, int]
    parameters: int
    timed: str


@dataclass(frozen=True, slots=True)
class Check:
    """An engine held against PyTorch in fp32 before it was timed.

    Attributes:
        greedy_tokens: Tokens that were generated greedily.
        greedy_agreement: Share of them before the first one that differs from PyTorch's; NaN
            never appears: an engine that cannot say has None.
        perplexity: On a text; None where the engine gives no log-probabilities.
        reference_perplexity: PyTorch's on the same text.
        passed: Whether the engine says what PyTorch says, to the accuracy of its precision.
    """

    greedy_tokens: int
    greedy_agreement: float | None
    perplexity: float | None
    reference_perplexity: float
    passed: bool


@dataclass(frozen=True, slots=True)
class EngineReport:
    """An engine.

    Attributes:
        id: Short name, such as ``ours-int8``; `BASELINE` is what ratios are taken to.
        title: For people.
        library: Package and version, such as ``ctranslate2 4.8.5``.
        precision: Of the weights, in the engine's own words.
        status: ``skipped`` if it cannot run here; ``failed`` if it ended before it was timed.
        reason: Why it was skipped or failed.
        model_bytes: Size of its model on disk.
        load: Seconds from the call to a model that can generate, one a repeat.
        check: Against PyTorch.
        weight_bytes: Bytes of weights that one decoding step reads, for the floor.
        step_operations: Floating point (or integer) operations a row and decoding step.
        kernels: What computes the graph, where the engine tells: ``avx2`` for native operators.
        fingerprint: Names bundle, library and kernels; where it is the same, so is a seed's text.
    """

    id: str
    title: str
    library: str
    precision: str
    status: Status
    reason: str = ""
    model_bytes: int = 0
    load: tuple[float, ...] = ()
    check: Check | None = None
    weight_bytes: int = 0
    step_operations: int = 0
    kernels: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is run.

    Attributes:
        id: Short name, such as ``batch-8``.
        title: For people.
        kind: ``generate``: one call over `rows` prompts, all of one length; ``queue``: requests
            of drawn lengths; ``score``: log-probabilities of texts; ``cold_start``: a new
            process to its first token; ``serve``: requests that come over HTTP at given rates.
        rows: Rows of the batch, or the most that may run at once.
        prompt_tokens: Length of every prompt, or of every text for scoring.
        new_tokens: Tokens to generate for every prompt; the mean for a queue and for serving.
        requests: Requests in a queue or, at the lowest rate, to a server; or texts to score;
            otherwise equal to `rows`.
        shared_prompt: Whether the rows continue one and the same prompt.
        peers: How many of the other projects' engines ran, the fastest ones; None: every engine.
        rates: Requests a second that a server gets, rising.
        seed: Of the times, prompts and lengths of these requests.
    """

    id: str
    title: str
    kind: Kind
    rows: int
    prompt_tokens: int
    new_tokens: int
    requests: int
    shared_prompt: bool = False
    peers: int | None = None
    rates: tuple[float, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """One timed call.

    Attributes:
        seconds: The whole call.
        first_token: Until every row has its first token; None where it has no meaning.
        steps: Durations of the decoding steps after the first token, one a step of the whole
            batch; empty where the engine does not tell.
        tokens: Tokens that were generated, or scored.
        native_calls: Calls of this project's native operators, where the engine counts them.
    """

    seconds: float
    first_token: float | None
    steps: tuple[float, ...]
    tokens: int
    native_calls: int = 0


@dataclass(frozen=True, slots=True)
class Served:
    """A server under requests that come at one rate, whether or not it keeps up.

    Attributes:
        rate: Requests a second on average; the times between them are drawn.
        seconds: From the first request to the last token.
        first_tokens: Seconds from each answered request to its first text.
        gaps: Mean seconds between the tokens of each answered request, in the same order.
        between_tokens: The 50th, 95th and 99th percentile of the times between two arrivals of
            text, over all requests.
        tokens: Tokens of all answers.
        failed: Requests that were refused, or whose answers broke off.
        server_seconds: Processor time of the server.
        client_seconds: Processor time of the one client that sends all requests.
    """

    rate: float
    seconds: float
    first_tokens: tuple[float, ...]
    gaps: tuple[float, ...]
    between_tokens: tuple[float, float, float]
    tokens: int
    failed: int
    server_seconds: float
    client_seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """An engine on a workload. Sample i of all engines was taken in round i, one after another.

    Attributes:
        samples: Timed calls; none for ``serve``.
        served: One a rate, for ``serve`` alone. Rates beyond the one at which most requests
            missed the limits are left out.
    """

    engine: str
    workload: str
    status: Status
    reason: str = ""
    samples: tuple[Sample, ...] = ()
    peak_memory: int = 0
    served: tuple[Served, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """A run of the benchmark.

    Attributes:
        created: ISO 8601 time in UTC.
        complete: False if the run was interrupted; what was measured until then is there.
        versions: Of the packages that took part.
        seconds: The whole run.
        rates: One a round of each workload that generates, in the rounds' order.
    """

    created: str
    complete: bool
    seconds: float
    machine: Machine
    settings: Settings
    versions: dict[str, str]
    engines: tuple[EngineReport, ...]
    workloads: tuple[Workload, ...]
    results: tuple[Result, ...]
    rates: tuple[Rates, ...] = ()
    version: int = field(default=VERSION)


def write_report(path: Path, report: Report) -> None:
    """Write ``report.json``."""
    text = json.dumps(dataclasses.asdict(report), ensure_ascii=False, indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read_report(path: Path) -> Report:
    """Read ``report.json``.

    Raises:
        BenchmarkError: The file is missing, no report, or of another version.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchmarkError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BenchmarkError(f"{path}: is no report: {error}") from error
    version = found.get("version") if isinstance(found, dict) else None
    if version not in _READABLE:
        raise BenchmarkError(f"{path}: has report version {version}, expected {VERSION}")
    try:
        return _report(found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BenchmarkError(f"{path}: is no whole report: {error}") from error


def _report(found: dict[str, Any]) -> Report:
    machine = found["machine"]
    known = {item["id"] for item in (*found["engines"], *found["workloads"])}
    unknown = {i[key] for i in found["results"] for key in ("engine", "workload")} - known
    if unknown:
        raise ValueError(f"results of {', '.join(sorted(unknown))}, which the report does not have")
    return Report(
        **found
        | {
            "version": VERSION,
            "machine": Machine(**machine | {"flags": tuple(machine["flags"])}),
            "settings": Settings(**found["settings"]),
            "engines": tuple(_engine(item) for item in found["engines"]),
            "workloads": tuple(
                Workload(**item | {"rates": tuple(item.get("rates", ()))})
                for item in found["workloads"]
            ),
            "results": tuple(_result(item) for item in found["results"]),
            "rates": tuple(Rates(**item) for item in found.get("rates", ())),
        }
    )


def _engine(found: dict[str, Any]) -> EngineReport:
    check = found["check"]
    return EngineReport(
        **found | {"load": tuple(found["load"]), "check": Check(**check) if check else None}
    )


def _result(found: dict[str, Any]) -> Result:
    samples = (Sample(**sample | {"steps": tuple(sample["steps"])}) for sample in found["samples"])
    served = (_served(item) for item in found.get("served", ()))
    return Result(**found | {"samples": tuple(samples), "served": tuple(served)})


def _served(found: dict[str, Any]) -> Served:
    names = ("first_tokens", "gaps", "between_tokens")
    return Served(**found | {name: tuple(found[name]) for name in names})
