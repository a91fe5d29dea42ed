"""The bundle's contract: names of its files, and of its graphs' inputs and outputs."""

from __future__ import annotations

from typing import Literal

VERSION = 1
MANIFEST_FILE = "bundle.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "spiece.model"
CACHE_FILE = "cache.onnx"  # of bundles for cuda: moves blocks of the cache on the device

# Inputs of the fused graph; `gpt2ja_onnx.device.cpu.session.Plan` gives the shapes.
INPUT_IDS = "input_ids"
POSITION_IDS = "position_ids"
SEQLENS_K = "seqlens_k"
TOTAL_SEQUENCE_LENGTH = "total_sequence_length"
LOGIT_POSITIONS = "logit_positions"  # in graphs for cuda counted over the tokens of all rows
# Its outputs.
LOGITS = "logits"
CANDIDATE_SCORES = "candidate_scores"
CANDIDATE_IDS = "candidate_ids"
LOGIT_SUMS = "logit_sums"  # of graphs for cuda: not finite where a logit is not
# Inputs and the output of the graph that moves blocks of the cache, 8-byte words all: `to` gets
# what `from` has. (blocks, words), (blocks, words), (moved,), (moved, 1), (2,), (blocks, words).
MOVE_SOURCE = "source"
MOVE_TARGET = "target"
MOVE_FROM = "from"
MOVE_TO = "to"
MOVE_SHAPE = "shape"
MOVED = "moved"

# Of the functions that native operators stand in for.
OPERATOR_DOMAIN = "gpt2ja"

CachePart = Literal["key", "value"]
CACHE_PARTS: tuple[CachePart, CachePart] = ("key", "value")


def past_name(layer: int, part: CachePart) -> str:
    """Name of the cache that layer `layer` reads."""
    return f"past.{layer}.{part}"


def present_name(layer: int, part: CachePart) -> str:
    """Name of the cache that layer `layer` writes."""
    return f"present.{layer}.{part}"
