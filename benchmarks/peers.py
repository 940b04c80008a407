"""This library against its peers at the real shapes: both sides in one run, each in a process of its own.

    python -m benchmarks.folders video_llava /tmp/vl --layers 32
    python -m benchmarks.folders instructblip /tmp/ib --layers 32
    PYTHON benchmarks/peers_llama.py write /tmp/llama.gguf --layers 32

    run="python -m benchmarks.peers run --gguf /tmp/llama.gguf --llama-python PYTHON --out runs.jsonl"
    $run video --folder /tmp/vl --sides bfloat16 int8 int4 transformers llama
    $run picture --folder /tmp/ib --sides int8 int4 transformers llama
    $run beams --folder /tmp/ib --sides int8 transformers
    python -m benchmarks.peers table runs.jsonl

`--sides` takes one or several, so that a long comparison may be run part by part. `--rounds 3` lets the sides
take turns three times, for machines that are fast one minute and slow the next. Lines are added to the file;
of several for one side the table has the medians, of first tokens over all their runs. Work: `video` is 8
frames and 2,087 positions; `picture` is one picture and 46; `beams` is the same with 5 beams. On every
side a first question does not count. The side `int8-unpacked` leaves weights
as they are stored (`load(pack=False)`).
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from watchword.bench import machine, ours, peer, plan
from watchword.pipeline.families import FAMILIES
from watchword.pipeline.opening import read_config
from watchword.weights.sizes import FORMATS

WORKS = {"video": (8, 1, 2087), "picture": (None, 1, 46), "beams": (None, 5, 46)}
"""Frames, beams, and positions of the prompt."""

ROWS = (
    # what is compared, work, field, ours, theirs, at least, aim
    ("Video-LLaVA, 8 frames: first token", "video", "first_token", "int8", "transformers", 2.2, 2.8),
    ("the same", "video", "first_token", "int8-unpacked", "transformers", 2.2, 2.8),
    ("the same", "video", "first_token", "int8", "llama", 2.2, 2.8),
    ("the same", "video", "first_token", "bfloat16", "transformers", 1.35, 1.7),
    ("the same", "video", "first_token", "int4", "transformers", 1.35, 1.7),
    ("decode after 2,087 positions", "video", "step", "int4", "transformers", 10, 15),
    ("the same", "video", "step", "int4", "llama", 1.2, 1.7),
    ("decode after 46 positions", "picture", "step", "int4", "llama", 0.9, 1.0),
    ("InstructBLIP, one picture: first token", "picture", "first_token", "int8", "transformers", 2.2, 3.4),
    ("the same", "picture", "first_token", "int8-unpacked", "transformers", 2.2, 3.4),
    ("InstructBLIP, 5 beams, steps", "beams", "step", "int8", "transformers", 12, 17),
    ("the same", "beams", "step", "int8-unpacked", "transformers", 12, 17),
)
PEAKS = (("int8", 0.60, 0.50), ("int4", 0.42, 0.33))


def made(folder: Path, work: ours.Work, positions: int) -> ours.Work:
    """The work with a question of so many words that the prompt has `positions`."""
    config = plan.family_from_dict(read_config(folder))
    family = FAMILIES[config.model_type]
    words, side = family.words(folder), config.vision_config.image_size

    def asking(count: int) -> ours.Work:
        question = " ".join(f"w{3 + at}" for at in range(count))
        return ours.Work(work.frames, work.tokens, work.beams, work.repeats, question)

    def length(count: int) -> int:
        one = asking(count)
        exchange = ours.Exchange(one.question, (ours.clip_of(one, side),))
        return family.encode(config, words, [exchange]).length

    return asking(1 + positions - length(1))


def one_side(folder: Path, work: ours.Work, side: str) -> dict:
    """Ours, in this process: through `load` and `ask`, as anybody does."""
    form = side.removesuffix("-unpacked")
    packed = form in FORMATS
    how = {"quantize": form, "pack": form == side} if packed else {"dtype": side}
    pipeline, load = ours.timed_load(folder, device="cpu", **how)
    found = ours.measure(pipeline, work, load, f"watchword {side}")
    del pipeline
    what = plan.plan(folder, quantize=form if packed else None, dtype="auto" if packed else side)
    kind = "int8" if form == "int8" else str(what.dtype).removeprefix("torch.")
    words = what.prompt_flops(found.positions, work.frames) - what.tower_flops(work.frames)
    read, matrix = machine.read_rate(), machine.matrix_rate(kind)
    step = what.step_bytes(found.positions + work.tokens // 2, work.beams)
    return found.to_dict() | {
        "read": read,
        "matrix": matrix,
        "step_share": step / read / found.step,
        "words_share": words / matrix / (found.first_token - found.vision),
    }


def their_side(folder: Path, work: ours.Work) -> dict:
    """transformers, in a process that `measure_peer` starts."""
    config = plan.family_from_dict(read_config(folder))
    family = FAMILIES[config.model_type]
    task = ours.peer_task(config, family, family.words(folder), work, str(folder), dtype=torch.bfloat16)
    return peer.measure_peer(task)


def run(given: argparse.Namespace) -> None:
    """Each side in turn, each a line of the file as soon as it is there."""
    frames, beams, positions = WORKS[given.work]
    work = ours.Work(frames, given.tokens, beams, given.repeats)
    failed: list[str] = []
    for side in given.rounds * given.sides:
        if side == "llama":
            command = [given.llama_python, str(Path(__file__).parent / "peers_llama.py"), "run", given.gguf]
            command += ["--positions", str(positions), "--tokens", str(given.tokens)]
            command += ["--repeats", str(given.repeats), "--threads", str(given.threads)]
        else:
            command = [sys.executable, "-m", "benchmarks.peers", "side", given.work, "--sides", side]
            command += ["--folder", str(given.folder), "--tokens", str(given.tokens)]
            command += ["--repeats", str(given.repeats), "--threads", str(given.threads)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{side}: failed\n{done.stderr[-2000:]}", file=sys.stderr)
            failed.append(side)
            continue
        found = json.loads(done.stdout.strip().splitlines()[-1])
        line = json.dumps({"work": given.work, "side": side, "threads": given.threads,
                           "torch": torch.__version__, "beams": work.beams, **found})  # fmt: skip
        print(line, flush=True)
        if given.out:
            with given.out.open("a") as file:
                file.write(line + "\n")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def side(given: argparse.Namespace) -> None:
    """One side, in this process."""
    torch.set_num_threads(given.threads)
    frames, beams, positions = WORKS[given.work]
    work = made(given.folder, ours.Work(frames, given.tokens, beams, given.repeats), positions)
    name = given.sides[0]
    print(json.dumps(their_side(given.folder, work) if name == "transformers" else
                     one_side(given.folder, work, name)))  # fmt: skip


def table(files: list[Path]) -> str:
    """What must be shown, as Markdown: ratios, memory, shares of the limits, and what each side took."""
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]
    sorted_out: dict[tuple[str, str], list[dict]] = {}
    for one in lines:
        sorted_out.setdefault((one["work"], one["side"]), []).append(one)
    found = {key: middle(several) for key, several in sorted_out.items()}
    out = [("work", "ours", "against", "found", "at least", "aim"), ("---",) * 6]
    for what, work, field, mine, theirs, least, aim in ROWS:
        a, b = found.get((work, mine)), found.get((work, theirs))
        if a and b:
            out.append((what, mine, theirs, f"{b[field] / a[field]:.2f} x", f"{least} x", f"{aim} x"))
    for form, most, aim in PEAKS:
        a, b = found.get(("video", form)), found.get(("video", "transformers"))
        if a and b:
            ratio = f"{a['peak'] / b['peak']:.2f} x"
            out.append(("peak memory", form, "transformers", ratio, f"{most} x", f"{aim} x"))
    for (work, name), one in found.items():
        if "step_share" in one:
            rate = f"a read at {one['read'] / 1e9:.1f} GB/s"
            out.append((f"{work}: decode", name, rate, f"{one['step_share']:.0%}", "70 %", "90 %"))
        if "words_share" in one and work == "video":
            rate = f"products at {one['matrix'] / 1e9:.0f} GFLOP/s"
            least = ("50 %", "70 %") if name.startswith("int8") else ("60 %", "80 %")
            out.append((f"{work}: prefill", name, rate, f"{one['words_share']:.0%}", *least))
    heads = ("work", "side", "positions", "load s", "first token s", "steps per s", "vision s", "peak GB")
    out += [(), heads, ("---",) * len(heads)]
    for (work, _), one in found.items():
        vision = "" if one["vision"] is None else f"{one['vision']:.2f}"
        times = (f"{one['load']:.1f}", f"{one['first_token']:.2f}", f"{1 / one['step']:.2f}", vision)
        out.append((work, one["name"], one["positions"], *times, f"{one['peak'] / 1e9:.2f}"))
    return "\n".join(f"| {' | '.join(map(str, row))} |" if row else "" for row in out)


def middle(several: list[dict]) -> dict:
    """The lines of one side as one: medians of what is measured, the rest as in the last."""
    measured = {name for name, value in several[-1].items() if isinstance(value, float | int)}
    found = {name: statistics.median(one[name] for one in several) for name in measured}
    if firsts := [seconds for one in several for seconds in one["runs"]]:
        found["first_token"] = statistics.median(firsts)
    return several[-1] | found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, work in (("run", run), ("side", side)):
        one = commands.add_parser(name)
        one.set_defaults(do=work)
        one.add_argument("work", choices=WORKS)
        one.add_argument("--folder", type=Path, help="of benchmarks.folders")
        one.add_argument("--sides", nargs="+", required=True, help="a format, transformers or llama")
        one.add_argument("--gguf", help="of peers_llama.py")
        one.add_argument("--llama-python", default=sys.executable)
        one.add_argument("--tokens", type=int, default=16)
        one.add_argument("--repeats", type=int, default=5)
        one.add_argument("--rounds", type=int, default=1, help="times that each side has its turn")
        one.add_argument("--threads", type=int, default=2)
        one.add_argument("--out", type=Path, help="a file to which lines are added")
    one = commands.add_parser("table")
    one.add_argument("files", type=Path, nargs="+")
    one.set_defaults(do=lambda given: print(table(given.files)))
    given = parser.parse_args()
    if given.command != "table":
        known = (*FORMATS, "int8-unpacked", "bfloat16", "float32", "transformers", "llama")
        if wrong := [side for side in given.sides if side not in known]:
            parser.error(f"--sides {wrong[0]}: expected some of {', '.join(known)}")
        if "llama" in given.sides and given.gguf is None:
            parser.error("--sides llama: needs --gguf FILE, which peers_llama.py writes")
        if set(given.sides) != {"llama"} and given.folder is None:
            parser.error("--folder: needed; benchmarks.folders writes one")
    given.do(given)


if __name__ == "__main__":
    main()
