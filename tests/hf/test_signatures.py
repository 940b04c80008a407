"""Documented names, order and defaults of every public constructor and method.

`signatures.json` is data: class -> method -> parameters, each `[name]` if required, else `[name, default]`;
enums stand as their values. tests/parity/test_signatures.py compares the file itself with the reference.
"""

import enum
import inspect
import json
from pathlib import Path

import pytest

import watchword

DOCUMENTED = json.loads((Path(__file__).parent / "signatures.json").read_text())
METHODS = [(name, method) for name, methods in DOCUMENTED.items() for method in methods]


def parameters_of(function):
    """Parameters after `self`, in the form of signatures.json, and the names of the keyword-only ones."""
    listed, keyword_only = [], []
    for p in inspect.signature(function).parameters.values():
        if p.name in ("self", "cls"):
            continue
        if p.kind is p.KEYWORD_ONLY:
            keyword_only.append(p.name)
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            listed.append(["**kwargs" if p.kind is p.VAR_KEYWORD else "*args"])
        elif p.default is p.empty:
            listed.append([p.name])
        else:
            listed.append([p.name, p.default.value if isinstance(p.default, enum.Enum) else p.default])
    return listed, keyword_only


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[".".join(one) for one in METHODS])
def test_method_has_its_documented_parameters(name, method):
    documented = [
        [one[0].replace("**generate_kwargs", "**kwargs"), *one[1:]] for one in DOCUMENTED[name][method]
    ]
    named = [one for one in documented if one != ["**kwargs"]]

    found, keyword_only = parameters_of(getattr(getattr(watchword, name), method))

    assert found[: len(named)] == named
    assert not {one[0] for one in named} & set(keyword_only)
    if ["**kwargs"] in documented:
        assert ["**kwargs"] in found
    added = [one for one in found[len(named) :] if not one[0].startswith("*")]
    assert all(len(one) == 2 for one in added), f"parameters of ours must have defaults: {added}"
