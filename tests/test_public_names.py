"""The public names: complete, lazy, and quick to import."""

import subprocess
import sys

import pytest

import watchword


def test_import_does_not_load_torch():
    code = (
        "import sys, watchword\n"
        "from watchword import VideoLlavaConfig, RequestError, errors\n"
        "VideoLlavaConfig()\n"
        "print(sorted({'torch', 'numpy', 'av', 'PIL', 'tokenizers', 'transformers'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", watchword.__all__)
def test_public_name_resolves(name):
    assert getattr(watchword, name) is not None
    assert name in dir(watchword)


def test_unknown_name_lists_the_public_ones():
    with pytest.raises(
        AttributeError,
        match="module 'watchword' has no attribute 'Watch'; public names: BitsAndBytesConfig, ",
    ):
        _ = watchword.Watch
