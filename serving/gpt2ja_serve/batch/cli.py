"""``gpt2ja-onnx batch``."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2ja_onnx.cli.loading import tell_of_model
from gpt2ja_onnx.cli.options import (
    GroupedCommand,
    bundle_options,
    check_contradictions,
    given_settings,
    setting_options,
)
from gpt2ja_onnx.device.threads import available_threads
from gpt2ja_onnx.errors import MissingExtraError
from gpt2ja_onnx.files import check_apart
from gpt2ja_onnx.settings.config import GenerationConfig

if TYPE_CHECKING:
    from gpt2ja_onnx.device.choice import DeviceChoice
    from gpt2ja_onnx.device.cpu.native import KernelChoice
    from gpt2ja_serve.batch.actor import EngineSettings
    from gpt2ja_serve.batch.directory import Counts, JobDirectory
    from gpt2ja_serve.batch.execution import Executor
    from gpt2ja_serve.batch.job import Job, OutputFormat
    from gpt2ja_serve.batch.plan import Plan
    from gpt2ja_serve.batch.rows import Columns, JobKind
    from gpt2ja_serve.batch.sources import Source

_SHARD_HELP = "Do the I-th of N shares, all with one output: for Slurm and the like."


class _Shard(click.ParamType[tuple[int, int]]):
    name = "I/N"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        """See click."""
        one, slash, all_ = str(value).partition("/")
        if not (slash and one.isdecimal() and all_.isdecimal() and 1 <= int(one) <= int(all_)):
            self.fail(f"{value!r} is no share such as 1/4 or 4/4", param, ctx)
        return int(one), int(all_)


@click.command("batch", cls=GroupedCommand)
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--output", required=True, metavar="DIRECTORY|URL", help="Where results go.")
@click.option(
    "--job",
    "kind",
    type=click.Choice(["generate", "score"]),
    default="generate",
    show_default=True,
    help="Continue prompts, or take log-probability and perplexity of texts.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**64 - 1),
    help="Of the job; a row's seed is made from it and the row's id, or its position.  "
    "[default: drawn]",
)
@click.option(
    "--resume", is_flag=True, help="Go on with the job in the output: do what is missing."
)
@click.option("--shard", type=_Shard(), default="1/1", show_default=True, help=_SHARD_HELP)
@click.option(
    "--max-errors", type=click.IntRange(0), help="End when more rows failed.  [default: never]"
)
@click.option(
    "--column",
    "mapped",
    multiple=True,
    metavar="NAME=COLUMN",
    help="Take the prompt, the id or a setting from this column.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "parquet"]),
    help="Of the output.  [default: parquet if all inputs are, else jsonl]",
)
@click.option(
    "--part-rows",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="Rows of one file of the output: as many as a crash can cost.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Engines that share the rows, each with --threads threads.  [default: 1; with Ray, as "
    "many as it has processors for]",
)
@click.option("--ray", is_flag=True, help="Run the workers on a Ray cluster on this machine.")
@click.option("--ray-address", metavar="ADDRESS", help="Run them on this Ray cluster.")
@bundle_options
@click.option(
    "--batch-size", default=32, show_default=True, help="Texts that an engine runs at once."
)
@click.option("--max-memory", type=int, metavar="MIB", help="Of the key-value cache.")
@click.option("--verify-hashes", is_flag=True, help="Check the bundle's files first.")
@partial(setting_options, without=("seed",))
def command(
    inputs: tuple[str, ...],
    output: str,
    kind: JobKind,
    seed: int | None,
    resume: bool,
    shard: tuple[int, int],
    max_errors: int | None,
    mapped: tuple[str, ...],
    format_: OutputFormat | None,
    part_rows: int,
    workers: int | None,
    ray: bool,
    ray_address: str | None,
    model: Path | None,
    threads: int | None,
    device: DeviceChoice,
    kernels: KernelChoice,
    quiet: bool,
    batch_size: int,
    max_memory: int | None,
    verify_hashes: bool,
    **settings: Any,
) -> int:
    """Run all rows of files through a model: JSON lines, Parquet or text, also .gz.

    INPUTs are files, directories and patterns. A row has a 'prompt' ('text' to score), and may have
    an 'id' and any setting; other columns are carried through. The output is cut into parts that
    are written whole; an interrupted job goes on with --resume.
    """
    from gpt2ja_serve.batch.actor import EngineSettings
    from gpt2ja_serve.batch.directory import JobDirectory
    from gpt2ja_serve.batch.job import Job
    from gpt2ja_serve.batch.plan import make_plan
    from gpt2ja_serve.batch.rows import Columns
    from gpt2ja_serve.batch.sources import find_sources

    config = _config(kind, given_settings(settings))
    columns = Columns(kind, _mapped(mapped))
    sources = find_sources(inputs)
    check_apart(Path(output), [*inputs, *(source.path for source in sources)])
    format_ = format_ or _usual_format(sources)
    with JobDirectory(output, *shard) as directory:
        plan = make_plan(sources, columns)
        if not quiet:
            _tell(plan, columns)
        on_ray = ray or ray_address is not None
        tell_of_model(model, device, quiet=quiet)
        engine = EngineSettings(
            model=model,
            threads=threads or _usual_threads(workers, on_ray=on_ray),
            batch_size=batch_size,
            max_memory=None if max_memory is None else max_memory * 2**20,
            device=device,
            kernels=kernels,
            verify_hashes=verify_hashes,
        )
        with contextlib.closing(
            _on_ray(engine, workers, ray_address) if on_ray else _in_process(engine, workers or 1)
        ) as executor:
            job_seed = directory.begin(
                {
                    "job": kind,
                    "seed": seed,
                    "fingerprint": executor.fingerprint,
                    "settings": config.to_dict(),
                    "columns": columns.columns,
                    "format": format_,
                    "part_rows": part_rows,
                    "shards": shard[1],
                    "inputs": plan.inputs,
                },
                resume=resume,
                may_join=shard[1] > 1,
            )
            job = Job(kind, config, columns, job_seed, format_, max_errors)
            return _run(executor, job, plan, part_rows, directory, shard, quiet=quiet)


def _run(
    executor: Executor,
    job: Job,
    plan: Plan,
    part_rows: int,
    directory: JobDirectory,
    shard: tuple[int, int],
    *,
    quiet: bool,
) -> int:
    """Do what is missing of a share, and say what came of it; returns the exit code."""
    from gpt2ja_serve.batch.directory import Counts
    from gpt2ja_serve.batch.job import Runner, part_name
    from gpt2ja_serve.batch.progress import progress

    everything = plan.parts(part_rows)
    names = [part_name(part, len(everything), job.format) for part in everything]
    kept, missing = Counts(), []
    for part in everything[shard[0] - 1 :: shard[1]]:
        name = names[part.number]
        counts = directory.done(name)
        if counts is not None:
            kept = kept.plus(counts)
            continue
        missing.append(part)
        if directory.recorded(name):
            click.echo(f"{name}: is not as it was written; it is made again", err=True)
    began = time.monotonic()
    with progress(sum(len(part.rows) for part in missing), quiet=quiet) as advance:
        runner = Runner(executor, job, plan, directory, names, advance)
        done, unread = runner.run(missing, kept.errors)
    if not quiet:
        _summarise(done, kept, job.seed, time.monotonic() - began, executor)
    for problem in unread:
        click.echo(f"error: {problem}; its rows are missing, --resume does them", err=True)
    return 1 if unread or done.errors or kept.errors else 0


def _usual_threads(workers: int | None, *, on_ray: bool) -> int:
    """Threads of an engine: on Ray one, for its throughput; here what this process may use."""
    return 1 if on_ray else max(available_threads() // (workers or 1), 1)


def _in_process(settings: EngineSettings, workers: int) -> Executor:
    from gpt2ja_serve.batch.execution import Models, OneModel

    models = [settings.load() for _ in range(workers)]
    cores = workers * settings.threads
    if workers == 1:
        return OneModel(models[0], cores)
    return Models(models, cores, settings.chunk_rows)


def _on_ray(settings: EngineSettings, workers: int | None, address: str | None) -> Executor:
    try:
        from gpt2ja_serve.batch.ray_cluster import RayCluster
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"--ray needs {error.name}, which is not installed: pip install "
            "-c constraints.txt 'gpt2ja-onnx[batch,ray]'"
        ) from error
    return RayCluster(settings, workers=workers, address=address)


def _config(kind: JobKind, given: dict[str, Any]) -> GenerationConfig:
    """The settings of all rows; wrong ones are told at once."""
    if kind == "score":
        idle = sorted(name for name in given if name != "logprobs")
        if idle:
            raise click.UsageError(f"--{idle[0].replace('_', '-')} does nothing with --job score")
        return GenerationConfig(**given)
    check_contradictions(given)
    return GenerationConfig(**{"do_sample": True} | given)


def _mapped(pairs: tuple[str, ...]) -> dict[str, str]:
    names = {}
    for pair in pairs:
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            raise click.UsageError(f"--column: {pair!r} is not like prompt=question")
        names[name] = column
    return names


def _usual_format(sources: list[Source]) -> OutputFormat:
    return "parquet" if all(source.format == "parquet" for source in sources) else "jsonl"


def _tell(plan: Plan, columns: Columns) -> None:
    """What may not be meant so."""
    for name, like in columns.misspelt(plan.columns).items():
        click.echo(f"note: column {name!r} is carried through; is {like!r} meant?", err=True)
    if plan.duplicates:
        click.echo(
            f"note: {plan.duplicates:,} rows have the id of an earlier row, and so its seed",
            err=True,
        )


def _summarise(done: Counts, kept: Counts, seed: int, seconds: float, executor: Executor) -> None:
    speed = done.tokens / max(seconds, 1e-9)
    again = f", {executor.retries} chunks computed again" if executor.retries else ""
    earlier = f" ({kept.rows:,} more were done before)" if kept.rows else ""
    click.echo(
        f"{done.rows:,} rows{earlier}, {done.errors + kept.errors:,} failed, {done.tokens:,} "
        f"tokens in {seconds:.1f} s: {speed:,.0f} tokens/s, {speed / executor.cores:,.0f} a "
        f"core{again}; seed {seed}",
        err=True,
    )
