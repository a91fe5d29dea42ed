"""Batch jobs on a Ray cluster of several nodes: what dies costs time, never a row or a bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray
from ray.cluster_utils import Cluster

from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.errors import BatchError, BundleError
from gpt2ja_serve.batch import ray_cluster
from gpt2ja_serve.batch.actor import Actor, EngineSettings, read_bundle
from gpt2ja_serve.batch.worker import BatchWorker
from tests.serving.running import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

ROWS = 400
PART = 100
TOKENS = 90  # of a row: something is to happen before the last one


class Command:
    """``gpt2ja-onnx batch`` in a process of its own."""

    def __init__(self, bundle: Path, source: Path, output: Path, *options: str) -> None:
        self.output = output
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gpt2ja_onnx.cli", "batch", source, "--output", output),
                *("--model", bundle, "--seed", "5", "--part-rows", str(PART)),
                *("--batch-size", "8", *options),
            ],
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )

    def end(self, seconds: float = 90) -> tuple[int, str]:
        _, said = self.process.communicate(timeout=seconds)
        return self.process.returncode, said

    @property
    def parts(self) -> list[Path]:
        return sorted(self.output.glob("part-*.jsonl"))

    @property
    def recorded(self) -> int:
        """How many parts are known to be done."""
        return len(list(self.output.glob("_parts/part-*.jsonl.json")))

    def contents(self) -> list[bytes]:
        return [part.read_bytes() for part in self.parts]


@pytest.fixture(scope="module")
def bundle(bundles: dict[str, Path]) -> Path:
    return bundles["int8"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("input") / "rows.jsonl"
    rows = ({"id": f"r{i}", "prompt": f"第{i}の寺", "max_new_tokens": TOKENS} for i in range(ROWS))
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def expected(bundle: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """What one process gives."""
    command = Command(bundle, source, tmp_path_factory.mktemp("alone") / "out")
    assert command.end()[0] == 0
    return command.contents()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    # A node needs more processors than its actors take, or its other tasks starve.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    yield cluster
    cluster.shutdown()


def on(cluster: Cluster, *options: str) -> list[str]:
    return ["--ray-address", cluster.address, "--workers", "2", *options]


def workers() -> list[int]:
    """The processes of workers that compute now."""
    found = subprocess.run(
        ["pgrep", "-f", "ray::Actor"], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def test_texts_are_those_of_one_process(
    cluster: Cluster, bundle: Path, source: Path, expected: list[bytes], tmp_path: Path
) -> None:
    command = Command(bundle, source, tmp_path / "out", *on(cluster))
    code, said = command.end()
    assert code == 0, said
    assert command.contents() == expected
    assert f"{ROWS} rows, 0 failed" in said
    assert "again" not in said


def test_a_worker_that_is_killed_is_replaced(
    cluster: Cluster, bundle: Path, source: Path, expected: list[bytes], tmp_path: Path
) -> None:
    command = Command(bundle, source, tmp_path / "out", *on(cluster))
    wait_for(lambda: command.parts, 60)
    os.kill(workers()[0], signal.SIGKILL)
    code, said = command.end()
    assert code == 0, said
    assert command.contents() == expected
    assert "note: a worker died (process" in said
    assert "computed again" in said


def test_a_node_goes_and_another_comes(
    cluster: Cluster, bundle: Path, source: Path, expected: list[bytes], tmp_path: Path
) -> None:
    command = Command(bundle, source, tmp_path / "out", *on(cluster))
    wait_for(lambda: command.parts, 60)
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    cluster.add_node(num_cpus=2)
    code, said = command.end()
    assert code == 0, said
    assert command.contents() == expected


def test_a_job_that_is_killed_goes_on(
    cluster: Cluster, bundle: Path, source: Path, expected: list[bytes], tmp_path: Path
) -> None:
    killed = Command(bundle, source, tmp_path / "out", *on(cluster))
    wait_for(lambda: killed.recorded, 60)
    killed.process.kill()
    killed.end()
    done = killed.recorded
    assert 0 < done < ROWS // PART
    killed.parts[0].write_text("altered", encoding="utf-8")
    command = Command(bundle, source, tmp_path / "out", *on(cluster, "--resume"))
    code, said = command.end()
    assert code == 0, said
    assert command.contents() == expected
    assert "it is made again" in said
    assert f"{ROWS - (done - 1) * PART} rows" in said


def test_what_a_cluster_cannot_do_is_one_line(bundle: Path, source: Path, tmp_path: Path) -> None:
    for address, error in (
        ("127.0.0.1:9", "error: there is no Ray cluster at 127.0.0.1:9: Connection refused\n"),
        ("nowhere", "error: --ray-address: 'nowhere' is not like 10.0.0.1:6379\n"),
    ):
        command = Command(bundle, source, tmp_path / "out", "--ray-address", address)
        assert command.end() == (1, error)
        assert not command.output.exists()


def test_other_versions_and_broken_bundles_are_refused(bundle: Path, tmp_path: Path) -> None:
    settings = EngineSettings(bundle, 1, 8, None, "cpu", "auto", verify_hashes=False)
    with pytest.raises(BatchError, match=r"has gpt2ja-onnx .*, the job 0\.0\.0; install the same"):
        Actor().load(settings, "0.0.0", None)
    shipped = read_bundle(bundle)
    shipped["model.onnx"] = shipped["model.onnx"][:-1] + b"!"
    with pytest.raises(BundleError, match=r"model\.onnx"):
        Actor().load(settings, version("gpt2ja-onnx"), shipped)
    moved = replace(settings, model=tmp_path / "not-here")
    fingerprint, _ = Actor().load(moved, version("gpt2ja-onnx"), read_bundle(bundle))
    assert fingerprint.startswith(read_manifest(bundle).digest)


def test_a_missing_bundle_is_named(cluster: Cluster, source: Path, tmp_path: Path) -> None:
    command = Command(tmp_path / "no-bundle", source, tmp_path / "out", *on(cluster))
    code, said = command.end()
    assert code == 1
    assert said == f"error: {tmp_path / 'no-bundle'}: cannot be read: No such file or directory\n"


def test_workers_that_die_while_they_load_end_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EngineSettings(None, 1, 8, None, "cpu", "auto", verify_hashes=False)
    engine = ray_cluster._Remote(ray_cluster._Start(settings))
    monkeypatch.setattr(engine, "_made", lambda: None)
    with pytest.raises(BatchError, match="4 workers died while they loaded the model"):
        engine.revive()


class DiesOnce(BatchWorker):
    """Ends its process in the middle of the first batch."""

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
        mark = Path(os.environ["DIED"])
        if not mark.exists():
            mark.touch()
            os._exit(7)
        return super().__call__(batch)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*", "ignore::FutureWarning:ray.*")
def test_in_a_pipeline_of_ray_data(
    cluster: Cluster, bundle: Path, source: Path, expected: list[bytes], tmp_path: Path
) -> None:
    ray.init(
        address=cluster.address,
        runtime_env={"env_vars": {"DIED": str(tmp_path / "died")}},
        log_to_driver=False,
    )
    try:
        rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
        found = (
            ray.data.from_items(rows)
            .map_batches(
                DiesOnce,
                fn_constructor_kwargs={"model": str(bundle), "seed": 5, "threads": 1},
                batch_size=50,
                num_cpus=1,
                compute=ray.data.ActorPoolStrategy(size=2),
            )
            .take_all()
        )
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()
    records = [json.loads(line) for part in expected for line in part.splitlines()]
    assert {row["id"]: row["text"] for row in found} == {
        record["id"]: record["text"] for record in records
    }
    assert len(found) == ROWS
