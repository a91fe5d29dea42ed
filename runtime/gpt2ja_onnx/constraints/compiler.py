"""From a setting to a compiled grammar over the vocabulary's tokens; the last ones are kept."""

from __future__ import annotations

import json
import math
import re
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gpt2ja_onnx.constraints.bounded import run_bounded
from gpt2ja_onnx.constraints.constraint import Constraint, Tokens
from gpt2ja_onnx.constraints.spelling import (
    Spelling,
    literals_of_grammar,
    literals_of_regex,
    multiples_of_schema,
    names_of_schema,
    normalized_schema,
)
from gpt2ja_onnx.errors import SettingError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from numpy.typing import NDArray

    from gpt2ja_onnx.constraints.spelling import Vocabulary
    from gpt2ja_onnx.settings.config import GenerationConfig

_KEPT = 64  # grammars; small ones take some 10 kB
# Without it text that only one way can follow is forced to one way of cutting it into tokens.
_HEAD = '%llguidance {"no_forcing": true}\n'
# Tokens that llguidance looks at together, where a form allows them all.
_JAPANESE = ("[一-龠]{1,8}", "[ぁ-んァ-ヶー]{1,12}")
# A multiple is found by an automaton of as many states.
_LARGEST_MULTIPLE = 100_000
# A base model that may write white space between any two tokens of JSON writes little else.
_COMPACT = {"x-guidance": {"whitespace_flexible": False}}


class Grammar(NamedTuple):
    """A compiled form.

    Attributes:
        matcher: At the start of a text; copied, never advanced.
        bits: The tokens that a text may begin with, like `Tokens.spelled`.
        may_end: Whether the empty text has the form.
        tokens: Of the vocabulary.
    """

    matcher: LLMatcher
    bits: NDArray[np.uint8]
    may_end: bool
    tokens: Tokens

    def start(self, eos: tuple[int, ...]) -> Constraint:
        """What a new text may become.

        Args:
            eos: The end tokens of its request.
        """
        return Constraint(self.tokens, self.matcher.deep_copy(), eos, self.bits, self.may_end)


class Compiler:
    """Compiles the forms that configs ask for; may be called from any thread.

    Args:
        vocabulary: What texts are spelled with.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._tools: _Tools | None = None
        self._kept: OrderedDict[tuple[str, Any], Grammar] = OrderedDict()

    def compile(self, config: GenerationConfig) -> Grammar | None:
        """The grammar of a config; None where it asks for no form.

        Raises:
            SettingError: The form is malformed or too large, no text of the vocabulary's has it,
                or llguidance is not installed.
        """
        form = config.form
        if form is None:
            return None
        with self._lock:
            if form in self._kept:
                self._kept.move_to_end(form)
                return self._kept[form]
            if self._tools is None:
                self._tools = _Tools(self._vocabulary, form[0])
            tools = self._tools
        grammar = _compiled(tools, *form)  # others are not kept waiting
        with self._lock:
            self._kept[form] = grammar
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return grammar


def _compiled(tools: _Tools, setting: str, value: Any) -> Grammar:
    try:
        return run_bounded(lambda: tools.compile(setting, value))
    except TimeoutError:
        raise SettingError(f"{setting} takes too long to compile; simplify it") from None
    except RecursionError:
        raise SettingError(f"{setting} is nested too deeply") from None
    except RuntimeError as error:
        raise SettingError(f"{setting} cannot be compiled: {_reason(str(error))}") from error


class _Tools:
    """What compiling needs of a vocabulary, made at the first use."""

    def __init__(self, vocabulary: Vocabulary, setting: str) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise SettingError(
                f"{setting} needs the package llguidance; install the extra constrain: "
                "pip install 'gpt2ja-onnx[constrain]'"
            ) from error
        self._vocabulary = vocabulary
        self._spelling = Spelling(vocabulary)
        self._guidance = llguidance
        self._limits = llguidance.LLParserLimits(verbose_errors=False)
        self._tokens = tokens = Tokens(vocabulary)
        self._tokenizer: LLTokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(tokens),
            slices=[*_JAPANESE, *llguidance.LLTokenizer.general_slices()],
        )

    def compile(self, setting: str, value: Any) -> Grammar:
        """See `Compiler.compile`."""
        source = _HEAD + getattr(self, f"_{setting}")(value)
        matcher = self._guidance.LLMatcher(
            self._tokenizer, source, log_level=0, limits=self._limits
        )
        if matcher.is_error():
            raise SettingError(f"{setting} cannot be used: {_reason(matcher.get_error())}")
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8) & self._tokens.spelled
        if matcher.is_error() or not bits.any():
            raise SettingError(f"{setting} cannot be used: the vocabulary has no text of this form")
        return Grammar(matcher, bits, matcher.is_accepting(), self._tokens)

    def _regex(self, pattern: str) -> str:
        self._spelling.check("regex", literals_of_regex(pattern))
        return f"start: /{self._guidance.regex_to_lark(pattern, '')}/"

    def _choices(self, texts: tuple[str, ...]) -> str:
        texts = tuple(dict.fromkeys(map(self._vocabulary.normalize, texts)))
        for text in texts:
            self._spelling.check_text("choices", text)
        # One expression, since a grammar with thousands of alternatives is slow.
        pattern = "|".join(map(re.escape, texts))
        return f"start: /{self._guidance.regex_to_lark(pattern, '')}/"

    def _json_schema(self, text: str) -> str:
        schema = json.loads(text)
        schema = {} if schema is True else normalized_schema(schema, self._vocabulary)
        if math.prod(multiples_of_schema(schema)) > _LARGEST_MULTIPLE:
            raise SettingError(
                f"json_schema may have multipleOf whose product is at most {_LARGEST_MULTIPLE}"
            )
        for name in names_of_schema(schema):
            self._spelling.check("json_schema", json.dumps(name, ensure_ascii=False))
        return f"start: %json {json.dumps(schema | _COMPACT, ensure_ascii=False)}"

    def _grammar(self, text: str) -> str:
        if "%llguidance" in text:
            raise SettingError("grammar must not have %llguidance: its options are set already")
        self._spelling.check("grammar", literals_of_grammar(text))
        return text


def _reason(message: str) -> str:
    """Llguidance's message without the excerpt of its source."""
    lines = [line.strip() for line in message.splitlines()]
    shown = " ".join(line for line in lines if line and not re.match(r"\d* *\||\^|<", line))
    # A regular expression that is malformed is repeated before what is wrong.
    shown = re.sub(r".*regex parse error: .*error: ", "", shown)
    return re.sub(r"^(at )?\d+\(\d+\): ", "", shown)[:400]
