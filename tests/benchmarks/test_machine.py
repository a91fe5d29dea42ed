"""What the machine can do is measured in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpt2ja_bench.running import machine
from gpt2ja_kernels import Kernels, load_kernels

if TYPE_CHECKING:
    import pytest


def test_the_rates_of_this_machine() -> None:
    kernels = load_kernels()
    assert isinstance(kernels, Kernels), kernels
    found = machine.measure(1)
    assert found.kernels == kernels.instruction_set
    assert 1e8 < found.bandwidth < 1e13
    assert 1e8 < found.matrix_rate < 1e14
    # Two operations a product; a thread of any processor with AVX2 makes a billion a second.
    assert 2e9 < found.integer_rate < 1e14


def test_a_machine_without_native_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt2ja_bench.running.machine.load_kernels", lambda: "no library")
    found = machine.measure(1)
    assert found.kernels == "no library"
