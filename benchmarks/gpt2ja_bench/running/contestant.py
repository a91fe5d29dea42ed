"""One engine on its way through a run: converted, held against PyTorch, loaded, and timed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gpt2ja_bench.report import EngineReport, Sample, Served, Workload
from gpt2ja_bench.running import checks
from gpt2ja_bench.running.process import EngineProcess
from gpt2ja_bench.running.serving.measure import serve
from gpt2ja_bench.running.workloads import job, warm_up
from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_bench.running.engines.base import Identity, Output
    from gpt2ja_bench.running.engines.spec import EngineSpec
    from gpt2ja_bench.running.stage import Stage


class Contestant:
    """An engine and its process.

    Args:
        spec: The engine.
        stage: What it shares with the others.
        home: Empty directory for its files.

    Attributes:
        report: What is known of it so far.
    """

    def __init__(self, spec: EngineSpec, stage: Stage, home: Path) -> None:
        self.spec = spec
        self.report = EngineReport(spec.id, spec.title, spec.packages[0], spec.precision, "ok")
        self._stage = stage
        self._home = home
        self._model = spec.bundle or home / "model"
        self._process: EngineProcess | None = None

    def prepare(self, reference: checks.Answer | None) -> checks.Answer | None:
        """Convert the model, hold it against PyTorch, and load it.

        A failure is kept in `report`; the run goes on without this engine.

        Args:
            reference: PyTorch's answer; None if this engine gives it.

        Returns:
            This engine's answer.
        """
        missing = self.spec.missing()
        if missing is not None:
            reason = f"{missing} is not installed: pip install 'gpt2ja-onnx[{self.spec.extra}]'"
            self.report = replace(self.report, status="skipped", reason=reason)
            return None
        answer = None
        try:
            if self.spec.bundle is None:
                answer = self._check(reference)
                with self._start() as process:
                    self._convert(process, self._stage.checkpoint, self._model)
            self._describe()
            self._load()
        except BenchmarkError as error:
            self.report = replace(self.report, status="failed", reason=str(error))
        return answer

    def turn(self, workload: Workload, round_: int) -> tuple[Sample, int]:
        """The call of one round, round 0 being a short one that warms up.

        Returns:
            What it took, and the peak of memory.

        Raises:
            BenchmarkError: The engine failed; it gets a new process for what comes next.
            NotImplementedError: The engine does not offer the call.
        """
        if workload.kind == "cold_start":
            return self._cold_start()
        try:
            self._call("reset_peak_memory")
            full = job(workload, self._stage.shape.vocab_size, round_)
            if workload.kind == "score":
                texts = full.prompts[:2] if round_ == 0 else full.prompts
                started = time.perf_counter()
                self._call("logprobs", texts)
                seconds = time.perf_counter() - started
                sample = Sample(seconds, None, (), sum(map(len, texts)))
            else:
                output = self._call("run", warm_up(full) if round_ == 0 else full)
                sample = _sample(output, workload)
            memory: int = self._call("peak_memory")
        except BenchmarkError:
            self.close()
            self._load()
            raise
        assert self._process is not None
        self._process.freeze()
        return sample, memory

    def serve(self, workload: Workload, rate: float) -> tuple[Served, int]:
        """The engine's HTTP server at a rate of requests, and the peak of its memory.

        Raises:
            BenchmarkError: The server cannot run here, or did not answer in time.
        """
        return serve(self.spec, workload, rate, self._stage, self._model, self._home / "log")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _start(self) -> EngineProcess:
        return EngineProcess(self.spec, self._stage.device, self._home / "log")

    def _call(self, method: str, *arguments: object) -> Any:
        if self._process is None:
            raise BenchmarkError("its process could not be started again")
        return self._process.call(method, *arguments, timeout=self._stage.time_limit)

    def _convert(self, process: EngineProcess, checkpoint: Path, directory: Path) -> None:
        directory.mkdir()
        process.call("prepare", checkpoint, directory, timeout=self._stage.time_limit)

    def _check(self, reference: checks.Answer | None) -> checks.Answer:
        """Convert and ask the trained checkpoint, in a process that ends afterwards."""
        stage = self._stage
        directory = self._home / "check"
        with self._start() as process:
            self._convert(process, stage.check_checkpoint, directory)
            process.call("load", directory, stage.threads, timeout=stage.time_limit)
            answer = checks.ask(process, stage.check_checkpoint, stage.time_limit)
        check = checks.compare(answer, reference or answer, exact=self.spec.weight_bits == 32)
        self.report = replace(self.report, check=check)
        return answer

    def _describe(self) -> None:
        shape = self._stage.shape
        self.report = replace(
            self.report,
            library=self.spec.library(),
            model_bytes=sum(file.stat().st_size for file in self._model.rglob("*")),
            weight_bytes=int(shape.step_weights * self.spec.weight_bits / 8),
            step_operations=2 * shape.step_weights,
        )

    def _load(self) -> None:
        process = self._start()
        try:
            process.call("peak_memory", timeout=self._stage.time_limit)  # it has started
            started = time.perf_counter()
            arguments = (self._model, self._stage.threads)
            process.call("load", *arguments, timeout=self._stage.time_limit)
            seconds = time.perf_counter() - started
            identity: Identity = process.call("identity", timeout=self._stage.time_limit)
        except BaseException:
            process.close()
            raise
        self.report = replace(
            self.report,
            load=(seconds,),
            kernels=identity.kernels,
            fingerprint=identity.fingerprint,
        )
        self._process = process
        process.freeze()

    def _cold_start(self) -> tuple[Sample, int]:
        command = [
            sys.executable, "-m", "gpt2ja_bench.running.first_token", self.spec.kind,
            self.spec.precision, self._stage.device, str(self._model), str(self._stage.threads),
        ]  # fmt: skip
        started = time.perf_counter()
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=new_process_environment(),
        ) as process:
            assert process.stdout is not None
            lines = (line.split() for line in process.stdout)
            memory = next((int(line[2]) for line in lines if line[:2] == ["first", "token"]), None)
            seconds = time.perf_counter() - started
            process.kill()
        if memory is None:
            raise BenchmarkError("a new process ended without a token")
        return Sample(seconds, seconds, (), 1), memory


def new_process_environment() -> dict[str, str]:
    """Of a process whose start is timed: it finds bytecode, as where packages are installed.

    The round that warms up writes what an editable installation has not compiled yet.
    """
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _sample(output: Output, workload: Workload) -> Sample:
    queued = workload.kind == "queue"
    steps = tuple(round(later - earlier, 7) for earlier, later in pairwise(output.marks))
    return Sample(
        seconds=output.seconds,
        first_token=output.marks[0] if output.marks and not queued else None,
        steps=() if queued else steps,
        tokens=sum(map(len, output.token_ids)),
        native_calls=output.native_calls,
    )
