"""Prometheus metrics, under vLLM's names with another prefix."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gpt2ja_onnx import GPT2Ja

PREFIX = "gpt2ja_"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
_LABELS = ("model_name",)


class Histogram:
    """Counts of values by bounds; cheap enough for every token.

    Args:
        bounds: The upper ends, rising.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """All that is counted; written on the event loop alone.

    Args:
        name: The model's.
        model: The model, once it is loaded.
    """

    def __init__(self, name: str, model: Callable[[], GPT2Ja | None]) -> None:
        self._name = name
        self._model = model
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.finished: dict[str, int] = {}
        self.answers: dict[tuple[str, str, str], int] = {}
        self.time_to_first_token = Histogram(_SECONDS)
        self.inter_token_latency = Histogram(_SECONDS)
        self.time_per_output_token = Histogram(_SECONDS)
        self.e2e_latency = Histogram(_SECONDS)
        self.queue_time = Histogram(_SECONDS)
        self.prefill_time = Histogram(_SECONDS)
        self.decode_time = Histogram(_SECONDS)
        self.request_prompt_tokens = Histogram(_TOKENS)
        self.request_generation_tokens = Histogram(_TOKENS)
        self.params_n = Histogram(_COUNTS)
        self.params_max_tokens = Histogram(_TOKENS)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def count_finished(self, reason: str) -> None:
        """Count a sequence that has ended."""
        self.finished[reason] = self.finished.get(reason, 0) + 1

    def count_answer(self, method: str, path: str, status: int) -> None:
        """Count an answer."""
        key = (method, path, str(status))
        self.answers[key] = self.answers.get(key, 0) + 1

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client."""
        yield from self._engine()
        for name, text, value in (
            ("prompt_tokens", "Prompt tokens of requests that were taken.", self.prompt_tokens),
            ("generation_tokens", "Tokens that were generated.", self.generation_tokens),
        ):
            yield self._counter(name, text, value)
        finished = CounterMetricFamily(
            f"{PREFIX}request_success",
            "Sequences that were finished, by the reason.",
            labels=(*_LABELS, "finished_reason"),
        )
        for reason, count in sorted(self.finished.items()):
            finished.add_metric((self._name, reason), count)
        yield finished
        answers = CounterMetricFamily(
            "http_requests", "Answers, by status.", labels=("method", "handler", "status")
        )
        for labels, count in sorted(self.answers.items()):
            answers.add_metric(labels, count)
        yield answers
        for name, text, histogram in self._histograms():
            yield self._histogram(name, text, histogram.bounds, histogram.counts, histogram.total)

    def _histograms(self) -> Iterable[tuple[str, str, Histogram]]:
        return (
            ("time_to_first_token_seconds", "From a request to its first token.",
             self.time_to_first_token),
            ("inter_token_latency_seconds", "Between two tokens of a streamed sequence.",
             self.inter_token_latency),
            ("request_time_per_output_token_seconds", "Decoding time by tokens of a sequence.",
             self.time_per_output_token),
            ("e2e_request_latency_seconds", "From a request to its last token.",
             self.e2e_latency),
            ("request_queue_time_seconds", "From a request to its first row.", self.queue_time),
            ("request_prefill_time_seconds", "From the first row to the first token.",
             self.prefill_time),
            ("request_decode_time_seconds", "From the first token to the last one.",
             self.decode_time),
            ("request_prompt_tokens", "Tokens of a prompt.", self.request_prompt_tokens),
            ("request_generation_tokens", "Generated tokens of a sequence.",
             self.request_generation_tokens),
            ("request_params_n", "Sequences that a request asks for.", self.params_n),
            ("request_params_max_tokens", "Tokens that a request asks for.",
             self.params_max_tokens),
        )  # fmt: skip

    def _engine(self) -> Iterator[Metric]:
        model = self._model()
        if model is None:
            return
        now = model.statistics()
        for name, text, value in (
            ("num_requests_running", "Sequences that have a row.", now.running),
            ("num_requests_waiting", "Sequences that wait for a row.", now.waiting),
            ("kv_cache_usage_perc", "Cached tokens; 1 is a full cache.", now.cache_usage),
            ("kv_cache_bytes", "Bytes of the key-value cache.", now.cache_bytes),
        ):
            gauge = GaugeMetricFamily(PREFIX + name, text, labels=_LABELS)
            gauge.add_metric((self._name,), value)
            yield gauge
        yield self._counter(
            "prefix_cache_queries", "Prompt tokens that got rows.", now.prompt_tokens
        )
        yield self._counter(
            "prefix_cache_hits", "Those that were not computed again.", now.shared_tokens
        )
        yield self._histogram(
            "iteration_tokens_total",
            "Tokens of a step of the engine.",
            [2**power for power in range(len(now.steps_by_size) - 1)],
            now.steps_by_size,
            now.step_tokens,
        )

    def _counter(self, name: str, text: str, value: float) -> Metric:
        counter = CounterMetricFamily(PREFIX + name, text, labels=_LABELS)
        counter.add_metric((self._name,), value)
        return counter

    def _histogram(
        self, name: str, text: str, bounds: Sequence[float], counts: Sequence[int], total: float
    ) -> Metric:
        family = HistogramMetricFamily(PREFIX + name, text, labels=_LABELS)
        buckets, sum_so_far = [], 0
        for bound, count in zip([*map(str, map(float, bounds)), "+Inf"], counts, strict=True):
            sum_so_far += count
            buckets.append((bound, sum_so_far))
        family.add_metric((self._name,), buckets, total)
        return family
