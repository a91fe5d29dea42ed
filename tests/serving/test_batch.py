"""Batch jobs: what they read and write, and that faults lose nothing and change nothing."""

from __future__ import annotations

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gpt2ja_onnx import GenerationConfig, GPT2Ja
from gpt2ja_onnx.cli import main
from gpt2ja_serve.batch.seeds import row_seed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Batch = Callable[..., tuple[int, str]]

ROWS = [{"prompt": f"第{i}の寺は、", "id": f"r{i}", "page": i} for i in range(30)]


@pytest.fixture
def batch(bundles: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Batch:
    """Run a job in this process; exit code, and what it said."""

    def run(*arguments: object, output: Path | str | None = None) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([
                "batch", *map(str, arguments), "--model", str(bundles["int8"]),
                "--output", str(output or tmp_path / "out"), "--max-new-tokens", "6",
            ])  # fmt: skip
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        assert said.out == ""
        return int(ended.value.code or 0), said.err

    return run


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(output: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for part in sorted(output.glob("part-*.jsonl"))
        for line in part.read_text(encoding="utf-8").splitlines()
    ]


def contents(output: Path) -> dict[str, bytes]:
    return {part.name: part.read_bytes() for part in output.glob("part-*")}


def one_error(said: str) -> str:
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    return errors[0]


def test_rows_are_what_generate_gives(
    batch: Batch, bundles: dict[str, Path], tmp_path: Path
) -> None:
    rows: list[dict[str, Any]] = [dict(row) for row in ROWS]
    rows[3] |= {"num_return_sequences": 2, "temperature": 0.7, "logprobs": 1}
    rows[4] |= {"seed": 99}
    del rows[5]["id"]
    code, _ = batch(write(tmp_path / "in.jsonl", rows), "--seed", 7, "--part-rows", 8)
    assert code == 0
    found = read(tmp_path / "out")
    assert [one["row"] for one in found] == sorted([*range(30), 3])
    assert [one["page"] for one in found] == [one["row"] for one in found]
    assert found[0]["seed"] == row_seed(7, id="r0", position=0)
    assert [one["seed"] for one in found if one["row"] == 4] == [99]
    assert [one["seed"] for one in found if one["row"] == 5] == [row_seed(7, id=None, position=5)]
    with GPT2Ja.load(bundles["int8"]) as model:
        for row in rows:
            mine = [one for one in found if one["page"] == row["page"]]
            config = GenerationConfig(do_sample=True, max_new_tokens=6, seed=mine[0]["seed"])
            config = config.override({name: row[name] for name in row.keys() & config.declared()})
            for result, one in zip(model.generate(row["prompt"], config), mine, strict=True):
                expected = json.loads(json.dumps(result.to_dict()))
                del expected["prompt_index"], expected["cost"]
                assert "cost" not in one  # parts are the same bytes in every run
                assert expected.items() <= one.items()
                assert one["error"] is None


def test_seeds_are_as_documented() -> None:
    assert row_seed(0, id=None, position=0) == 5472798756943947
    assert row_seed(0, id=7, position=1) == row_seed(0, id="7", position=2)
    assert len({row_seed(s, id=i, position=0) for s in (0, 1) for i in (None, "0", "1")}) == 6


def test_formats_give_the_same_rows(batch: Batch, tmp_path: Path) -> None:
    write(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress((tmp_path / "in.jsonl").read_bytes()))
    table = pa.Table.from_pylist(ROWS)
    table = table.append_column("when", pa.array(range(30), pa.timestamp("ns")))
    table = table.append_column("tags", pa.array([[[i], None][i % 2] for i in range(30)]))
    pq.write_table(table.rename_columns(["question", *table.column_names[1:]]),
                   tmp_path / "in.parquet", row_group_size=7)  # fmt: skip
    found = []
    for name in ("in.jsonl", "in.jsonl.gz"):
        assert batch(tmp_path / name, "--seed", 1, output=tmp_path / name[3:])[0] == 0
        found.append(read(tmp_path / name[3:]))
    mapped = (tmp_path / "in.parquet", "--seed", 1, "--column", "prompt=question")
    assert batch(*mapped, "--format", "jsonl", output=tmp_path / "a")[0] == 0
    assert batch(*mapped, "--part-rows", 8, output=tmp_path / "b")[0] == 0
    assert found[0] == found[1]
    assert [
        row.items() <= other.items()
        for row, other in zip(found[0], read(tmp_path / "a"), strict=True)
    ]
    parts = [pq.read_table(part) for part in sorted((tmp_path / "b").glob("*.parquet"))]
    whole = pa.concat_tables(parts)
    assert [part.num_rows for part in parts] == [8, 8, 8, 6]
    assert whole["when"].combine_chunks() == table["when"].combine_chunks()
    assert whole["tags"].to_pylist() == table["tags"].to_pylist()
    for row, other in zip(found[0], whole.to_pylist(), strict=True):
        assert row.items() <= other.items()


def test_text_lines_are_prompts_and_results_may_be_parquet(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(
        '寺は\n\n{"prompt": "町は", "seed": 5}\n', encoding="utf-8"
    )
    write(
        tmp_path / "texts" / "b.jsonl", [{"prompt": "川は", "x": 1}, {"prompt": "山は", "x": "y"}]
    )
    (tmp_path / "texts" / "_c.txt").write_text("not read\n", encoding="utf-8")
    assert batch(tmp_path / "texts", "--format", "parquet")[0] == 0
    found = pa.concat_tables(map(pq.read_table, sorted((tmp_path / "out").glob("*.parquet"))))
    assert found["prompt"].to_pylist() == ["寺は", "町は", "川は", "山は"]
    assert found["seed"][1].as_py() == 5
    assert found["x"].to_pylist() == [None, None, "1", '"y"']


def test_inputs_of_other_file_systems_and_in_zst(batch: Batch, tmp_path: Path) -> None:
    lines = [json.dumps(row).encode() + b"\n" for row in ROWS]
    local = write(tmp_path / "in.jsonl", ROWS)
    assert batch(local, "--seed", 1, output=tmp_path / "a")[0] == 0
    with (
        fsspec.open("memory://data/b/2.jsonl.zst", "wb") as raw,
        pa.CompressedOutputStream(pa.PythonFile(raw, "w"), "zstd") as packed,
    ):
        packed.write(b"".join(lines[20:]))
    with fsspec.open("memory://data/a.jsonl.gz", "wb") as raw:
        raw.write(gzip.compress(b"".join(lines[:10])))
    with fsspec.open("memory://data/b/1.parquet", "wb") as raw:
        pq.write_table(pa.Table.from_pylist(ROWS[10:20]), raw)
    with fsspec.open("memory://data/_left-out.jsonl", "wb") as raw:
        raw.write(b"{}")
    urls = {"b": "memory://data", "c": local.as_uri()}
    for name, url in urls.items():
        code, said = batch(url, "--seed", 1, "--format", "jsonl", output=tmp_path / name)
        assert code == 0, said
        assert read(tmp_path / name) == read(tmp_path / "a")
    for url, error in (
        ("memory://nothing", "error: memory://nothing: there is no such file"),
        (
            "memory://data/*.gz",
            "error: memory://data/*.gz: there is no such file; name the directory: a URL is no "
            "pattern",
        ),
        ("nowhere://x", "error: nowhere://x: cannot be opened: Protocol not known: nowhere"),
    ):
        assert one_error(batch(url, output=tmp_path / "none")[1]) == error


def test_files_are_taken_once_each(batch: Batch, tmp_path: Path) -> None:
    plain = tmp_path / "prompts"
    plain.write_text("京都の\n", encoding="utf-8")
    with fsspec.open(f"memory://{plain}", "wb") as file:
        file.write("東京の\n".encode())
    (tmp_path / "x").mkdir()
    above = tmp_path / "x" / ".." / "prompts"
    code, said = batch(plain, above, f"memory://{plain}", "--seed", 1)
    assert code == 0, said
    assert [row["prompt"] for row in read(tmp_path / "out")] == ["京都の", "東京の"]


def test_results_may_go_to_an_object_store(batch: Batch, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    options = (source, "--seed", 1, "--part-rows", 10)
    assert batch(*options, output=tmp_path / "a")[0] == 0
    expected = contents(tmp_path / "a")
    store = fsspec.filesystem("memory")

    def stored() -> dict[str, bytes]:
        return {path.rpartition("/")[2]: store.cat(path) for path in store.glob("/bucket/b/part-*")}

    url = "memory://bucket/b"
    assert batch(*options, output=url)[0] == 0
    assert stored() == expected
    assert "holds a job already" in one_error(batch(*options, output=url)[1])
    assert "seed is 2, was 1" in one_error(batch(source, "--seed", 2, "--resume", output=url)[1])
    # One part lost, one damaged: both are made again, and nothing else.
    store.rm("/bucket/b/part-00000-of-00003.jsonl")
    store.pipe("/bucket/b/part-00002-of-00003.jsonl", b"damaged")
    code, said = batch(*options, "--resume", output=url)
    assert code == 0
    assert "20 rows (10 more were done before)" in said
    assert stored() == expected
    store.pipe("/bucket/c/else", b"x")
    assert "holds 'else'" in one_error(batch(*options, output="memory://bucket/c")[1])
    assert "Protocol not known" in one_error(batch(*options, output="nowhere://x")[1])
    uri = (tmp_path / "d").as_uri()
    assert batch(*options, output=uri)[0] == 0
    assert contents(tmp_path / "d") == expected


def test_scores(batch: Batch, bundles: dict[str, Path], tmp_path: Path) -> None:
    rows = [{"text": row["prompt"], "temperature": 9} for row in ROWS] + [{"text": [999_999]}, {}]
    source = write(tmp_path / "in.jsonl", rows)
    with pytest.raises(SystemExit):  # the length of a text to generate says nothing here
        main(["batch", str(source), "--output", "o", "--job", "score", "--max-new-tokens", "3"])
    with pytest.raises(SystemExit) as ended:
        main(["batch", str(source), "--output", str(tmp_path / "out"), "--job", "score",
              "--model", str(bundles["int8"]), "--quiet"])  # fmt: skip
    assert ended.value.code == 1
    found = read(tmp_path / "out")
    with GPT2Ja.load(bundles["int8"]) as model:
        scores = model.score([row["prompt"] for row in ROWS])  # type: ignore[misc]
    for score, one in zip(scores, found, strict=False):
        assert score.to_dict().items() <= one.items()
        assert one["temperature"] == 9
    assert [one["error"] for one in found[30:]] == [
        "token ids must be whole numbers from 0 to 383",
        "has no 'text'",
    ]


def test_failing_rows_carry_their_errors(batch: Batch, tmp_path: Path) -> None:
    rows = [
        ROWS[0],
        {"prompt": ""},
        {"id": "none"},
        {"prompt": "寺は", "top_p": 7},
        {"prompt": "寺は", "id": [1]},
        {"prompt": {"a": 1}},
        [1],
    ]
    source = write(tmp_path / "in.jsonl", rows)
    source.write_bytes(source.read_bytes() + b"{\n\xff\n" + json.dumps(ROWS[1]).encode())
    assert batch(source)[0] == 1
    found = read(tmp_path / "out")
    assert [one["error"] is None for one in found] == [True, *[False] * 8, True]
    assert "has no 'prompt'" in found[2]["error"]
    assert found[2]["id"] == "none"
    assert "top_p" in found[3]["error"]
    code, said = batch(source, "--max-errors", 2, output=tmp_path / "strict")
    assert code == 1
    assert "--max-errors 2: 3 rows failed" in one_error(said)


def test_what_may_not_be_meant_is_told(batch: Batch, tmp_path: Path) -> None:
    rows = [{"prompt": "寺は", "id": i % 2, "temprature": 1, "text": "mine"} for i in range(5)]
    code, said = batch(write(tmp_path / "in.jsonl", rows))
    assert code == 0
    assert "3 rows have the id of an earlier row" in said
    assert "'temprature' is carried through; is 'temperature' meant?" in said
    assert all(one["input_text"] == "mine" != one["text"] for one in read(tmp_path / "out"))


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("in.parquet", b"PAR1 and no more", (), "cannot be read as Parquet"),
        (
            "in.jsonl.gz",
            gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-9],
            (),
            "cannot be read",
        ),
        ("in.txt", b"\n", (), "the inputs have no rows"),
        ("in.txt", b"a\n", ("--column", "temprature=t"), "has no 'temprature'"),
        ("in.csv", None, (), "there is no such file"),
    ],
)
def test_bad_inputs_are_refused_before_any_work(
    batch: Batch, tmp_path: Path, name: str, content: bytes | None, options: Any, words: str
) -> None:
    good = write(tmp_path / "good.jsonl", ROWS if content != b"\n" else [])
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, said = batch(good, tmp_path / name, *options)
    assert code == 1
    assert words in one_error(said)
    assert not (tmp_path / "out").exists()


def test_a_missing_column_is_named(batch: Batch, tmp_path: Path) -> None:
    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "in.parquet")
    code, said = batch(tmp_path / "in.parquet")
    assert code == 1
    assert "has no column 'prompt'; it has question" in one_error(said)


def test_foreign_directories_are_left_alone(batch: Batch, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    code, said = batch(source, output=tmp_path / "mine")
    assert (code, "holds 'thesis.txt'" in one_error(said)) == (1, True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    assert "holds the input" in one_error(batch(source, output=tmp_path)[1])


def test_another_job_is_refused(batch: Batch, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    assert batch(source, "--seed", 1)[0] == 0
    before = contents(tmp_path / "out")
    assert "with --resume" in one_error(batch(source, "--seed", 1)[1])
    for options, words in (
        (("--seed", 2), "seed is 2, was 1"),
        (("--temperature", 0.5), "temperature is 0.5, was not given"),
        (("--kernels", "off"), "fingerprint is"),
        (("--shard", "1/2"), "shards is 2, was 1"),
    ):
        code, said = batch(source, "--resume", *options)
        assert (code, words in one_error(said)) == (1, True), said
    write(source, ROWS[1:])
    assert f"the input {source} has changed" in one_error(batch(source, "--resume")[1])
    assert contents(tmp_path / "out") == before


def test_a_part_that_was_altered_is_made_again(batch: Batch, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    batch(source, "--part-rows", 10)
    before = contents(tmp_path / "out")
    parts = sorted((tmp_path / "out").glob("part-*"))
    parts[0].write_bytes(parts[0].read_bytes()[:-5])
    parts[1].unlink()
    code, said = batch(source, "--part-rows", 10, "--resume")
    assert code == 0
    assert said.count("it is made again") == 2
    assert "20 rows (10 more were done before)" in said
    assert contents(tmp_path / "out") == before


def test_shards_together_are_the_whole(batch: Batch, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    options = (source, "--part-rows", 4)
    for shard in ("2/3", "1/3", "3/3"):
        assert batch(*options, "--shard", shard, output=tmp_path / "shards")[0] == 0
    manifest = json.loads((tmp_path / "shards" / "_job.json").read_text())
    assert batch(*options, "--seed", manifest["seed"])[0] == 0
    assert contents(tmp_path / "shards") == contents(tmp_path / "out")
    assert len(read(tmp_path / "out")) == 30


def test_an_input_that_goes_costs_its_rows_only(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpt2ja_serve.batch import directory

    first, second = write(tmp_path / "a.jsonl", ROWS[:15]), write(tmp_path / "b.jsonl", ROWS[15:])
    begin = directory.JobDirectory.begin

    def begin_and_lose(*arguments: Any, **options: Any) -> int:
        write(first, ROWS[:9])
        return begin(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(directory.JobDirectory, "begin", begin_and_lose)
        code, said = batch(first, second, "--part-rows", 5, "--seed", 1)
    assert code == 1
    assert "has fewer rows than when the job began" in one_error(said)
    assert [one["row"] for one in read(tmp_path / "out")] == [*range(5), *range(15, 30)]
    write(first, ROWS[:15])
    assert batch(first, second, "--part-rows", 5, "--resume")[0] == 0
    assert batch(first, second, "--part-rows", 5, "--seed", 1, output=tmp_path / "o")[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "o")


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_killed_at_any_moment_and_resumed(
    batch: Batch, bundles: dict[str, Path], tmp_path: Path, format_: str
) -> None:
    rows = [{"prompt": f"第{i}の寺は、", "id": i, "max_new_tokens": 40} for i in range(400)]
    source = write(tmp_path / "in.jsonl", rows)
    options = [str(source), "--seed", "5", "--part-rows", "20", "--format", format_]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gpt2ja_onnx.cli", "batch", *options, "--model",
               str(bundles["int8"]), "--output", str(out), "--max-new-tokens", "6"]  # fmt: skip
    for kills in range(3):
        resume = ["--resume"] if (out / "_job.json").exists() else []
        done = len(list(out.glob("part-*")))
        process = subprocess.Popen([*command, *resume], stderr=subprocess.PIPE)
        while len(list(out.glob("part-*"))) < done + 2 * (kills + 1):
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.001)
        if kills == 0:
            os.kill(process.pid, signal.SIGSTOP)
            assert "another process works on this job" in one_error(batch(*options, "--resume")[1])
        process.kill()
        process.communicate()
    before = contents(out)
    assert len(before) < 20
    assert batch(*options, "--resume")[0] == 0
    assert batch(*options, output=tmp_path / "whole")[0] == 0
    assert before.items() <= contents(out).items()
    assert contents(out) == contents(tmp_path / "whole")
    assert len(contents(out)) == 20


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_a_full_disk_costs_the_part_in_work(batch: Batch, tmp_path: Path, format_: str) -> None:
    rows = [{"prompt": "寺は", "id": i, "logprobs": 60} for i in range(60)]
    source = write(tmp_path / "in.jsonl", rows)
    options = (source, "--seed", 1, "--part-rows", 20, "--format", format_)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        code, said = batch(*options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    assert "cannot be written" in one_error(said)
    assert contents(tmp_path / "out") == {}
    assert batch(*options, "--resume")[0] == 0
    assert batch(*options, output=tmp_path / "whole")[0] == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_help_and_json_lines_need_no_extra(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS[:2])
    program = """
import sys
for name in ("pyarrow", "msgspec", "starlette", "uvicorn", "prometheus_client", "ray"):
    sys.modules[name] = None
from gpt2ja_onnx.cli import main
main(sys.argv[1:])
"""
    for arguments in (["--help"], [source, "--output", tmp_path / "out", "--max-new-tokens", 2]):
        command = [sys.executable, "-c", program, "batch", *map(str, arguments)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    command += ["--format", "parquet", "--resume"]
    pq.write_table(pa.table({"prompt": ["a"]}), tmp_path / "a.parquet")
    command = [sys.executable, "-c", program, "batch", str(tmp_path / "a.parquet"), "--output", "o"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "pip install -c constraints.txt 'gpt2ja-onnx[batch]'" in one_error(done.stderr)
