"""What a row of an input means: its prompt, id and settings, and the columns carried through."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gpt2ja_onnx.errors import Gpt2jaError, PromptError, SettingError
from gpt2ja_onnx.settings.config import GenerationConfig
from gpt2ja_serve.batch.seeds import row_seed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

JobKind = Literal["generate", "score"]
RawRow = dict[str, Any] | Gpt2jaError

# What a row is continued from, or scored.
TEXT_COLUMN: dict[JobKind, str] = {"generate": "prompt", "score": "text"}
_ALIKE = 0.85


class Row(NamedTuple):
    """A row that can be submitted, or what is wrong with it.

    Attributes:
        position: Position among all rows of the job.
        id: Its id; None where it has none.
        text: The prompt, or the text to score; or token ids. None only beside an error.
        config: All settings that were given, the row's seed included; or the error.
        seed: The row's seed.
        carried: Columns that come back with the results.
    """

    position: int
    id: str | int | None
    text: str | list[int] | None
    config: GenerationConfig | Gpt2jaError
    seed: int
    carried: dict[str, Any]


class Columns:
    """Which column of an input has the text, the id and each setting.

    Args:
        kind: The job; one that scores takes no settings from rows.
        names: From ``prompt`` (``text`` for scoring), ``id`` and settings to the columns that
            have them, where these are named otherwise.

    Raises:
        SettingError: A name is none of these.
    """

    def __init__(self, kind: JobKind, names: Mapping[str, str]) -> None:
        self.kind = kind
        self.text = TEXT_COLUMN[kind]
        settings = GenerationConfig.declared() if kind == "generate" else {}
        known = (self.text, "id", *(name for name in settings if name != "logits_processors"))
        for name in names:
            if name not in known:
                raise SettingError(
                    f"--column: a {kind} job has no {name!r}; known are {', '.join(sorted(known))}"
                )
        self.columns = {name: names.get(name, name) for name in known}
        self.known = frozenset(self.columns.values())

    def misspelt(self, found: Iterable[str]) -> dict[str, str]:
        """Columns that are carried through although they look like known ones, with these."""
        close = {
            name: difflib.get_close_matches(name, sorted(self.known), 1, _ALIKE)
            for name in sorted(found)
            if name not in self.known
        }
        return {name: matches[0] for name, matches in close.items() if matches}

    def row(self, raw: RawRow, position: int, config: GenerationConfig, seed: int) -> Row:
        """Read a row.

        Args:
            raw: Its columns, or why it could not be read.
            position: Position among all rows of the job.
            config: Settings of the job.
            seed: The job's seed.
        """
        own = row_seed(seed, id=None, position=position)
        if isinstance(raw, Gpt2jaError):
            return Row(position, None, None, raw, own, {})
        carried = {name: value for name, value in raw.items() if name not in self.known}
        given = {
            name: raw[column]
            for name, column in self.columns.items()
            if column in raw and not _is_missing(raw[column])
        }
        id_ = given.pop("id", None)
        if id_ is not None and (isinstance(id_, bool) or not isinstance(id_, str | int)):
            error = PromptError(f"an id must be a string or a whole number, not {id_!r}")
            return Row(position, None, None, error, own, carried)
        own = row_seed(seed, id=id_, position=position)
        text = given.pop(self.text, None)
        if text is None:
            error = PromptError(f"has no {self.columns[self.text]!r}")
            return Row(position, id_, None, error, own, carried)
        if not isinstance(text, str | list):
            error = PromptError(
                f"{self.columns[self.text]!r} must be a string or token ids, not {text!r:.80}"
            )
            return Row(position, id_, None, error, own, carried)
        try:
            chosen = config.override({"seed": own} | given)
        except (SettingError, TypeError, ValueError) as error:
            wrong = error if isinstance(error, Gpt2jaError) else SettingError(str(error))
            return Row(position, id_, text, wrong, own, carried)
        return Row(position, id_, text, chosen, chosen.seed or 0, carried)


def _is_missing(value: object) -> bool:
    """Parquet files that pandas wrote may have NaN for null."""
    return value is None or (isinstance(value, float) and math.isnan(value))
