"""Checkpoints and bundles of tiny models with random weights, made once a session."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpt2ja_export import ExportSettings, export_bundle
from gpt2ja_onnx import GPT2Ja
from gpt2ja_onnx.bundle.manifest import read_manifest
from gpt2ja_onnx.device.choice import cuda_problem
from gpt2ja_onnx.device.cpu.session import CpuSession
from gpt2ja_train import TokenizerSettings, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from transformers import GPT2LMHeadModel

SAMPLE = Path(__file__).parents[1] / "export" / "gpt2ja_export" / "sample.txt"
VOCABULARY = 384
CONTEXT = 128


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Tests that need a GPU are skipped without one, and say what is missing."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (problem := cuda_problem()) is not None:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=problem))


def make_tokenizer(directory: Path, *, add_dummy_prefix: bool) -> Path:
    (directory / "corpus").mkdir()
    shutil.copyfile(SAMPLE, directory / "corpus" / "train.txt")
    settings = TokenizerSettings(vocab_size=VOCABULARY, add_dummy_prefix=add_dummy_prefix)
    train_tokenizer(directory / "corpus", directory / "out", settings)
    return directory / "out"


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), add_dummy_prefix=True)


@pytest.fixture(scope="session")
def tokenizer_without_prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), add_dummy_prefix=False)


@pytest.fixture(scope="session")
def make_checkpoint(
    tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function that saves a random GPT-2 with the tokenizer beside it."""

    def make(
        layers: int = 2,
        width: int = 64,
        heads: int = 2,
        *,
        pickled: bool = False,
        **config: object,
    ) -> Path:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        directory = tmp_path_factory.mktemp("checkpoint")
        torch.manual_seed(layers * width + heads)
        values = {
            "vocab_size": VOCABULARY,
            "n_layer": layers,
            "n_embd": width,
            "n_head": heads,
            "n_positions": CONTEXT,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "tokenizer_class": "BertGenerationTokenizer",
            # Wider than GPT-2's, so that greedy ids are no near-ties.
            "initializer_range": 0.15,
        }
        model = GPT2LMHeadModel(GPT2Config(**values | config))
        # Zero biases would be merged to one and hide a rewrite that takes the wrong one.
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(directory)
        if pickled:
            torch.save(model.state_dict(), directory / "pytorch_model.bin")
            (directory / "model.safetensors").unlink()
        shutil.copytree(tokenizer_dir, directory, dirs_exist_ok=True)
        return directory

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="session")
def torch_model(checkpoint: Path) -> GPT2LMHeadModel:
    from transformers import GPT2LMHeadModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: GPT2LMHeadModel = GPT2LMHeadModel.from_pretrained(checkpoint).eval()
    return model


@pytest.fixture(scope="session")
def bundles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of the tiny model by precision, those whose results are promised bit for bit.

    Of the int8 one, layer 1 keeps keys and values in 16 bits, and its last product takes 16.
    """
    from gpt2ja_export import choose_bits
    from gpt2ja_export.rounding_costs import Costs

    directory = tmp_path_factory.mktemp("bundles")
    costs = Costs({(1, "mlp.c_proj"): 1.0}, {0: 0.0, 1: 1.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose_bits, "rounding_costs", lambda *_: costs)
        for precision in ("fp32", "int8"):
            # int8 on random weights can miss the perplexity limit, which is about trained ones.
            settings = ExportSettings(precision=precision, verify=precision == "fp32")
            export_bundle(str(checkpoint), directory / precision, settings)
    return {path.name: path for path in directory.iterdir()}


@pytest.fixture(scope="session")
def cuda_bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for cuda of the tiny model, in fp16."""
    output = tmp_path_factory.mktemp("cuda") / "fp16"
    # The limits are about trained weights; random ones lose more.
    settings = ExportSettings(precision="fp16", device="cuda", verify=False)
    export_bundle(str(checkpoint), output, settings)
    return output


@pytest.fixture(scope="session", params=["fp32", "int8"])
def model(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> Iterator[GPT2Ja]:
    with GPT2Ja.load(bundles[request.param], batch_size=8) as loaded:
        yield loaded


@pytest.fixture(scope="session", params=["fp32", "int8"])
def session(request: pytest.FixtureRequest, bundles: dict[str, Path]) -> CpuSession:
    directory = bundles[request.param]
    return CpuSession(directory, read_manifest(directory), threads=2)


@pytest.fixture(scope="session")
def fp32_model(bundles: dict[str, Path]) -> Iterator[GPT2Ja]:
    with GPT2Ja.load(bundles["fp32"], batch_size=8) as loaded:
        yield loaded
