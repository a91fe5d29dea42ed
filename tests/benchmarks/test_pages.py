"""report.md and report.html say what the samples say, and stand alone."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from gpt2ja_bench.report import Rates
from gpt2ja_bench.reporting.html import render_html
from gpt2ja_bench.reporting.markdown import render_markdown
from gpt2ja_bench.reporting.pages import write_pages
from gpt2ja_bench.reporting.plots.labels import spread
from gpt2ja_bench.reporting.shortfalls import shortfalls
from gpt2ja_onnx.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_bench.report import Report

PLOTS = (
    "speed-by-batch",
    "roofline",
    "step-by-positions",
    "step-by-rows",
    "serve-goodput",
    "serve-first-token",
    "quality-interactive",
    "quality-batch-64",
    "steps-interactive",
    "steps-batch-64",
)


def rows(markdown: str, heading: str) -> dict[str, list[str]]:
    """The rows of the table under a heading, by their first cell."""
    section = markdown.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
    assert all(len(row) == lines[0].count("|") - 1 for row in cells)
    return {row[0].strip("*"): row[1:] for row in cells}


@pytest.fixture(scope="module")
def html(exact: Report) -> str:
    return render_html(exact)


class Tags(HTMLParser):
    """Every tag with its attributes, and every id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_figures_of_a_batch(exact: Report) -> None:
    table = rows(render_markdown(exact), "### Batch of 8, 16 + 96 tokens")
    # First token 14 ms a row; steps of 9.1 ms; 768 tokens in 8 * 14 + 95 * 9.1 ms; 92 / 9.1; the
    # floor of 112 MB at 33 GB/s.
    expected = ["786", "98.3", "112", "9.10", "9.10", "9.10", "10.1", "37 %", "216"]
    assert table["gpt2ja-onnx int8"] == expected
    assert table["transformers + PyTorch"][6] == "1.00"
    assert table["Optimum ORTModel"][3:6] == ["—", "—", "—"]
    assert table["Optimum ORTModel"][6].endswith("†")
    assert next(iter(table)) == "gpt2ja-onnx int8"
    assert list(table)[-1] == "transformers + PyTorch"


def test_figures_of_the_other_kinds(exact: Report) -> None:
    markdown = render_markdown(exact)
    # 200 * 96 tokens, 32 at a time, in steps of 22.5 ms; PyTorch's are of 203 ms.
    assert rows(markdown, "### Queue of 200 requests")["gpt2ja-onnx int8"] == [
        *("1,422", "13.5", "9.02", "216")
    ]
    assert rows(markdown, "### Cold start")["CTranslate2 int8"] == ["0.190", "50.5", "148"]


def test_integer_steps_beside_the_machines_limits(exact: Report) -> None:
    markdown = render_markdown(exact)
    limits = rows(markdown, "## Integer steps and the machine's limits")
    # 112 MB in 4.0 ms at 33 GB/s; 32 rows of 218 million operations in 22.5 ms at 900 GOP/s.
    assert limits["gpt2ja-onnx int8"] == ["85 %", "34 %"]
    assert "gpt2ja-onnx fp32" not in limits
    rate = "900 GOP/s, by this project's avx512_vnni kernels from cache"
    assert f"| Integer rate, measured | {rate} |" in markdown
    reason = "this installation has no native operators"
    machine = dataclasses.replace(exact.machine, integer_rate=0.0, kernels=reason)
    without = render_markdown(dataclasses.replace(exact, machine=machine))
    limits = rows(without, "## Integer steps and the machine's limits")
    assert limits["gpt2ja-onnx int8"] == ["85 %", "—"]
    assert f"| Integer rate, measured | none: {reason} |" in without


def test_integer_steps_are_held_against_the_same_rounds_rates(exact: Report) -> None:
    bandwidths = [33e9, 66e9, 66e9, 66e9, 28e9]
    rates = tuple(Rates("interactive", bandwidth, 0) for bandwidth in bandwidths)
    markdown = render_markdown(dataclasses.replace(exact, rates=rates))
    limits = rows(markdown, "## Integer steps and the machine's limits")
    assert limits["gpt2ja-onnx int8"] == ["42 %", "34 %"]
    assert "28.0 to 66.0 GB/s, 900 GOP/s. Medians." in markdown


def test_the_kernels_that_ran_are_named(exact: Report) -> None:
    kernels = rows(render_markdown(exact), "## This project's kernels")
    # 63 calls a step, in 5 rounds.
    tokens = sum(w.new_tokens for w in exact.workloads if w.kind == "generate")
    calls = f"{63 * tokens * 5:,}"
    fingerprint = "0123456789ab-ort1.32.0-avx512_vnni"
    assert kernels["gpt2ja-onnx int8"] == ["avx512_vnni", fingerprint, calls]
    assert kernels["gpt2ja-onnx fp32"][0] == "standard"
    assert kernels["gpt2ja-onnx fp32"][2] == "0"
    assert "CTranslate2 int8" not in kernels


def test_servers_by_rate(exact: Report) -> None:
    markdown = render_markdown(exact)
    section = markdown.split("### Serving\n", 1)[1].split("\n#", 1)[0]
    lines = [line.split("|")[1:13] for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip(" *") for cell in line] for line in lines]
    found = {(line[0], line[1]): line[2:] for line in cells}
    # 640 requests in 20 s, 600 of them in time; 0.8 and 0.1 ms of the processors a token.
    late = found["gpt2ja-onnx int8", "32"]
    assert late[:7] == ["30.0", "50.0", "2,000", "2,000", "20.0", "30.0", "50.0"]
    assert late[7:] == ["1,536", "0", "0.800"]
    assert found["llama.cpp q8_0", "8"][0] == "5.00"
    assert found["gpt2ja-onnx int4", "skipped: uvicorn is not installed"]
    assert "the first token within 1 s and 100 ms between tokens" in markdown
    assert "seed 7" in markdown


def test_workloads_of_the_fastest_say_so(exact: Report) -> None:
    markdown = render_markdown(exact)
    table = rows(markdown, "### 32 long texts")
    assert set(table) == {
        *("gpt2ja-onnx int8", "gpt2ja-onnx int4", "gpt2ja-onnx fp32", "gpt2ja-onnx fp16"),
        *("CTranslate2 int8", "llama.cpp q8_0"),
    }
    assert "only the fastest engines ran this" in markdown


def test_intervals_stand_beside_their_medians(noisy: Report) -> None:
    step = rows(render_markdown(noisy), "### Batch of 8, 16 + 96 tokens")["gpt2ja-onnx int8"][3]
    found = re.fullmatch(r"([\d.]+) \[([\d.]+)–([\d.]+)\]", step)
    assert found
    median, low, high = map(float, found.groups())
    assert low < median < high


def test_a_wrong_engine_stands_out(exact: Report, html: str) -> None:
    markdown = render_markdown(exact)
    assert "> **Wrong output: onnxruntime-genai int4" in markdown
    name = "onnxruntime-genai int4 — WRONG OUTPUT"
    assert "NO — WRONG OUTPUT" in rows(markdown, "## Engines")[name]
    assert "+412 %" in rows(markdown, "## Engines")[name]
    assert name in rows(markdown, "### Batch of 8, 16 + 96 tokens")
    assert not any("genai" in line for line in shortfalls(exact))
    assert 'class="wrong"' in html


def test_engines_and_workloads_without_figures_give_their_reason(exact: Report, html: str) -> None:
    markdown = render_markdown(exact)
    absent = rows(markdown, "## Engines that were not measured")
    assert absent["PyTorch, compiled"][1:] == ["skipped", "no C++ compiler"]
    assert absent["OpenVINO GenAI"][2] == r"ended by signal 9 \| &lt;out of memory> at 3"
    batch = rows(markdown, "### Batch of 64, 16 + 96 tokens")
    assert batch["llama.cpp f32"][0] == "failed: took longer than 300 s"
    assert "<out of memory>" not in html


def test_a_partial_report_says_so(partial: Report, exact: Report) -> None:
    markdown = render_markdown(partial)
    assert "This report is partial: the run was interrupted after 1 min 35 s" in markdown
    assert "### Batch of 8" in markdown
    assert "### Batch of 32" not in markdown
    assert "partial" not in render_markdown(exact)


def test_shortfalls_are_said(exact: Report) -> None:
    said = shortfalls(exact)
    interactive = next(line for line in said if line.startswith("Interactive"))
    assert "llama.cpp q4_0 is faster than gpt2ja-onnx int4" in interactive
    assert "decoding step 1.10× (2.90 ms against 3.20 ms)" in interactive
    assert any("CTranslate2 int8 needs 148 MiB" in line for line in said)
    assert any(line.startswith("Size on disk: llama.cpp q4_0 needs 64.0 MB") for line in said)
    assert not any(line.startswith("Batch of 32") for line in said)


def test_a_difference_within_the_noise_is_no_shortfall(exact: Report) -> None:
    results = []
    for result in exact.results:
        if result.engine == "llamacpp-q4_0" and result.workload == "interactive":
            # Faster than ours in two rounds, slower in three.
            factors = (0.9, 1.3, 1.2, 0.9, 1.3)
            samples = tuple(
                dataclasses.replace(
                    sample, seconds=sample.seconds * f, steps=tuple(s * f for s in sample.steps)
                )
                for sample, f in zip(result.samples, factors, strict=True)
            )
            result = dataclasses.replace(result, samples=samples)
        results.append(result)
    said = shortfalls(dataclasses.replace(exact, results=tuple(results)))
    assert not any(line.startswith("Interactive") for line in said)


def test_a_report_without_this_project(exact: Report) -> None:
    others = tuple(e for e in exact.engines if not e.id.startswith("ours"))
    results = tuple(r for r in exact.results if not r.engine.startswith("ours"))
    report = dataclasses.replace(exact, engines=others, results=results)
    assert "This project was not measured here." in render_markdown(report)
    assert shortfalls(report) == []


def test_a_report_without_any_result(exact: Report) -> None:
    report = dataclasses.replace(exact, results=(), complete=False)
    assert "partial" in render_markdown(report)
    assert "<svg" not in render_html(report)


def test_the_page_stands_alone(html: str) -> None:
    page = Tags(html).tags
    assert not {"script", "img", "iframe", "object", "audio", "video"} & {tag for tag, _ in page}
    for tag, attributes in page:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                assert value is not None
                assert value.startswith(("#", "data:")), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
    style = re.findall(r"url\(([^)]*)\)|@import", html)
    assert all(found.startswith("#") for found in style), style


def test_every_plot_is_there_and_has_words(html: str) -> None:
    tags = Tags(html).tags
    assert [a["id"] for tag, a in tags if tag == "figure"] == list(PLOTS)
    plots = [a for tag, a in tags if tag == "svg"]
    assert len(plots) == len(PLOTS)
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    for plot in plots:
        assert plot["role"] == "img"
        assert set(str(plot["aria-labelledby"]).split()) <= set(ids)
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        assert len(re.findall(r"<desc[^>]*>[^<]{40,}", svg)) == 1
        # Nothing is drawn in a colour that would not follow the reader's scheme.
        assert not re.findall(r"#[0-9a-f]{6}\b", re.sub(r'"#[^"]*"|url\([^)]*\)', "", svg))


def test_labels_are_spread_as_little_as_needed() -> None:
    assert spread([10, 50, 12], gap=10, low=0, high=100) == [6, 50, 16]
    assert spread([98, 99, 97], gap=10, low=0, high=100) == [90, 100, 80]
    assert spread([5.0], gap=10, low=0, high=100) == [5]


def test_pages_cannot_be_written(tmp_path: Path, exact: Report) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_pages(tmp_path / "file", exact)
