"""``make readme-figures``: the READMEs' speed table and picture, from the committed report."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpt2ja_bench.report import BASELINE, read_report
from gpt2ja_bench.reporting import statistics
from gpt2ja_bench.reporting.document import Row, Table
from gpt2ja_bench.reporting.markdown import table_lines
from gpt2ja_bench.reporting.plots.speed import speed_by_batch
from gpt2ja_bench.reporting.plots.style import drawing, standalone
from gpt2ja_bench.reporting.units import NONE, milliseconds, signed_percent, significant
from gpt2ja_onnx.errors import BenchmarkError

if TYPE_CHECKING:
    from gpt2ja_bench.report import EngineReport, Report, Workload

REPORT = "benchmarks/results/report.json"
PICTURE = "docs/speed.svg"
BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"


@dataclass(frozen=True, slots=True)
class _Words:
    """What stands in a README around the figures.

    Attributes:
        lead: With the processor, the threads, the date and PyTorch's name.
        rows: Title of a column, with the number of rows.
    """

    engine: str
    rows: str
    perplexity: str
    wrong: str
    lead: str
    picture: str
    note: str


_WORDS = {
    "README.md": _Words(
        engine="engine",
        rows="batch {}",
        perplexity="perplexity change",
        wrong="wrong output",
        lead="Milliseconds of a decoding step of the whole batch, sampling included, and how many "
        "times as fast as PyTorch that is; {machine}, {threads} threads, {date}:",
        picture="Tokens per second by batch size, for every engine",
        note="[benchmarks/results/report.md](benchmarks/results/report.md) has the other "
        "workloads, first tokens, memory, intervals, and where this project is not the fastest.",
    ),
    "README.ja.md": _Words(
        engine="エンジン",
        rows="バッチ {}",
        perplexity="パープレキシティの変化",
        wrong="出力が不正",
        lead="バッチ全体の 1 ステップあたりの所要時間（ミリ秒、サンプリングを含む）です。"
        "かっこ内は PyTorch 比の速度です"
        "（{machine}、{threads} スレッド、{date} 計測）。",
        picture="エンジンごとの、バッチサイズと毎秒トークン数の関係",
        note="ほかのワークロード、最初のトークンまでの時間、メモリ、信頼区間と、本プロジェクトが最速でない"
        "項目は [benchmarks/results/report.md](benchmarks/results/report.md) に載せています。",
    ),
}


def speed_section(report: Report, readme: str) -> str:
    """What stands between the markers of a README, by its file name.

    Raises:
        BenchmarkError: The report has no batches to show.
    """
    words = _WORDS[readme]
    ladder = statistics.batch_ladder(report)
    if not ladder:
        raise BenchmarkError("the report has no batches to show in a README")
    rows = []
    for engine in report.engines:
        if engine.status == "ok":
            wrong = f" ({words.wrong})" if statistics.is_wrong(engine) else ""
            change = statistics.perplexity_change(engine.check) if engine.check else None
            speeds = [_cell(report, engine, workload) for workload in ladder]
            cells = (f"{engine.title}{wrong}", *speeds, signed_percent(change))
            rows.append(Row(cells, "ours" if statistics.is_ours(engine) else ""))
    titles = [words.rows.format(workload.rows) for workload in ladder]
    table = Table((words.engine, *titles, words.perplexity), tuple(rows))
    lead = words.lead.format(
        machine=report.machine.name, threads=report.settings.threads, date=report.created[:10]
    )
    lines = [lead, *table_lines(table), "", f"![{words.picture}]({PICTURE})", "", words.note]
    return "\n".join(lines)


def replace_section(text: str, section: str, name: str) -> str:
    """A README with the text between its markers replaced.

    Raises:
        BenchmarkError: The README does not have both markers, in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchmarkError(f"{name}: expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{section}\n{END}{after}"


def write_readmes(root: Path) -> None:
    """Write the tables of both READMEs and the picture.

    Args:
        root: Of the source tree, which holds the report.
    """
    report = read_report(root / REPORT)
    texts = {}
    for name in _WORDS:
        text = (root / name).read_text(encoding="utf-8")
        texts[name] = replace_section(text, speed_section(report, name), name)
    with drawing():
        picture = speed_by_batch(report)
    if picture is None:
        raise BenchmarkError("the report has no speeds to draw")
    texts[PICTURE] = standalone(picture.svg)
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")


def main() -> None:
    """Write the figures into the source tree that is the working directory."""
    try:
        write_readmes(Path.cwd())
    except BenchmarkError as error:
        sys.exit(f"error: {error}")


def _cell(report: Report, engine: EngineReport, workload: Workload) -> str:
    result = statistics.find_result(report, engine.id, workload.id)
    step = statistics.step_time(result) if result else None
    if result is None or step is None:
        return NONE
    shown = milliseconds(step.value)
    ratio = statistics.baseline_ratio(report, result)
    if ratio is None or engine.id == BASELINE:
        return shown
    return f"{shown} ({significant(ratio.value)}×)"


if __name__ == "__main__":
    main()
