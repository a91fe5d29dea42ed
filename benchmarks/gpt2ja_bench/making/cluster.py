"""``make cluster-simulation``: what a Ray cluster costs, with workers that only sleep.

Sleeping takes no processor, so one machine holds many logical workers. What is left beside the
sleep is the driver's and Ray's work: reading rows, sending them, sorting and writing results.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from gpt2ja_onnx.results import GenerationResult, RequestCost
from gpt2ja_onnx.settings.config import GenerationConfig
from gpt2ja_serve.batch import ray_cluster
from gpt2ja_serve.batch.actor import Actor, EngineSettings
from gpt2ja_serve.batch.rows import Columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gpt2ja_serve.batch.rows import JobKind, Row
    from gpt2ja_serve.batch.work import Found

_WORKERS = (1, 8, 32)
_TOKENS = 32  # of a row
_RATE = 3000  # tokens a second of a worker, ten times a core's: the driver is what is tried
_ROWS = 2048  # a worker
_BATCH = 32
_COST = RequestCost(queue_time=0, prefill_time=0, decode_time=0, shared_tokens=0)


class Sleeper(Actor):
    """Takes as long as an engine would."""

    def load(
        self, settings: EngineSettings, package: str, bundle: dict[str, bytes] | None
    ) -> tuple[str, int]:
        """See `Actor`."""
        del settings, package, bundle
        return "asleep", os.getpid()

    def run(self, kind: JobKind, rows: Sequence[Row]) -> list[Found]:
        """See `Actor`; two calls at once share a worker."""
        del kind
        time.sleep(2 * len(rows) * _TOKENS / _RATE)
        ids = list(range(_TOKENS))
        return [
            [GenerationResult("", 0, 0, "あ" * 48, ids, "length", 16, _TOKENS, 0, "asleep", _COST)]
            for _ in rows
        ]


def _rows(count: int) -> Iterator[Row]:
    columns, config = Columns("generate", {}), GenerationConfig(do_sample=True)
    for position in range(count):
        raw = {"prompt": "吾輩は猫である。" * 4, "id": position}
        yield columns.row(raw, position, config, 1)


def main() -> None:
    """Print the rows a second of ever more workers, and their share of what sleeping allows."""
    ray_cluster.Actor = Sleeper  # type: ignore[attr-defined]  # put in place of its import
    ray.init(num_cpus=max(_WORKERS), include_dashboard=False, log_to_driver=False)
    settings = EngineSettings(Path(), 1, _BATCH, None, "cpu", "auto", verify_hashes=False)
    print("| workers | rows/s | of the possible, % | driver's processor, ms a row |")
    print("| ---: | ---: | ---: | ---: |")
    for workers in _WORKERS:
        cluster = ray_cluster.RayCluster(settings, workers=workers)
        time.sleep(5 + workers)  # until all have started
        count, began, used = workers * _ROWS, time.monotonic(), time.process_time()
        assert sum(1 for _ in cluster.outcomes("generate", _rows(count))) == count
        seconds, used = time.monotonic() - began, time.process_time() - used
        possible = count * _TOKENS / _RATE / workers
        share, each = 100 * possible / seconds, 1000 * used / count
        print(f"| {workers} | {count / seconds:,.0f} | {share:.0f} | {each:.3f} |", flush=True)
        cluster.close()


if __name__ == "__main__":
    main()
