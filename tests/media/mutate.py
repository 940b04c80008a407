"""Read many damaged files in one process of limited memory, and say what came of them."""

import faulthandler
import json
import logging
import sys
import time
import warnings

import numpy as np

from tests.media import hostile
from watchword.errors import MediaError
from watchword.media import confine, read_media
from watchword.media.policy import STRICT


def main(count: int) -> None:
    """Read `count` mutations, the same ones each time."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    logging.disable()
    seeds = list(hostile.seeds().items())
    confine.limit(4 * 1024**3, None, 2**30)
    policy = hostile.policy_in(".")
    policy = type(STRICT)(**{**vars(policy), "max_pixels": 4_000_000})
    found = {"read": 0, "refused": 0, "other": [], "slowest": 0.0}
    for number in range(count):
        name, content = seeds[number % len(seeds)]
        damaged = hostile.mutated(content, np.random.default_rng(number))
        start = time.monotonic()
        try:
            read_media(damaged, policy=policy)
            found["read"] += 1
        except MediaError:
            found["refused"] += 1
        except Exception as error:
            found["other"].append(f"{number} {name}: {type(error).__name__}: {error}")
        found["slowest"] = max(found["slowest"], time.monotonic() - start)
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
