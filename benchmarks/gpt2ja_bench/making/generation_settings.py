"""``make generation-settings``: how text degenerates under settings, to choose a bundle's by.

Stretches of a held-out text are continued from their first tokens, and what a person wrote there
is measured beside the continuations. Low temperatures repeat themselves, high ones ramble: the
settings to take are those whose figures are nearest to the person's (Holtzman et al., 2020, "The
Curious Case of Neural Text Degeneration").
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from gpt2ja_bench.making.repetition import looping_word, repeated_ngrams
from gpt2ja_bench.reporting.document import Row, Table
from gpt2ja_bench.reporting.markdown import table_lines
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.errors import BenchmarkError, Gpt2jaError

if TYPE_CHECKING:
    from collections.abc import Sequence

_PROMPT_TOKENS = 16
_COLUMNS = ("temperature", "top_p", "repetition_penalty", "rep-4, %", "loops, %", "perplexity")


class Degeneration(NamedTuple):
    """Figures of texts.

    Attributes:
        repeated: Mean share of repeated 4-grams.
        loops: Share of the texts that fall into a word.
        perplexity: The model's, a token, before any setting is applied; low where it repeats what
            it is sure of, high where it draws what it holds unlikely.
    """

    repeated: float
    loops: float
    perplexity: float


def stretches(model: GPT2Ja, text: Path, count: int, length: int) -> list[list[int]]:
    """Token ids of evenly spaced stretches of running text, each begun at the start of a line.

    Args:
        model: Whose tokenizer to use.
        text: UTF-8 text with one sentence a line.
        count: Stretches.
        length: Tokens of each.

    Raises:
        BenchmarkError: The text is too short for a stretch.
    """
    lines = [line.strip() for line in text.read_text(encoding="utf-8").splitlines()]
    found = []
    for index in range(count):
        joined, ids = "", list[int]()
        for line in lines[index * len(lines) // count :]:
            joined += line
            ids = model.tokenizer.encode(joined)
            if len(ids) > length:
                break
        else:
            raise BenchmarkError(
                f"{text}: has fewer than {length} tokens behind line "
                f"{index * len(lines) // count}; give a longer text or lower --prompts"
            )
        found.append(ids[:length])
    return found


def measure_person(model: GPT2Ja, texts: Sequence[list[int]]) -> Degeneration:
    """The figures of texts as they were written, without their first 16 tokens."""
    scored = model.score([*texts])
    logprobs = [score.token_logprobs[_PROMPT_TOKENS:] for score in scored]
    flat = [logprob for row in logprobs for logprob in row if logprob is not None]
    return _figures(model, [ids[_PROMPT_TOKENS:] for ids in texts], flat)


def measure_settings(
    model: GPT2Ja, texts: Sequence[list[int]], temperature: float, top_p: float, penalty: float
) -> Degeneration:
    """The figures of continuations of the texts' first 16 tokens, each as long as its text.

    Args:
        model: Generates.
        texts: Token ids.
        temperature: The setting of this name.
        top_p: The setting of this name.
        penalty: The setting `repetition_penalty`.
    """
    length = len(texts[0]) - _PROMPT_TOKENS
    results = model.generate(
        [ids[:_PROMPT_TOKENS] for ids in texts],
        do_sample=True,
        temperature=temperature,
        top_p=top_p,
        repetition_penalty=penalty,
        max_new_tokens=length,
        min_new_tokens=length,
        logprobs=0,
        seed=0,
    )
    logprobs = [entry.logprob for result in results for entry in result.logprobs or ()]
    return _figures(model, [result.token_ids for result in results], logprobs)


def _figures(model: GPT2Ja, texts: Sequence[list[int]], logprobs: Sequence[float]) -> Degeneration:
    pieces = [[model.tokenizer.piece(token) for token in ids] for ids in texts]
    return Degeneration(
        repeated=sum(map(repeated_ngrams, texts)) / len(texts),
        loops=sum(looping_word(text) is not None for text in pieces) / len(texts),
        perplexity=math.exp(-sum(logprobs) / len(logprobs)),
    )


def _row(names: tuple[str, ...], figures: Degeneration) -> Row:
    repeated, loops, perplexity = figures
    return Row((*names, f"{100 * repeated:.1f}", f"{100 * loops:.1f}", f"{perplexity:.1f}"))


@click.command()
@click.argument("text", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--model", "path", type=click.Path(path_type=Path), help="A bundle.  [default: demo]")
@click.option("--temperature", type=float, multiple=True, default=(0.7, 0.8, 0.9, 1.0))
@click.option("--top-p", type=float, multiple=True, default=(0.9, 0.95))
@click.option("--repetition-penalty", type=float, multiple=True, default=(1.0, 1.1))
@click.option("--prompts", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--tokens", type=click.IntRange(min=4), default=128, show_default=True)
def main(
    text: Path,
    path: Path | None,
    temperature: tuple[float, ...],
    top_p: tuple[float, ...],
    repetition_penalty: tuple[float, ...],
    prompts: int,
    tokens: int,
) -> None:
    """Print a table of settings, and of what stands in TEXT, a held-out one."""
    try:
        with GPT2Ja.load(path) as model:
            texts = stretches(model, text, prompts, _PROMPT_TOKENS + tokens)
            rows = [_row(("a person", "", ""), measure_person(model, texts))]
            for chosen in product(temperature, top_p, repetition_penalty):
                names = tuple(str(value) for value in chosen)
                rows.append(_row(names, measure_settings(model, texts, *chosen)))
    except Gpt2jaError as error:
        raise click.ClickException(str(error)) from error
    click.echo("\n".join(table_lines(Table(_COLUMNS, tuple(rows)))))


if __name__ == "__main__":
    main()
