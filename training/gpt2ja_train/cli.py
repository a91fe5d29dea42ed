"""``gpt2ja-onnx train``: the commands of the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

DIRECTORY = click.Path(path_type=Path)
_SHOWN = (
    "train_loss", "valid_loss", "valid_bits_per_character", "valid_running_bits_per_character",
    "test_loss", "test_perplexity", "test_bits_per_character", "test_running_bits_per_character",
)  # fmt: skip
_LAST = ""  # no path: --resume without a checkpoint


@click.group("train")
def command() -> None:
    """Train a Japanese GPT-2 from text: corpus, then tokenizer, then model."""


@command.command("corpus")
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--output", type=DIRECTORY, required=True, help="Directory to write.")
@click.option("--valid", multiple=True, help="Held-out file for validation; INPUT is not split.")
@click.option("--test", multiple=True, help="Held-out file for the test; INPUT is not split.")
@click.option(
    "--split", type=click.Choice(["auto", "documents", "lines"]), default="auto", show_default=True
)
@click.option("--valid-lines", default=500_000, show_default=True, help="First lines of the text.")
@click.option("--test-lines", default=500_000, show_default=True, help="The lines after those.")
@click.option("--held-out", default=0.02, show_default=True, help="Share of documents, each part.")
@click.option("--force", is_flag=True, help="Replace OUTPUT, if it is a corpus.")
def corpus(
    inputs: tuple[str, ...],
    output: Path,
    valid: tuple[str, ...],
    test: tuple[str, ...],
    force: bool,
    **settings: Any,
) -> None:
    """Write train, valid and test files with one sentence a line.

    INPUT is a text file, WikiExtractor's output (file or directory, its JSON too), or a Hugging
    Face dataset with a column 'text', as id or id:config.
    """
    from gpt2ja_train.corpus import CorpusSettings, make_corpus

    counts = make_corpus(
        inputs, output, CorpusSettings(**settings), valid=valid, test=test, force=force
    )
    click.echo(" ".join(f"{part}: {count} lines" for part, count in counts.items()))


@command.command("tokenizer")
@click.option("--corpus", type=DIRECTORY, required=True, help="Output of `train corpus`.")
@click.option("--output", type=DIRECTORY, required=True, help="Directory to write.")
@click.option("--vocab-size", default=32_000, show_default=True)
@click.option("--sentences", default=10_000_000, show_default=True, help="Sentences sampled.")
@click.option(
    "--add-dummy-prefix/--no-add-dummy-prefix",
    default=True,
    show_default=True,
    help="A space before every text. With it a model writes a space after every sentence, without "
    "it none. The model card says yes, its training code no.",
)
@click.option("--threads", default=2, show_default=True)
@click.option("--force", is_flag=True, help="Replace OUTPUT, if it is a tokenizer.")
def tokenizer(corpus: Path, output: Path, force: bool, **settings: Any) -> None:
    """Train a sentencepiece unigram tokenizer that transformers opens."""
    from gpt2ja_train.tokenizer import TokenizerSettings, train_tokenizer

    train_tokenizer(corpus, output, TokenizerSettings(**settings), force=force)
    click.echo(f"wrote {output}")


@command.command("model")
@click.option("--corpus", type=DIRECTORY, required=True, help="Output of `train corpus`.")
@click.option("--tokenizer", type=DIRECTORY, required=True, help="Output of `train tokenizer`.")
@click.option("--output", type=DIRECTORY, required=True, help="Directory to write.")
@click.option(
    "--init-from",
    metavar="CHECKPOINT",
    help="Go on from these weights, in their shape; a directory or a hub id.",
)
@click.option("--layers", default=12, show_default=True)
@click.option("--width", default=768, show_default=True)
@click.option("--heads", default=12, show_default=True)
@click.option("--context", default=1024, show_default=True, help="Positions.")
@click.option(
    "--block-tokens",
    default=0,
    help="Tokens a training block; fewer train faster, but positions beyond stay untrained until "
    "a resumed run uses longer blocks.  [default: the context]",
)
@click.option("--dropout", default=0.1, show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--max-steps", default=0, show_default=True, help="Stop there; 0: by --epochs.")
@click.option("--batch-size", default=2, show_default=True, help="Blocks a step and device.")
@click.option(
    "--optimizer",
    type=click.Choice(["adam", "muon"]),
    default="adam",
    show_default=True,
    help="muon reaches a loss in fewer steps than the card's adam.",
)
@click.option("--learning-rate", default=1e-4, show_default=True)
@click.option("--warmup-steps", default=0, show_default=True)
@click.option(
    "--lr-scheduler-type",
    type=click.Choice(["linear", "warmup_stable_decay"]),
    default="linear",
    show_default=True,
    help="The learning rate falls from its peak to the last step, or in the last --decay-steps.",
)
@click.option("--decay-steps", default=0, help="Of warmup_stable_decay.  [default: constant]")
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="Of products in training; auto takes the faster one.",
)
@click.option("--eval-steps", default=0, show_default=True, help="0: once an epoch.")
@click.option("--checkpoint-steps", default=1000, show_default=True)
@click.option("--patience", default=1, show_default=True, help="Evaluations without a gain.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--save-dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
)
@click.option(
    "--resume",
    is_flag=False,
    flag_value=_LAST,
    metavar="[CHECKPOINT]",
    help="Continue from the last checkpoint in OUTPUT, or from this one of another run.",
)
@click.option(
    "--keep-checkpoints",
    is_flag=True,
    help="Leave checkpoints/ and cache/ in OUTPUT at the end, to --resume a finished run.",
)
def model(
    corpus: Path,
    tokenizer: Path,
    output: Path,
    resume: str | None,
    keep_checkpoints: bool,
    **settings: Any,
) -> None:
    """Train a GPT-2; several GPUs with `accelerate launch -m gpt2ja_onnx.cli train model …`."""
    from gpt2ja_train.model import train_model
    from gpt2ja_train.training_settings import TrainingSettings

    report = train_model(
        corpus,
        tokenizer,
        output,
        TrainingSettings(**settings),
        resume=resume == _LAST or (resume is not None and Path(resume)),
        keep_checkpoints=keep_checkpoints,
    )
    for name in _SHOWN:
        click.echo(f"{name:<34}{report[name]:.4f}")
