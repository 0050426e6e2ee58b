"""The pretend GPU itself: torch sees it while a test wants it, and its tensors do not mix with those of the CPU."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from kdutils.core.machine import choose_precision
from tests.pretend_gpu import report


def test_torch_sees_a_gpu_whose_tensors_do_not_mix_with_those_of_the_cpu(gpu):
    assert not torch.cuda.is_available()
    gpu(7, 5)
    assert torch.cuda.is_available() and torch.cuda.get_device_capability() == (7, 5)
    there = torch.zeros(2, device="cuda")
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        there.numpy()
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(2)
    assert choose_precision()[0] == "fp16"
    gpu(9, 0)
    assert choose_precision()[0] == "bf16"


def test_after_the_test_it_is_gone():
    assert not torch.cuda.is_available()
    with pytest.raises((AssertionError, RuntimeError), match="not compiled with CUDA"):
        torch.zeros(2, device="cuda")
    assert Accelerator().device.type == "cpu"


def test_accelerate_takes_it_and_its_memory_ends(gpu):
    gpu(9, 0)
    assert Accelerator().device.type == "cuda"
    gpu(7, 5, memory=0.001)
    with pytest.raises(torch.OutOfMemoryError):
        torch.zeros(10**6, device="cuda")


def test_it_draws_from_its_own_generator(gpu):
    gpu()
    torch.manual_seed(5)
    state = torch.cuda.get_rng_state()
    first = torch.rand(3, device="cuda")
    torch.rand(3)  # the CPU's generator is another
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3, device="cuda"), first)


def test_it_counts_how_often_the_host_waits(gpu):
    gpu()
    x, before = torch.arange(4.0, device="cuda"), report()["stops"]
    (x + 1).sum()
    assert report()["stops"] == before
    assert x.sum().item() == 6 and x.nonzero().shape == (3, 1) and x.tolist() == [0, 1, 2, 3]
    assert report()["stops"] == before + 3
