"""A batch of columns in, a batch of columns out: what Ray Data's ``map_batches`` calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.errors import BatchError, PromptError
from gpt2ja_onnx.model import GPT2Ja
from gpt2ja_onnx.settings.config import GenerationConfig
from gpt2ja_serve.batch.rows import Columns
from gpt2ja_serve.batch.work import outcomes, records
from gpt2ja_serve.batch.writing import free_name, named_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gpt2ja_serve.batch.rows import JobKind, Row


class BatchWorker:
    """Runs batches of rows through a model of its own; needs no Ray itself.

    A row's text depends on the job's seed and the row's id, never on its batch or its worker, so
    rows need an ``id`` or a ``seed`` to be continued. A row that fails has its ``error``.

    Args:
        model: The bundle; None for the demo model.
        seed: The job's seed.
        job: ``generate`` or ``score``.
        settings: Settings of rows that have no others.
        columns: Names of columns that are not called ``prompt``, ``id`` and so on, by these.
        fingerprint: What `GPT2Ja.fingerprint` must be, so that no worker writes other text.
        threads: Threads of the engine; None takes what this process may use.
        batch_size: Texts that run at once; give ``map_batches`` batches of several times that.

    Raises:
        BatchError: The fingerprint is another one.
        SettingError: A setting is out of its range, or there is none of its name.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        seed: int,
        job: JobKind = "generate",
        settings: Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
        fingerprint: str | None = None,
        threads: int | None = None,
        batch_size: int = 32,
    ) -> None:
        self._job = job
        self._seed = seed
        self._columns = Columns(job, columns or {})
        self._config = GenerationConfig(do_sample=True).override(settings or {})
        self._model = GPT2Ja.load(model, threads=threads, batch_size=batch_size)
        found = self._model.fingerprint
        if fingerprint not in (None, found):
            self._model.close()
            raise BatchError(
                f"this worker's fingerprint is {found}, not {fingerprint}; give all workers the "
                "same bundle, onnxruntime and processors"
            )

    def __call__(self, batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
        """Run a batch.

        Args:
            batch: Columns, each with as many values as there are rows.

        Returns:
            The columns of a batch job's output without ``row``, one value for each sequence, and
            the carried columns with the types that they had.
        """
        index: list[int] = []
        found: list[dict[str, Any]] = []
        for row, outcome in outcomes(self._model, self._job, self._rows(batch)):
            for record in records(self._job, row, outcome, self._model.fingerprint):
                del record["row"]
                index.append(row.position)
                found.append({name: named_pairs(value) for name, value in record.items()})
        names = found[0] if found else {}
        output: dict[str, Any] = {name: [record[name] for record in found] for name in names}
        for name, values in batch.items():
            if name not in self._columns.known:
                output[free_name(name, names)] = values[index]
        return output

    def _rows(self, batch: dict[str, np.ndarray[Any, Any]]) -> Iterator[Row]:
        known = {name: batch[name] for name in batch if name in self._columns.known}
        for position in range(len(next(iter(batch.values()), ()))):
            raw = {name: _plain(values[position]) for name, values in known.items()}
            row = self._columns.row(raw, position, self._config, self._seed)
            if self._job == "generate" and row.id is None and not self._has_seed(raw):
                # Its position among all rows is not known here.
                row = row._replace(config=PromptError("has neither an id nor a seed"))
            yield row

    def _has_seed(self, raw: dict[str, Any]) -> bool:
        return raw.get(self._columns.columns["seed"]) is not None


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
