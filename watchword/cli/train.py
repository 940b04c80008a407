"""`watchword train`: teach a model with one's own pictures and clips."""

import json
from typing import Annotated, Any

import typer

from watchword.cli.shell import guarded, say


def train(
    data: Annotated[
        list[str],
        typer.Argument(
            help="JSON lines, LLaVA or Video-ChatGPT JSON, Parquet, or a folder with .txt sidecars."
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="A folder for the run and the model it makes.")],
    model: Annotated[
        str | None, typer.Option(help="A checkpoint folder or hub id; else the embedded model.")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="What learns: qformer, projector, language, lora, qlora or full.")
    ] = "lora",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in that folder, exactly.")
    ] = False,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 1.0,
    steps: Annotated[int | None, typer.Option(help="Steps in all, in place of passes.")] = None,
    batch: Annotated[int, typer.Option(help="Examples of a step.")] = 16,
    micro: Annotated[int, typer.Option(help="Examples computed at once; fewer take less memory.")] = 4,
    rate: Annotated[float | None, typer.Option(help="Peak of the learning rate; else the recipe's.")] = None,
    warm_up: Annotated[float, typer.Option(help="Steps until the peak, or below 1 the share of all.")] = 0.03,
    decay: Annotated[float | None, typer.Option(help="Weight decay; else the recipe's.")] = None,
    clip: Annotated[float, typer.Option(help="Largest norm of a step's gradients; 0 never clips.")] = 1.0,
    tower_rate: Annotated[float, typer.Option(help="Share of the rate for vision towers.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32 or bfloat16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto (cuda, else mps, else cpu), or one of them.")] = "auto",
    frames: Annotated[int | None, typer.Option(help="Frames of a clip.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most positions of a row.")] = None,
    turns: Annotated[str, typer.Option(help="conversation, or apart: each question alone.")] = "conversation",
    rank: Annotated[int, typer.Option(help="Of adapters.")] = 16,
    alpha: Annotated[float | None, typer.Option(help="Strength of adapters; twice the rank.")] = None,
    dropout: Annotated[float, typer.Option(help="Of adapters.")] = 0.0,
    target: Annotated[
        list[str] | None, typer.Option(help="Linears with adapters: language, qformer, or names; repeat.")
    ] = None,
    quantize: Annotated[str, typer.Option(help="Frozen weights under qlora: nf4 or int8.")] = "nf4",
    recompute: Annotated[bool, typer.Option("--recompute", help="Less memory, a third slower.")] = False,
    cache_features: Annotated[
        bool, typer.Option("--cache-features", help="Keep on disk what frozen vision towers see.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Processes that read clips ahead.")] = 1,
    quick_check: Annotated[
        bool, typer.Option("--quick-check", help="Do not read every picture and clip before the start.")
    ] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Write wrong lines aside and go on.")] = False,
    weight: Annotated[
        list[float] | None, typer.Option(help="How often each data set is drawn from; repeat.")
    ] = None,
    root: Annotated[str | None, typer.Option(help="Where paths in data files begin.")] = None,
    hold_out: Annotated[
        int | None, typer.Option(help="Examples that measure; a twentieth, at most 100.")
    ] = None,
    measure: Annotated[int, typer.Option(help="Steps between two measurements.")] = 200,
    samples: Annotated[int, typer.Option(help="Answers shown each time.")] = 3,
    save: Annotated[int, typer.Option(help="Steps between two checkpoints.")] = 200,
    keep: Annotated[int, typer.Option(help="Checkpoints kept beside the best.")] = 2,
    final: Annotated[str, typer.Option(help="Write the last model at the end, or the best.")] = "last",
    report: Annotated[int, typer.Option(help="Steps between two lines of progress.")] = 10,
    jump: Annotated[float, typer.Option(help="Stop at a loss of so many times the usual; 0 never.")] = 5.0,
    shard: Annotated[bool, typer.Option("--shard", help="Spread weights over processes (FSDP2).")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write for TensorBoard.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came out as JSON.")] = False,
) -> None:
    """Teach a model. All is checked before the first step; a run that was stopped goes on with --resume.

    Several processes: torchrun --nproc-per-node 2 -m watchword train ...
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if name in _SETTINGS}
    given |= {
        "clip": clip or None, "targets": tuple(target) if target else None,
        "weights": tuple(weight) if weight else None, "check": "quick" if quick_check else "full",
    }  # fmt: skip
    with guarded():
        from watchword.train.tuning import run

        found = run(data, out=out, model=model, recipe=recipe, resume=resume, tell=say, **given)
        told = {
            "model": str(found.model),
            "steps": found.steps,
            "loss": found.loss,
            "held_out": found.held_out,
        }
        typer.echo(json.dumps(told) if as_json else str(found.model))


_SETTINGS = frozenset((
    "epochs", "steps", "batch", "micro", "rate", "warm_up", "decay", "tower_rate", "seed", "dtype", "device",
    "frames", "max_length", "turns", "rank", "alpha", "dropout", "quantize", "recompute", "cache_features",
    "workers", "skip_bad", "root", "hold_out", "measure", "samples", "save", "keep", "final", "report",
    "jump", "shard", "tensorboard",
))  # fmt: skip
