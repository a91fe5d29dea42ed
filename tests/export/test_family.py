"""Checkpoints in the layouts that Japanese GPT-2s are published in, exported and run."""

from __future__ import annotations

import functools
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import sentencepiece
import torch
import transformers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_export.checkpoint import open_checkpoint
from gpt2ja_export.tokenizer_rules import load_tokenizer
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle.manifest import TokenizerRules, read_manifest
from gpt2ja_onnx.errors import CheckpointError
from gpt2ja_onnx.text.tokenizer import Tokenizer
from tests.conftest import SAMPLE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transformers import PreTrainedTokenizer

PROMPT = "朝の Market は、"
LARGEST_PIECES = 420

# What each line of models has in its tokenizer_config.json, and in its sentencepiece model.
T5 = {
    "tokenizer_class": "T5Tokenizer", "bos_token": "<s>", "eos_token": "</s>",
    "unk_token": "<unk>", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]",
    "mask_token": "[MASK]", "extra_ids": 0, "additional_special_tokens": [],
}  # fmt: skip
T5_PIECES = {
    "pad_id": -1, "unk_id": 0, "bos_id": 1, "eos_id": 2,
    "user_defined_symbols": ["[PAD]", "[CLS]", "[SEP]", "[MASK]"],
}  # fmt: skip
ALBERT = {
    "bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "<unk>", "pad_token": "<pad>",
    "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]",
}  # fmt: skip
ALBERT_PIECES = {
    "pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1,
    "control_symbols": ["[CLS]", "[SEP]"], "user_defined_symbols": ["[MASK]", "1,", "▁2,"],
}  # fmt: skip
BYTES = {"byte_fallback": True, "pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3}
LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "bert-generation": ({"tokenizer_class": "BertGenerationTokenizer"}, {"pad_id": 0, "unk_id": 1,
        "bos_id": 2, "eos_id": 3, "control_symbols": ["<cls>", "<sep>"]}),
    "t5-lower-case": (T5 | {"do_lower_case": True}, T5_PIECES),
    "t5": (T5, T5_PIECES),
    "t5-not-legacy": (T5 | {"legacy": False}, T5_PIECES),
    "t5-extra-ids": (
        {"tokenizer_class": "T5Tokenizer", "extra_ids": 4}, {"pad_id": 0, "eos_id": 1,
        "unk_id": 2, "bos_id": -1}),
    "albert": (
        ALBERT | {"tokenizer_class": "AlbertTokenizer", "keep_accents": True}, ALBERT_PIECES),
    "albert-cased": (
        ALBERT | {"tokenizer_class": "AlbertTokenizer", "keep_accents": True,
        "do_lower_case": False, "remove_space": False}, ALBERT_PIECES),
    "albert-plain": (ALBERT | {"tokenizer_class": "AlbertTokenizer"}, ALBERT_PIECES),
    "xlnet": (ALBERT | {"tokenizer_class": "XLNetTokenizer", "keep_accents": True}, ALBERT_PIECES),
    "reformer": ({"tokenizer_class": "ReformerTokenizer"}, BYTES),
    "no-prefix": ({"tokenizer_class": "T5Tokenizer"} | T5,
        T5_PIECES | {"add_dummy_prefix": False}),
    "identity": (T5, T5_PIECES | {"normalization_rule_name": "identity",
        "remove_extra_whitespaces": False}),
}  # fmt: skip


@pytest.fixture(scope="module")
def make_layout(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that saves the tokenizer of a layout, and a random GPT-2 of its vocabulary."""
    corpus = tmp_path_factory.mktemp("corpus") / "train.txt"
    extra = "ABC abc Full ﾊﾟ 1,234 が é \"''\" [ ] < > - (a) . , ;\n"
    corpus.write_text(SAMPLE.read_text(encoding="utf-8") + extra * 20, encoding="utf-8")
    made: dict[str, Path] = {}

    def make(name: str, vocab_size: int | None = None, **config: Any) -> Path:
        described, pieces = LAYOUTS[name]
        key = f"{name} {vocab_size} {config}"
        if key in made:
            return made[key]
        directory = made[key] = tmp_path_factory.mktemp(name)
        size = 700 if pieces.get("byte_fallback") else LARGEST_PIECES
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus), model_prefix=str(directory / "spiece"), vocab_size=size,
            hard_vocab_limit=False, character_coverage=1.0, minloglevel=2, **pieces,
        )  # fmt: skip
        (directory / "spiece.vocab").unlink()
        (directory / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
        tokenizer = loaded(directory)
        torch.manual_seed(1)
        values = {
            "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64, "bos_token_id": 1,
            "vocab_size": vocab_size or len(tokenizer), "initializer_range": 0.15,
            "eos_token_id": tokenizer.eos_token_id,
        }  # fmt: skip
        sharded = config.pop("max_shard_size", "5GB")
        pickled = config.pop("pickled", False)
        model = GPT2LMHeadModel(GPT2Config(**values | config))
        model.save_pretrained(directory, max_shard_size=sharded, safe_serialization=not pickled)
        return directory

    return make


def loaded(directory: Path) -> PreTrainedTokenizer:
    """The slow tokenizer as a model's card has it used."""
    described = json.loads((directory / "tokenizer_config.json").read_bytes())
    kind = getattr(transformers, described["tokenizer_class"])
    tokenizer: PreTrainedTokenizer = kind.from_pretrained(directory)
    if "do_lower_case" in described:
        tokenizer.do_lower_case = described["do_lower_case"]
    return tokenizer


@functools.cache
def pair(source: Path) -> tuple[Tokenizer, PreTrainedTokenizer]:
    return load_tokenizer(open_checkpoint(str(source)), ""), loaded(source)


def greedy(source: Path, prompt: list[int], count: int) -> list[int]:
    """What transformers continues a prompt with."""
    ids = torch.tensor([prompt])
    model = GPT2LMHeadModel.from_pretrained(source)
    # The mask, since it would take an <unk> of id 0 for padding.
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False,
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    found: list[int] = output[0, len(prompt) :].tolist()
    return found


def exported(source: Path, output: Path, **options: Any) -> GPT2Ja:
    settings = ExportSettings(**{"precision": "fp32"} | options)
    export_bundle(str(source), output, settings)
    return GPT2Ja.load(output)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["bert-generation", "t5-lower-case", "albert", "xlnet"])
def test_a_model_of_a_layout_continues_as_in_transformers(
    make_layout: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    source = make_layout(name)
    theirs = loaded(source)
    with exported(source, tmp_path / "bundle") as model:
        prompt = theirs.encode(PROMPT, add_special_tokens=False)
        assert model.tokenizer.encode(PROMPT) == prompt
        (result,) = model.generate(PROMPT, max_new_tokens=12, eos_token_id=[])
        assert result.token_ids == greedy(source, prompt, 12)
        whole = theirs.decode(result.token_ids, skip_special_tokens=True)
        assert model.tokenizer.decode(result.token_ids) == whole


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        ("bert-generation", {}),
        ("t5", {}),
        ("t5-lower-case", {"do_lower_case": True}),
        ("albert", {"remove_space": True, "replace_quotes": True, "do_lower_case": True,
            "split_commas": True}),
        ("albert-plain", {"remove_space": True, "replace_quotes": True, "do_lower_case": True,
            "split_commas": True, "keep_accents": False}),
        ("albert-cased", {"replace_quotes": True, "split_commas": True}),
    ],
)  # fmt: skip
def test_the_manifest_names_the_rules(
    make_layout: Callable[..., Path], tmp_path: Path, name: str, rules: dict[str, Any]
) -> None:
    source = make_layout(name)
    exported(source, tmp_path / "bundle", verify=False).close()
    found = read_manifest(tmp_path / "bundle").tokenizer
    special = sorted(set(loaded(source).all_special_ids))
    assert found == TokenizerRules(all_special_ids=special, **rules)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_gives_the_ids_and_the_text_of_transformers(
    make_layout: Callable[..., Path], name: str
) -> None:
    """Loading compares ids and text, on these lines and on random strings."""
    tokenizer = load_tokenizer(open_checkpoint(str(make_layout(name))), SAMPLE.read_text())
    assert tokenizer.decode(tokenizer.encode("朝の市場")) == "朝の市場"


@given(text=st.text(max_size=40), name=st.sampled_from([*LAYOUTS]))
@settings(max_examples=400, deadline=None)
def test_any_text_has_the_same_ids_and_parts_that_join_to_it(
    make_layout: Callable[..., Path], text: str, name: str
) -> None:
    tokenizer, theirs = pair(make_layout(name))
    text = text.encode(errors="replace").decode()
    # Which are text to us: see the next test. Hypothesis tries the strings of our own sources.
    assume(not any(token in text for token in theirs.all_special_tokens))
    ids, parts = tokenizer.encode_with_texts(text)
    assert ids == tokenizer.encode(text)
    assert ids == theirs.encode(text, add_special_tokens=False)
    assert "".join(parts) == (text if ids else "")


def test_special_tokens_in_a_text_are_text(make_layout: Callable[..., Path]) -> None:
    source = make_layout("t5")
    tokenizer = load_tokenizer(open_checkpoint(str(source)), "")
    theirs = loaded(source)
    for token in ("</s>", "<s>"):
        special = theirs.get_vocab()[token]
        assert special in theirs.encode(f"朝{token}の", add_special_tokens=False)
        assert special not in tokenizer.encode(f"朝{token}の")
    assert tokenizer.decode([theirs.get_vocab()[token] for token in ("[PAD]", "</s>")]) == ""


def test_added_tokens(make_layout: Callable[..., Path], tmp_path: Path) -> None:
    source = shutil.copytree(make_layout("t5", vocab_size=500), tmp_path / "source")
    tokenizer = loaded(source)
    tokenizer.add_tokens(["<NL>", "<NL><NL>", "市場"])
    tokenizer.save_pretrained(source)
    with exported(source, tmp_path / "bundle") as model:
        ours, theirs = model.tokenizer, loaded(source)
        assert len(model.manifest.tokenizer.added_tokens) == 3
        for text in ("朝の<NL>の<NL><NL><NL>市場市", "<NL>", "市場", "朝<NL 市"):
            assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
            ids, parts = ours.encode_with_texts(text)
            assert (len(ids), "".join(parts)) == (len(parts), text)
        assert ours.decode(ours.encode("朝の<NL>の")) == "朝の<NL> の"
        assert ours.piece(ours.encode("<NL>")[0]) == "<NL>"


def test_a_vocabulary_padded_beyond_the_pieces(
    make_layout: Callable[..., Path], tmp_path: Path
) -> None:
    size = 512
    with exported(make_layout("t5", vocab_size=size), tmp_path / "bundle") as model:
        assert model.tokenizer.pieces < model.tokenizer.vocab_size == size
        unused = list(range(model.tokenizer.pieces, size))
        bias = dict.fromkeys(unused, 100.0)
        (result,) = model.generate(PROMPT, max_new_tokens=4, logit_bias=bias)
        assert set(result.token_ids) <= set(unused)
        assert result.text == ""
        assert model.tokenizer.piece(unused[0]) == f"<{unused[0]}>"
        (free,) = model.generate(PROMPT, max_new_tokens=4, regex="[朝のは]{2}")
        assert len(free.text) == 2


@pytest.mark.parametrize("pickled", [False, True])
def test_weights_in_parts(make_layout: Callable[..., Path], tmp_path: Path, pickled: bool) -> None:
    parts = make_layout("t5", max_shard_size="30KB", pickled=pickled)
    whole = make_layout("t5")
    ending = "bin" if pickled else "safetensors"
    assert len(list(parts.glob(f"*-of-*.{ending}"))) > 2
    with exported(parts, tmp_path / "parts") as one, exported(whole, tmp_path / "whole") as other:
        ids = [one.generate(PROMPT, max_new_tokens=9)[0].token_ids for one in (one, other)]
        assert ids[0] == ids[1]
    first = open_checkpoint(str(parts)).source.weights_sha256
    copy = shutil.copytree(parts, tmp_path / "copy")
    last = sorted(copy.glob(f"*-of-*.{ending}"))[-1]
    last.write_bytes(last.read_bytes() + b" ")
    assert open_checkpoint(str(copy)).source.weights_sha256 != first
    last.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("layers", "width", "heads", "tied", "precision"),
    [
        (36, 48, 2, True, "fp32"),
        (6, 64, 8, False, "fp32"),
        (2, 80, 2, False, "int8"),
        (3, 128, 1, True, "int8"),
        (2, 112, 7, False, "int8"),
    ],
)
def test_shapes(
    make_layout: Callable[..., Path], tmp_path: Path, layers: int, width: int, heads: int,
    tied: bool, precision: str,
) -> None:  # fmt: skip
    source = make_layout("t5", n_layer=layers, n_embd=width, n_head=heads, tie_word_embeddings=tied)
    with exported(source, tmp_path / "bundle", precision=precision, verify=False) as model:
        (result,) = model.generate(PROMPT, max_new_tokens=8, eos_token_id=[])
        prompt = model.tokenizer.encode(PROMPT)
    expected = greedy(source, prompt, 8)
    assert len(result.token_ids) == len(expected)
    if precision == "fp32":
        assert result.token_ids == expected


# --- what is refused ---


def test_a_tokenizer_that_does_something_else_is_refused_with_an_example(
    make_layout: Callable[..., Path], tmp_path: Path
) -> None:
    source = shutil.copytree(make_layout("t5", vocab_size=500), tmp_path / "source")
    tokenizer = loaded(source)
    # Inside of a word it is no token, which the runtime does not know.
    tokenizer.add_tokens([transformers.AddedToken("<X>", single_word=True)])
    tokenizer.save_pretrained(source)
    with pytest.raises(CheckpointError, match=r"what T5Tokenizer does: '.*<X>.*' has the ids \["):
        load_tokenizer(open_checkpoint(str(source)), "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GPT2Tokenizer", "GPT2Tokenizer, is none on a sentencepiece model"),
        ("BertJapaneseTokenizer", "BertJapaneseTokenizer"),
        ("NoSuchTokenizer", "transformers has no slow tokenizer 'NoSuchTokenizer'"),
    ],
)
def test_other_tokenizers_are_refused(
    make_layout: Callable[..., Path], tmp_path: Path, name: str, message: str
) -> None:
    source = shutil.copytree(make_layout("t5"), tmp_path / "source")
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(open_checkpoint(str(source)), "")


def test_the_class_may_stand_in_config_json(
    make_layout: Callable[..., Path], tmp_path: Path
) -> None:
    source = shutil.copytree(make_layout("t5"), tmp_path / "source")
    named = json.loads((source / "tokenizer_config.json").read_bytes())
    name = named.pop("tokenizer_class")
    (source / "tokenizer_config.json").write_text(json.dumps(named))
    config = json.loads((source / "config.json").read_bytes())
    (source / "config.json").write_text(json.dumps(config | {"tokenizer_class": name}))
    exported(source, tmp_path / "bundle", verify=False).close()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "bundle", use_fast=False)
    assert type(theirs).__name__ == name
    assert Tokenizer(tmp_path / "bundle" / "spiece.model").encode(PROMPT) == theirs.encode(
        PROMPT, add_special_tokens=False
    )
