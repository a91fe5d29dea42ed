"""Made-up reports, as they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gpt2ja_bench.report import write_report
from tests.benchmarks.reports import make_report, partial_report

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_bench.report import Report


@pytest.fixture(scope="session")
def exact() -> Report:
    """A report whose samples are all alike, so that every figure follows by hand."""
    return make_report(noise=0)


@pytest.fixture(scope="session")
def noisy() -> Report:
    return make_report()


@pytest.fixture(scope="session")
def partial() -> Report:
    return partial_report()


@pytest.fixture
def report_file(tmp_path: Path, noisy: Report) -> Path:
    path = tmp_path / "report.json"
    write_report(path, noisy)
    return path
