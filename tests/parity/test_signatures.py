"""The documented signatures, kept as data, are those of transformers 4.56.2."""

import json
from pathlib import Path

import pytest
import transformers

from tests.hf.test_signatures import DOCUMENTED, METHODS, parameters_of

FILE = Path(__file__).parents[1] / "hf" / "signatures.json"


@pytest.mark.parametrize(("name", "method"), METHODS, ids=[".".join(one) for one in METHODS])
def test_documented_parameters_are_those_of_the_reference(name, method):
    documented = [
        [one[0].replace("**generate_kwargs", "**kwargs"), *one[1:]] for one in DOCUMENTED[name][method]
    ]

    assert parameters_of(getattr(getattr(transformers, name), method))[0] == documented


def test_every_class_of_the_file_is_public():
    import watchword

    assert set(json.loads(FILE.read_text())) <= set(watchword.__all__)
