"""Where an engine is, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path


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
        by_default: Whether it runs where no engines are chosen.
        server: Whose HTTP server runs its model, by `gpt2ja_bench.running.serving.servers`; empty
            where there is none.
    """

    id: str
    title: str
    kind: str
    precision: str
    weight_bits: float
    packages: tuple[str, ...]
    extra: str
    bundle: Path | None = None
    by_default: bool = True
    server: Literal["", "gpt2ja", "llama.cpp"] = ""

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
