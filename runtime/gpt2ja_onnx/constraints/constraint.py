"""What one text may still become, so that in the end it has its form."""

from __future__ import annotations

import contextlib
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.errors import GenerationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llguidance import LLMatcher
    from numpy.typing import NDArray

    from gpt2ja_onnx.constraints.spelling import Vocabulary

    Bits = NDArray[np.uint8]


# llguidance keeps the masks of the states that it has met: they take some 40 microseconds where
# caches are cold, as long as handing them to a thread does, and new ones up to a millisecond.
_QUICK_SECONDS = 2e-4


class Tokens:
    """A vocabulary as llguidance reads it: the bytes of every token, and one more for the end.

    Attributes:
        size: Number of the vocabulary's tokens.
        spelled: A bit for each token that stands for text, the lowest of a byte first.
    """

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.size = self.eos_token_id = vocabulary.vocab_size
        texts = [vocabulary.token_text(token) for token in range(self.size)]
        self.spelled = np.packbits([bool(text) for text in texts], bitorder="little")
        self.special_token_ids = [token for token, text in enumerate([*texts, ""]) if not text]
        # Special tokens need names of their own.
        self.tokens = [
            (text.encode() if isinstance(text, str) else text) or b"<special %d>" % token
            for token, text in enumerate([*texts, b""])
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        """The tokens that a forced text is cut into; nothing is ever forced."""
        return []


class Constraint:
    """The tokens that may follow a text; the last processor of its scores.

    `mask_next` makes the mask of the next step and may be called in another thread, while nothing
    else touches the constraint.

    Args:
        tokens: Of the vocabulary.
        matcher: Knows the form and where the text stands in it.
        eos: The end tokens of the request. They are no text: one may follow where the form is
            complete.
        bits: From `allowed_bits`; None if they are still to be found.
        may_end: Whether the form is complete; known with the bits.
    """

    __slots__ = ("_allowed", "_eos", "_matcher", "_seconds", "_tokens")

    lowers_only = True
    tokens: tuple[int, ...] | None = None

    def __init__(
        self,
        tokens: Tokens,
        matcher: LLMatcher,
        eos: tuple[int, ...],
        bits: Bits | None,
        may_end: bool = False,
    ) -> None:
        self._tokens = tokens
        self._matcher = matcher
        self._eos = list(eos)
        self._seconds = math.inf  # that the last mask took
        self._allowed: Bits | None = None
        if bits is not None:
            self._allow(bits.copy(), may_end)

    @property
    def masked(self) -> bool:
        """Whether the mask of the next step is there."""
        return self._allowed is not None

    @property
    def quick(self) -> bool:
        """Whether the mask of the next step likely takes less time than another thread would."""
        return self._seconds < _QUICK_SECONDS

    @property
    def complete(self) -> bool:
        """Whether the text has its form, and nothing can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def advance(self, token: int) -> None:
        """Take one more token of the text, which is no end token.

        Raises:
            GenerationError: It leads out of the form, or a limit of llguidance's was reached.
        """
        self._allowed = None
        with _panics_told():
            taken = self._matcher.consume_token(token)
        if not taken:
            raise self._failure()

    def fork(self) -> Constraint:
        """A copy that goes on by itself."""
        copy = Constraint(self._tokens, self._matcher.deep_copy(), tuple(self._eos), None)
        copy._allowed, copy._seconds = self._allowed, self._seconds
        return copy

    def mask_next(self) -> None:
        """Find the tokens that may follow.

        Raises:
            GenerationError: llguidance has panicked.
        """
        started = time.perf_counter()
        with _panics_told():
            bits = allowed_bits(self._matcher, self._tokens)
        self._seconds = time.perf_counter() - started
        self._allow(bits, self._matcher.is_accepting())

    def _allow(self, bits: Bits, may_end: bool) -> None:
        for token in self._eos:
            bit = np.uint8(1 << token % 8)
            # An end token may spell text too, which it then is not.
            bits[token // 8] = bits[token // 8] | bit if may_end else bits[token // 8] & ~bit
        self._allowed = bits

    # --- as a processor: see `gpt2ja_onnx.sampling.processors.Processor` ---

    def active(self, history: object) -> bool:
        """See `Processor`."""
        return True

    def __call__(self, history: object, scores: Any, ids: Any) -> None:
        """See `Processor`."""
        scores[~self._mask()[ids]] = -np.inf

    def allowed_tokens(self) -> NDArray[np.int64]:
        """The tokens that may follow, end tokens among them, by rising id; raises as `allowed`."""
        return np.flatnonzero(self._mask())

    def count_allowed(self) -> int:
        """How many tokens may follow, end tokens among them; raises as `allowed`."""
        return int(np.count_nonzero(self._mask()))

    def _mask(self) -> NDArray[np.bool_]:
        bits = np.unpackbits(self.allowed(), count=self._tokens.size, bitorder="little")
        return bits.view(np.bool_)

    def allowed(self) -> Bits:
        """A bit for each token that may follow, end tokens among them, the lowest of a byte first.

        Raises:
            GenerationError: There are none.
        """
        if self._allowed is None:
            self.mask_next()
        assert self._allowed is not None
        if self._matcher.is_error() or not self._allowed.any():
            raise self._failure()
        return self._allowed

    def _failure(self) -> GenerationError:
        reason = self._matcher.stop_reason()
        if reason in ("LexerTooComplex", "ParserTooComplex"):
            return GenerationError("the form is too complex to follow; simplify it")
        return GenerationError(
            "no token of the vocabulary can continue the text in its form; allow other text"
        )


@contextlib.contextmanager
def _panics_told() -> Iterator[None]:
    """Make panics of llguidance, which are no `Exception`, errors of the request."""
    try:
        yield
    except BaseException as error:
        raise GenerationError(f"the form failed: {error}") from error


def allowed_bits(matcher: LLMatcher, tokens: Tokens) -> Bits:
    """A bit for each token that may follow, the lowest of a byte first; none for end tokens."""
    bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
    found: Bits = bits[: len(tokens.spelled)] & tokens.spelled
    return found
