"""What runs in a worker of a cluster; needs no Ray itself."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2ja_onnx.errors import BatchError
from gpt2ja_onnx.model import GPT2Ja
from gpt2ja_serve.batch.work import outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gpt2ja_onnx.device.choice import DeviceChoice
    from gpt2ja_onnx.device.cpu.native import KernelChoice
    from gpt2ja_serve.batch.rows import JobKind, Row
    from gpt2ja_serve.batch.work import Found

PACKAGE = "gpt2ja-onnx"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How each worker loads the model.

    Attributes:
        model: The bundle; None for the demo model.
        threads: See `GPT2Ja.load`, as for the others.
    """

    model: Path | None
    threads: int
    batch_size: int
    max_memory: int | None
    device: DeviceChoice
    kernels: KernelChoice
    verify_hashes: bool

    @property
    def chunk_rows(self) -> int:
        """Rows that one of several engines is given at once: four batches."""
        return 4 * self.batch_size

    def load(self) -> GPT2Ja:
        """Load the model; see `GPT2Ja.load`."""
        return GPT2Ja.load(
            self.model,
            threads=self.threads,
            batch_size=self.batch_size,
            max_memory=self.max_memory,
            device=self.device,
            kernels=self.kernels,
            verify_hashes=self.verify_hashes,
        )


class Actor:
    """One engine, which is asked from elsewhere."""

    def __init__(self) -> None:
        self._model: GPT2Ja | None = None

    def load(
        self, settings: EngineSettings, package: str, bundle: dict[str, bytes] | None
    ) -> tuple[str, int]:
        """Load the model.

        Args:
            settings: How.
            package: The version of this package that the job runs with.
            bundle: The bundle's files; None where it can be read at its path.

        Returns:
            Its fingerprint, and the number of this process.

        Raises:
            BatchError: This is another version of the package.
            Gpt2jaError: The bundle cannot be loaded here.
        """
        if (found := version(PACKAGE)) != package:
            raise BatchError(f"a worker has {PACKAGE} {found}, the job {package}; install the same")
        if bundle is None:
            self._model = settings.load()
        else:
            # A worker may be killed at any moment, so nothing that is loaded is left behind.
            with tempfile.TemporaryDirectory(prefix="gpt2ja-bundle.") as directory:
                for name, content in bundle.items():
                    (Path(directory) / name).write_bytes(content)
                own = replace(settings, model=Path(directory), verify_hashes=True)
                self._model = own.load()
        return self._model.fingerprint, os.getpid()

    def run(self, kind: JobKind, rows: Sequence[Row]) -> list[Found]:
        """What becomes of each row, in order."""
        assert self._model is not None
        return [found for _, found in outcomes(self._model, kind, rows)]


def read_bundle(directory: Path) -> dict[str, bytes]:
    """The files of a bundle, to be shipped.

    Raises:
        BatchError: They cannot be read.
    """
    try:
        return {item.name: item.read_bytes() for item in directory.iterdir() if item.is_file()}
    except OSError as error:
        raise BatchError(f"{directory}: cannot be read: {error.strerror}") from error
