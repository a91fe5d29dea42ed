"""Muon's steps are those of torch, in whichever dtype they are computed."""

from __future__ import annotations

import copy

import pytest
import torch

from gpt2ja_train.muon import Muon, orthogonalize


def trained(optimizer: torch.optim.Optimizer, matrices: list[torch.nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimizer.step()


def matrices() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 72), (96, 24), (24, 24)]
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.0), ("float32", 0.02)])
def test_steps_are_those_of_torch(dtype: str, tolerance: float) -> None:
    ours, theirs = matrices(), matrices()
    rate = 0.01
    trained(Muon(ours, rate, getattr(torch, dtype)), ours)
    trained(
        torch.optim.Muon(theirs, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"), theirs
    )
    for mine, other, start in zip(ours, theirs, matrices(), strict=True):
        moved = (other - start).norm()
        assert moved > 0.1
        assert (mine - other).norm() <= tolerance * moved


def test_the_state_of_torchs_can_be_loaded() -> None:
    theirs = matrices()
    optimizer = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    trained(optimizer, theirs)
    ours = [torch.nn.Parameter(matrix.detach().clone()) for matrix in theirs]
    resumed = Muon(ours, 0.01, torch.bfloat16)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    trained(optimizer, theirs)
    trained(resumed, ours)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (32, 32)])
def test_singular_values_come_near_to_one(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(2)
    update = orthogonalize(torch.randn(shape, generator=generator), torch.float32)
    assert update.shape == shape
    values = torch.linalg.svdvals(update)
    assert values.min() > 0.3
    assert values.max() < 1.3
