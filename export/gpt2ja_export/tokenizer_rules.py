"""What a checkpoint's tokenizer does, found out and held against the runtime's."""

from __future__ import annotations

import itertools
import json
import random
from typing import TYPE_CHECKING

from gpt2ja_export.quiet import quiet
from gpt2ja_onnx.bundle import names
from gpt2ja_onnx.bundle.manifest import TokenizerRules
from gpt2ja_onnx.errors import BundleError, CheckpointError
from gpt2ja_onnx.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedTokenizer

    from gpt2ja_export.checkpoint import Checkpoint

# Where no file names a class: that of the published model.
DEFAULT_CLASS = "BertGenerationTokenizer"
_MOST_LINES = 1000  # of the text that tokenizers are compared on
_STRINGS = 1000  # random ones beside it
# What tokenizers treat differently: spaces, widths, marks, quotes, numbers, controls, pictures.
_SNIPPETS = (
    " ", "  ", "　", "\t", "\n", "\r\n", "\u00a0", "\u200b", "\ufeff", "▁", "、", "。", "「", "」",
    "東京", "の", "です", "カタカナ", "ｶﾞｯﾂ", "ﾊﾟ", "が", "か\u3099", "ABC", "abc", "Ｆｕｌｌ", "İ",
    "é", "e\u0301", "ß", "Ω", "1", "2", "１２", "①", "㌔", "1,234", "9,", ",", ".", "...", "…",
    "``", "''", "'", '"', "-", "ー", "～", "(", "）", "<", ">", "[", "]", "\0", "\x1b", "\x7f",
    "😀", "👨\u200d👩\u200d👧", "🇯🇵", "龘", "한국어", "العربية", "\ufffd", "\U0010ffff",
)  # fmt: skip


def tokenizer_class(path: Path) -> str:
    """The class that the checkpoint's files name, as transformers looks for it."""
    for name in ("tokenizer_config.json", "config.json"):
        if (path / name).is_file():
            named = json.loads((path / name).read_bytes()).get("tokenizer_class")
            if isinstance(named, str):
                return named.removesuffix("Fast")
    return DEFAULT_CLASS


def load_tokenizer(checkpoint: Checkpoint, text: str) -> Tokenizer:
    """The runtime's tokenizer of a checkpoint, which agrees with transformers' slow one.

    Ids and decoded text are compared on the lines of `text` and on random strings. Special tokens
    are the exception: the runtime adds none, and reads text that spells one as text.

    Raises:
        CheckpointError: Transformers cannot load the tokenizer, or the runtime cannot do what it
            does; the error gives an example.
    """
    path = checkpoint.path
    try:
        Tokenizer(path / names.TOKENIZER_FILE)  # of a broken file transformers says nothing
    except BundleError as error:
        raise CheckpointError(str(error)) from error
    theirs = _load(path)
    rules = _rules(theirs)
    ours = Tokenizer(path / names.TOKENIZER_FILE, rules, checkpoint.config["vocab_size"])
    ids = [*rules.all_special_ids, *rules.added_tokens.values()]
    if (size := max([ours.pieces, *(token + 1 for token in ids)])) > ours.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has {size} tokens, the model {ours.vocab_size}; they do not "
            "belong together"
        )
    _compare(ours, theirs, rules, text, path)
    return ours


def _load(path: Path) -> PreTrainedTokenizer:
    """Transformers' slow tokenizer, as its model's card has it used.

    Raises:
        CheckpointError: There is none, or none on a sentencepiece model.
    """
    import transformers

    name = tokenizer_class(path)
    kind = getattr(transformers, name, None)
    if kind is None or not issubclass(kind, transformers.PreTrainedTokenizer):
        raise CheckpointError(f"{path}: transformers has no slow tokenizer {name!r}")
    if names.TOKENIZER_FILE not in kind.vocab_files_names.values():
        raise CheckpointError(
            f"{path}: its tokenizer, {name}, is none on a sentencepiece model; export takes those "
            f"that read {names.TOKENIZER_FILE}"
        )
    try:
        with quiet():
            loaded: PreTrainedTokenizer = kind.from_pretrained(path, local_files_only=True)
    except Exception as error:  # each class raises its own
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path}: its {name} cannot be loaded: {reason}") from error
    if "do_lower_case" in loaded.init_kwargs:  # T5's reads the setting, but does not apply it
        loaded.do_lower_case = loaded.init_kwargs["do_lower_case"]
    return loaded


def _rules(tokenizer: PreTrainedTokenizer) -> TokenizerRules:
    special = sorted(set(tokenizer.all_special_ids))
    like_albert = hasattr(tokenizer, "preprocess_text")  # XLNet's too
    return TokenizerRules(
        remove_space=like_albert and tokenizer.remove_space,
        replace_quotes=like_albert,
        keep_accents=not like_albert or tokenizer.keep_accents,
        do_lower_case=bool(getattr(tokenizer, "do_lower_case", False)),
        split_commas=like_albert,
        added_tokens={
            text: token
            for text, token in tokenizer.added_tokens_encoder.items()
            if token not in special
        },
        all_special_ids=special,
    )


def _compare(
    ours: Tokenizer, theirs: PreTrainedTokenizer, rules: TokenizerRules, text: str, path: Path
) -> None:
    for example in _examples(text, theirs, rules):
        expected = theirs.encode(example, add_special_tokens=False, split_special_tokens=False)
        found = ours.encode(example)
        if found != expected:
            _refuse(path, theirs, f"{example!r} has the ids {expected}, and {found}")
        if any(token in rules.added_tokens for token in theirs.convert_ids_to_tokens(expected)):
            continue  # which transformers writes between spaces
        shown = theirs.decode(
            expected, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if (said := ours.decode(expected)) != shown:
            _refuse(path, theirs, f"{expected} are the text {shown!r}, and {said!r}")


def _refuse(path: Path, tokenizer: PreTrainedTokenizer, example: str) -> None:
    raise CheckpointError(
        f"{path}: the runtime cannot do what {type(tokenizer).__name__} does: {example} here"
    )


def _examples(text: str, tokenizer: PreTrainedTokenizer, rules: TokenizerRules) -> Iterator[str]:
    """Lines of a text, and random strings, none of which spells a special token."""
    chance = random.Random(20261130)
    snippets = [*_SNIPPETS, *rules.added_tokens]
    strings = ("".join(chance.choices(snippets, k=chance.randint(1, 12))) for _ in range(_STRINGS))
    for example in itertools.chain(itertools.islice(text.splitlines(), _MOST_LINES), strings):
        if not any(special in example for special in tokenizer.all_special_tokens):
            yield example
