"""What one text may still become, so that in the end it has its form."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt2ja_onnx.errors import GenerationError

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from numpy.typing import NDArray

    from gpt2ja_onnx.constraints.spelling import Vocabulary

    Bits = NDArray[np.uint8]


# llguidance keeps the masks of the states that it has met: they take some 30 microseconds where
# caches are cold, as long as handing them to a thread does, and new ones up to a millisecond.
_QUICK_SECONDS = 2e-4


class Tokens:
    """A vocabulary as llguidance reads it: the bytes of every token, and one more for the end.

    Attributes:
        size: Number of the vocabulary's tokens.
        spelled: A bit for each token that stands for text, the lowest of a byte first, in whole
            32-bit words, as llguidance has its masks.
    """

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.size = self.eos_token_id = vocabulary.vocab_size
        texts = [vocabulary.token_text(token) for token in range(self.size)]
        self.spelled = np.zeros((self.size // 32 + 1) * 4, dtype=np.uint8)
        bits = np.packbits([bool(text) for text in texts], bitorder="little")
        self.spelled[: len(bits)] = bits
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
        bits: A bit for each token that may follow, like `Tokens.spelled`; None if they are still
            to be found.
        may_end: Whether the form is complete; known with the bits.
    """

    __slots__ = (
        "_address",
        "_ends",
        "_eos",
        "_mask",
        "_masked",
        "_matcher",
        "_seconds",
        "_text",
        "_tokens",
    )

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
        self._eos = eos
        self._seconds = math.inf  # that the last mask took
        self._ends = np.zeros_like(tokens.spelled)
        for token in eos:
            self._ends[token // 8] |= np.uint8(1 << token % 8)
        self._text = tokens.spelled & ~self._ends
        self._mask = np.zeros_like(tokens.spelled)  # one piece of memory for all steps
        self._address = self._mask.ctypes.data
        self._masked = bits is not None
        if bits is not None:
            self._mask[:] = bits
            self._keep(may_end)

    @property
    def masked(self) -> bool:
        """Whether the mask of the next step is there."""
        return self._masked

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
        self._masked = False
        try:
            taken = self._matcher.consume_token(token)
        except BaseException as panic:
            raise _panicked(panic) from panic
        if not taken:
            raise self._failure()

    def fork(self) -> Constraint:
        """A copy that goes on by itself."""
        copy = Constraint(self._tokens, self._matcher.deep_copy(), self._eos, None)
        copy._mask[:] = self._mask
        copy._masked, copy._seconds = self._masked, self._seconds
        return copy

    def mask_next(self) -> None:
        """Find the tokens that may follow.

        Raises:
            GenerationError: llguidance has panicked.
        """
        started = time.perf_counter()
        try:
            self._matcher.unsafe_compute_mask_ptr(self._address, self._mask.nbytes)
        except BaseException as panic:
            raise _panicked(panic) from panic
        self._seconds = time.perf_counter() - started
        self._keep(self._matcher.is_accepting())
        self._masked = True

    def _keep(self, may_end: bool) -> None:
        # An end token may spell text too, which it then is not.
        np.bitwise_and(self._mask, self._text, out=self._mask)
        if may_end:
            np.bitwise_or(self._mask, self._ends, out=self._mask)

    # --- as a processor: see `gpt2ja_onnx.sampling.processors.Processor` ---

    def active(self, history: object) -> bool:
        """See `Processor`."""
        return True

    def __call__(self, history: object, scores: Any, ids: Any) -> None:
        """See `Processor`."""
        scores[~self._each()[ids]] = -np.inf

    def allowed_tokens(self) -> NDArray[np.int64]:
        """The tokens that may follow, end tokens among them, by rising id; raises as `mask`."""
        return np.flatnonzero(self._each())

    def count_allowed(self) -> int:
        """How many tokens may follow, end tokens among them; raises as `mask`."""
        return int(np.count_nonzero(self._each()))

    def _each(self) -> NDArray[np.bool_]:
        mask = self.mask()
        if self._matcher.is_error() or not mask.any():
            raise self._failure()
        bits = np.unpackbits(mask, count=self._tokens.size, bitorder="little")
        return bits.view(np.bool_)

    def mask(self) -> Bits:
        """A bit for each token that may follow, end tokens among them, the lowest of a byte first.

        It is the same memory in every step; none is set where the text cannot go on.

        Raises:
            GenerationError: llguidance has panicked.
        """
        if not self._masked:
            self.mask_next()
        return self._mask

    def _failure(self) -> GenerationError:
        reason = self._matcher.stop_reason()
        if reason in ("LexerTooComplex", "ParserTooComplex"):
            return GenerationError("the form is too complex to follow; simplify it")
        return GenerationError(
            "no token of the vocabulary can continue the text in its form; allow other text"
        )


def _panicked(panic: BaseException) -> GenerationError:
    """The error of a request for which llguidance has panicked, which is no `Exception`."""
    return GenerationError(f"the form failed: {panic}")
