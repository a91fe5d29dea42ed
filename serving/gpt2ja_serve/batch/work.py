"""Rows through a model: outcomes in order of the rows, and the records that they become."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from gpt2ja_onnx.errors import Gpt2jaError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from gpt2ja_onnx.model import GPT2Ja
    from gpt2ja_onnx.results import GenerationResult, Score
    from gpt2ja_onnx.settings.config import GenerationConfig
    from gpt2ja_serve.batch.rows import JobKind, Row

    Prompt = str | list[int]
    Found = list[GenerationResult] | Score | Gpt2jaError

_TEXTS_AT_ONCE = 64


def outcomes(model: GPT2Ja, kind: JobKind, rows: Iterable[Row]) -> Generator[tuple[Row, Found]]:
    """What becomes of each row, in order; rows are taken as there is room for them."""
    if kind == "score":
        yield from _scored(model, iter(rows))
        return
    submitted: deque[Row] = deque()

    def items() -> Iterator[tuple[Prompt, GenerationConfig] | Gpt2jaError]:
        for row in rows:
            submitted.append(row)
            yield _submitted(row)

    for found in model.generate_many(items()):
        yield submitted.popleft(), found


def records(kind: JobKind, row: Row, found: Found, fingerprint: str) -> list[dict[str, Any]]:
    """The rows of the output that a row of the input becomes, without the carried columns.

    Fields that do not apply, as those of a row that failed, are None.
    """
    shared = {"id": row.id, "row": row.position}
    text = row.text if isinstance(row.text, str) else None
    if kind == "score":
        blank: dict[str, Any] = dict.fromkeys(
            ("tokens", "logprob", "perplexity", "token_ids", "token_logprobs", "best")
        )
        error = str(found) if isinstance(found, Gpt2jaError) else None
        content = {} if isinstance(found, list | Gpt2jaError) else found.to_dict()
        last = {"text": text, "fingerprint": fingerprint, "error": error}
        return [shared | {"text": text} | blank | content | last]
    if isinstance(found, Gpt2jaError):
        fields = (
            "sequence_index", "prompt", "text", "token_ids", "finish_reason", "prompt_tokens",
            "completion_tokens", "seed", "fingerprint", "logprobs", "error",
        )  # fmt: skip
        told = {"prompt": text, "seed": row.seed, "fingerprint": fingerprint, "error": str(found)}
        return [shared | dict.fromkeys(fields) | told]
    assert isinstance(found, list)
    return [
        shared
        | {
            "sequence_index": result.sequence_index,
            "prompt": text,
            "text": result.text,
            "token_ids": result.token_ids,
            "finish_reason": result.finish_reason,
            "prompt_tokens": result.prompt_tokens,
            "completion_tokens": result.completion_tokens,
            "seed": result.seed,
            "fingerprint": result.fingerprint,
            "logprobs": result.to_dict().get("logprobs"),
            "error": None,
        }
        for result in found
    ]


def tokens_of(found: Found) -> int:
    """Tokens that were generated, or scored."""
    if isinstance(found, Gpt2jaError):
        return 0
    if isinstance(found, list):
        return sum(result.completion_tokens for result in found)
    return found.tokens


def _submitted(row: Row) -> tuple[Prompt, GenerationConfig] | Gpt2jaError:
    if isinstance(row.config, Gpt2jaError):
        return row.config
    assert row.text is not None
    return row.text, row.config


def _scored(model: GPT2Ja, rows: Iterator[Row]) -> Generator[tuple[Row, Found]]:
    while batch := list(islice(rows, _TEXTS_AT_ONCE)):
        good = [row for row in batch if not isinstance(row.config, Gpt2jaError)]
        scores = iter(_scores(model, good))
        for row in batch:
            yield row, row.config if isinstance(row.config, Gpt2jaError) else next(scores)


def _scores(model: GPT2Ja, rows: list[Row]) -> list[Found]:
    """Scores of texts; where one of them is at fault, each is scored alone."""
    if not rows:
        return []
    assert not isinstance(rows[0].config, Gpt2jaError)
    best = rows[0].config.logprobs
    try:
        return list(model.score([row.text for row in rows if row.text is not None], best=best))
    except Gpt2jaError as error:
        if len(rows) == 1:
            return [error]
        return [found for row in rows for found in _scores(model, [row])]
