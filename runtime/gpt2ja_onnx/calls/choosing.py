"""Choice between continuations: from a prompt and options to texts to score, and back."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from gpt2ja_onnx.engine.scoring import ScoringJob
from gpt2ja_onnx.errors import PromptError, SettingError
from gpt2ja_onnx.results import ChoiceResult, OptionScore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Prompt = str | list[int]

Normalize = Literal["none", "tokens", "characters", "unconditional"]
NORMALIZATIONS: tuple[Normalize, ...] = get_args(Normalize)
# Texts that share less are computed whole, several a call: behind a prefix it is one a call, which
# costs as much from here on.
_SHORTEST_PREFIX = 8


class _Text(NamedTuple):
    """A prompt with an option: its tokens, of which the option's begin at `border`."""

    ids: list[int]
    border: int


class Choosing:
    """A choice under way.

    Args:
        encode: Makes checked token ids of a text or of ids.
        context: Tokens that the model sees at most.
        prompt: Text or ids.
        options: The continuations, as the prompt is.
        normalize: What scores are.
        unconditional: The prompt whose log-probabilities are subtracted.

    Attributes:
        jobs: What is to be scored: behind the prompt, and behind the unconditional one.

    Raises:
        PromptError: Prompt or options are empty, too long, or of different kinds.
        SettingError: `normalize` and `unconditional` do not fit together.
    """

    def __init__(
        self,
        encode: Callable[[Prompt], list[int]],
        context: int,
        prompt: Prompt,
        options: Sequence[Prompt],
        normalize: Normalize,
        unconditional: Prompt | None,
    ) -> None:
        if normalize not in NORMALIZATIONS:
            known = ", ".join(NORMALIZATIONS)
            raise SettingError(f"normalize must be one of {known}, not {normalize!r:.80}")
        if (normalize == "unconditional") != (unconditional is not None):
            raise SettingError(
                "normalize 'unconditional' needs an unconditional prompt, and only that takes one"
            )
        if isinstance(options, str) or not options:
            raise PromptError("options must be a list of at least one text")
        if normalize == "characters" and not all(isinstance(option, str) for option in options):
            raise SettingError("normalize 'characters' needs options that are texts, not ids")
        self._prompt, self._options, self._normalize = prompt, options, normalize
        prompts = [prompt] if unconditional is None else [prompt, unconditional]
        self._texts = [_joined(encode, given, options, context) for given in prompts]
        self.jobs = [
            ScoringJob([text.ids for text in texts], context, context // 2, prefix=_prefix(texts))
            for texts in self._texts
        ]

    def cancel(self) -> None:
        """End what is under way at the engine's next step."""
        for job in self.jobs:
            job.cancelled = True

    def result(self) -> ChoiceResult:
        """What came of it, once all jobs are done.

        Raises:
            GenerationError: A job failed.
        """
        for job in self.jobs:
            if job.error is not None:
                raise job.error
        scored = []
        for index, option in enumerate(self._options):
            ids, border = self._texts[0][index]
            logprobs: list[float] = self.jobs[0].logprobs[index][border:].tolist()
            logprob = math.fsum(logprobs)
            text = option if isinstance(option, str) else ""
            divisor, unconditional = 1, None
            if self._normalize == "tokens":
                divisor = len(logprobs)
            elif self._normalize == "characters":
                divisor = len(text)
            elif self._normalize == "unconditional":
                start = self._texts[1][index].border
                unconditional = math.fsum(self.jobs[1].logprobs[index][start:])
            scored.append(
                OptionScore(
                    option=text,
                    score=(logprob - (unconditional or 0.0)) / divisor,
                    logprob=logprob,
                    unconditional_logprob=unconditional,
                    tokens=len(logprobs),
                    token_ids=ids[border:],
                    token_logprobs=logprobs,
                )
            )
        best = max(range(len(scored)), key=lambda index: scored[index].score)
        prompt = self._prompt if isinstance(self._prompt, str) else ""
        return ChoiceResult(prompt, best, scored)


def _joined(
    encode: Callable[[Prompt], list[int]],
    prompt: Prompt,
    options: Sequence[Prompt],
    context: int,
) -> list[_Text]:
    """The prompt with each option, split as lm-evaluation-harness does.

    White space at the prompt's end goes to the options; then the whole is encoded, and what lies
    behind as many tokens as the prompt has alone is the option's. So an option is what the model
    would write there, not what the tokenizer makes of it alone.
    """
    space = ""
    if isinstance(prompt, str):
        stripped = prompt.rstrip()
        prompt, space = stripped, prompt[len(stripped) :]
    border = len(encode(prompt))
    if not border:
        raise PromptError("the prompt is empty; give at least one character")
    texts = []
    for index, option in enumerate(options):
        if isinstance(prompt, str) and isinstance(option, str):
            ids = encode(prompt + space + option)
        elif isinstance(prompt, list) and isinstance(option, list):
            ids = encode(prompt) + encode(option)
        else:
            raise PromptError("prompt and options must all be texts, or all lists of token ids")
        if len(ids) > context:
            raise PromptError(
                f"option {index}: has {len(ids)} tokens with the prompt, the context is {context}; "
                "shorten the prompt"
            )
        if len(ids) <= border or not option:
            raise PromptError(
                f"option {index}: has no token of its own behind the prompt; give more text, or "
                "move the prompt's last word to the options"
            )
        texts.append(_Text(ids, border))
    return texts


def _prefix(texts: list[_Text]) -> int:
    """Tokens that all texts begin with, without the last one before an option; 0 for too few.

    That one is computed with each option, whose first token it predicts: so no call has a single
    token, see `gpt2ja_onnx.engine.prefill.pieces`.
    """
    columns = zip(*(text.ids[: text.border - 1] for text in texts), strict=True)
    prefix = sum(1 for _ in itertools.takewhile(lambda ids: len(set(ids)) == 1, columns))
    return prefix if prefix >= _SHORTEST_PREFIX and len(texts) > 1 else 0
