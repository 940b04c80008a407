"""Shared settings of the suite: one thread, fixed seeds."""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("beartype"):  # the hook that enforces annotations looks it up as tests.typecheck
    importlib.import_module("tests.typecheck")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)
