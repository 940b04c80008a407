"""Shared settings of the suite: one thread, fixed seeds."""

import importlib.util

import pytest
import torch

if importlib.util.find_spec("beartype"):  # the hook that enforces annotations looks it up as tests.typecheck
    importlib.import_module("tests.typecheck")

torch.set_num_threads(1)


def seed() -> None:
    torch.manual_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup():
    """Each fixture draws the same numbers, whichever test asks for it first and whatever ran before."""
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    seed()
