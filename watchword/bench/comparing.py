"""One run: ours, the peer if asked for, and the machine's limits, one after the other."""

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from watchword.bench import ours, peer, plan, table
from watchword.bench.table import Found
from watchword.errors import RequestError
from watchword.nn.devices import chosen_device
from watchword.pipeline import opening
from watchword.weights import hub

PEERS = ("transformers",)


def compare(
    model: str | None,
    work: ours.Work,
    *,
    against: str | None = None,
    threads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    quantize: str | None = None,
    pack: bool = True,
    dtype: str = "auto",
    device: str = "auto",
    offline: bool = False,
) -> Found:
    """Measure a checkpoint; the other arguments are those of `load`.

    Args:
        model: folder or hub id; None for the embedded model.
        work: what is asked; without frames, a clip or picture as the family takes it.
        against: a key of `PEERS`.
        threads: of the processor; None leaves torch's choice.
        say: told what is being done.

    Raises:
        RequestError: an unknown peer, or one that cannot do the same.
        MissingExtra: the peer is not installed.
    """
    if against is not None:
        check_peer(against)
    if threads is not None:
        torch.set_num_threads(threads)
    folder = opening.EMBEDDED if model is None else hub.fetch(model, local_files_only=offline)
    made = plan.plan(folder, quantize=quantize, dtype=dtype, device=chosen_device(device))
    work = replace(work, frames=work.frames or made.frames)
    if work.frames is not None and made.frames is None and against is not None:
        raise RequestError(
            f"bench: frames={work.frames} against {against}, whose {made.config.model_type} takes pictures "
            "only; leave out the frames"
        )
    if against is not None and getattr(made.config, "quantization_config", None) is not None:
        raise RequestError(
            f"bench: {folder} is quantized ({made.form}), which {against} does not read; give the dense "
            f"folder and --quantize {made.form}"
        )
    how: dict[str, Any] = {"device": device, "dtype": dtype, "pack": pack, "local_files_only": offline}
    how |= {} if quantize is None else {"quantize": quantize}
    say("ours")
    pipeline, load = ours.timed_load(folder, **how)
    sides = [ours.measure(pipeline, work, load, f"watchword {made.form}")]
    where, seen = pipeline.device, (pipeline.model.config, pipeline.family, pipeline.words)
    task = ours.peer_task(*seen, work, str(folder), dtype=pipeline.dtype, device=where)
    del pipeline
    gc.collect()
    if against is not None:
        mine = sides[0]
        if mine.positions != len(task["ids"]):
            raise RequestError(
                f"bench: our prompt has {mine.positions} positions and that of {against} {len(task['ids'])}; "
                "expected the same; leave out --frames"
            )
        say(f"first token {mine.first_token:.4g} s, further ones {mine.step:.4g} s each; now {against}")
        sides.append(ours.Measured(**peer.measure_peer(task)))
    say("the machine")
    most = table.limits(made, where)
    plans = [made, replace(made, form=str(made.dtype).removeprefix("torch."), packed={})]
    limits = [most, most if len(sides) == 1 else table.limits(plans[1], where)]
    tables = [table.rows(*one) for one in zip(sides, [work, work], plans, limits)]
    return Found(
        sides, tables, work, made.form, model or "embedded", str(where), torch.get_num_threads(), most
    )


def check_peer(against: str) -> None:
    """Refuse a peer before minutes are spent on our side."""
    if against not in PEERS:
        raise RequestError(f"bench: --against {against!r}: unknown; expected one of {', '.join(PEERS)}")
    peer.check_installed()
