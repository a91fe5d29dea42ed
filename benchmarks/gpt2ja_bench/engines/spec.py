"""Where an engine is, and what it needs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_bench.engines.base import Engine


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """An engine in one precision.

    Attributes:
        id: As ``--engines`` names it.
        title: For people.
        kind: The `Engine`, as ``module:class``.
        precision: Handed to it.
        weight_bits: Bits of a layer's weight, scales included, for the floor.
        packages: Distributions that it needs; the first one is the engine.
        extra: That installs them.
        bundle: A finished bundle to run instead of an export of the checkpoint.
    """

    id: str
    title: str
    kind: str
    precision: str
    weight_bits: float
    packages: tuple[str, ...]
    extra: str
    bundle: Path | None = None

    def missing(self) -> str | None:
        """The first package that is not installed."""
        for package in self.packages:
            try:
                version(package)
            except PackageNotFoundError:
                return package
        return None

    def library(self) -> str:
        """Package and version."""
        return f"{self.packages[0]} {version(self.packages[0])}"


def make_engine(kind: str, precision: str, device: str) -> Engine:
    """The engine ``module:class``, in the process that is to run it."""
    module, name = kind.split(":")
    engine: Engine = getattr(importlib.import_module(module), name)(precision, device)
    return engine
