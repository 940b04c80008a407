"""How long until something happens: `import watchword`, `--help`, and the first word of the embedded model.

    python -m benchmarks.startup

Every figure is the median of fresh processes, from the start of Python to its end; the first word is timed by
its arrival on standard output of `watchword ask`. Then where the time of a first word goes: the same steps in
one process, one after the other. The last line of the output is a JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

CLIP = Path(__file__).parents[1] / "watchword" / "demo" / "clips" / "shapes_1.mp4"

STEPS = """
import json, sys, time
began = last = time.perf_counter()
laps = {}
def lap(name):
    global last
    now = time.perf_counter()
    laps[name], last = now - last, now
import watchword.cli.commands; lap("command line")
import torch; lap("import torch")
import watchword.pipeline; lap("import the pipeline")
pipeline = watchword.load(local_files_only=True); lap("load")
from watchword.media.decode import read_media
clip = read_media(sys.argv[1], pipeline.pick(None)); lap("read the clip")
stream = pipeline.stream(clip.frames, "What happens?"); lap("look")
next(stream); lap("first word")
print(json.dumps(laps))
"""


def seconds(command: list[str], rounds: int, *, first_byte: bool = False) -> float:
    """Median of fresh processes, to their end or to the first byte that they print."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            if first_byte:
                process.stdout.read(1)
                found.append(time.perf_counter() - start)
            process.stdout.read()
        if not first_byte:
            found.append(time.perf_counter() - start)
        assert process.returncode == 0, command
    return statistics.median(found[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    python, rounds = sys.executable, given.rounds
    empty = seconds([python, "-c", "pass"], rounds)
    alone = [python, "-m", "watchword"]
    found = {
        "python": empty,
        "import watchword": seconds([python, "-c", "import watchword"], rounds) - empty,
        "watchword --help": seconds([*alone, "--help"], rounds),
        "watchword ask --help": seconds([*alone, "ask", "--help"], rounds),
        "import torch": seconds([python, "-c", "import torch"], rounds) - empty,
        "first word": seconds([*alone, "ask", str(CLIP), "What happens?"], rounds, first_byte=True),
    }
    command = [python, "-c", STEPS, str(CLIP)]
    laps = [
        json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(rounds)
    ]
    found["steps"] = {name: statistics.median(lap[name] for lap in laps) for name in laps[0]}
    for name, value in found.items():
        if name != "steps":
            print(f"{name:<24}{1000 * value:8.0f} ms")
    for name, value in found["steps"].items():
        print(f"  {name:<22}{1000 * value:8.0f} ms")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
