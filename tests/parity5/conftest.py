"""Folders of transformers 5; collected only where it is installed (scripts/parity5)."""

import importlib.metadata
import importlib.util

from tests.parity import conftest

# The operators that torchvision's registrations expect; alive as long as this module.
torchvision = conftest._torchvision

_installed = importlib.util.find_spec("transformers") and importlib.metadata.version("transformers")
collect_ignore_glob = [] if _installed and int(_installed.split(".")[0]) >= 5 else ["test_*.py"]
