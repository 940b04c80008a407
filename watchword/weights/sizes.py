"""How much memory a model will take, by arithmetic on shapes, before anything is loaded.

Weights and keys are exact. Activations follow a rule of thumb that was measured: see `activation_bytes`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from watchword.errors import CapacityError, ConfigError
from watchword.nn.memory import Memory, gib

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of every parameter by its name in the model."""


@dataclass(frozen=True)
class Format:
    """How a packed matrix is held.

    Args:
        bits: of one value.
        group: values of a row that share `scale`; 0 when the whole row does.
        scale: bytes beside each group: scales, and zeros where there are any.
        plain: further bytes for each group, which files and copies need and no product reads.
    """

    bits: int
    group: int = 0
    scale: int = 0
    plain: int = 0


FORMATS: Mapping[str, Format] = {
    "int8": Format(8, scale=4),
    "int4": Format(4, group=64, scale=4, plain=2),
    "nf4": Format(8, group=64, scale=8, plain=4),
    "fp4": Format(8, group=64, scale=8, plain=4),
}
"""The packed formats of `quantize=` as they run on a CPU. There nf4 and fp4 are sums of two planes of 4 bits
(see `nn.blockwise.BlockLinear`)."""

ON_CARD = {**FORMATS, **dict.fromkeys(("nf4", "fp4"), Format(4, group=64, scale=4))}
"""The same on a card, where products look values up in the code book."""

BLOCK = 256
"""Rows of a prompt whose attention is computed at once."""

PROCESS = 400 * 2**20
"""What the process takes before a model is there: torch, the video reader and their libraries; measured."""


def matrix_bytes(shape: tuple[int, ...], how: Format, *, read: bool = False) -> int:
    """Bytes of one matrix (rows, values in a row) and its scales; `read`: those that a product reads."""
    rows, width = math.prod(shape[:-1]), shape[-1]
    groups = -(-width // how.group) if how.group else 1
    beside = how.scale if read else how.scale + how.plain
    return rows * (width * how.bits // 8 + groups * beside)


def weight_bytes(
    shapes: Shapes,
    dtype: torch.dtype,
    packed: Mapping[str, str] = MappingProxyType({}),
    *,
    read: bool = False,
    card: bool = False,
) -> dict[str, int]:
    """Bytes of the weights of each part of the model: vision tower, Q-Former, text model and so on.

    Args:
        shapes: of all parameters. Tied ones belong in it once.
        dtype: type of what stays dense.
        packed: of each parameter that does not, its format: a key of `FORMATS`.
        read: count what a product reads, not what is held.
        card: as held by a card.

    Raises:
        ConfigError: an unknown format.
    """
    found: dict[str, int] = {}
    for name, shape in shapes.items():
        form = packed.get(name)
        if form is not None and form not in FORMATS:
            raise ConfigError(f"{name}: format {form!r}: unknown; expected one of {', '.join(FORMATS)}")
        if form is None:
            size = math.prod(shape) * dtype.itemsize
        else:
            size = matrix_bytes(shape, (ON_CARD if card else FORMATS)[form], read=read)
        part = name.split(".")[0]
        found[part] = found.get(part, 0) + size
    return found


def cache_bytes(text: Any, positions: int, rows: int = 1, *, new: int = 0, itemsize: int = 2) -> int:
    """Bytes of the keys and values of `rows` rows.

    Args:
        text: the config of the text model.
        positions: of the prompt, for each row.
        rows: beams, samples or requests at a time.
        new: further positions, for the answer.
        itemsize: bytes of one value.
    """
    heads = getattr(text, "num_key_value_heads", text.num_attention_heads)
    width = getattr(text, "head_dim", text.hidden_size // text.num_attention_heads)
    layers = getattr(text, "num_decoder_layers", text.num_hidden_layers)  # T5: the encoder keeps nothing
    return 2 * layers * heads * width * rows * (positions + new) * itemsize


def activation_bytes(
    text: Any, shapes: Shapes, positions: int, *, piece: int = 2560, itemsize: int = 2
) -> int:
    """Bytes in flight while a prompt runs, by a rule of thumb.

    A piece of the prompt with eight rows of model width and three of the MLP's; the scores of a block of its
    attention, once as they are and once in float32; and one matrix, which the product may lay out anew.
    Measured: benchmarks/fit.md.

    Args:
        piece: the most that the engine runs at once: five of its pieces, where nobody waits.
    """
    rows = min(piece, positions)
    stack = {name: shape for name, shape in shapes.items()
             if name.startswith("language_model.") and "layers." in name and len(shape) == 2}  # fmt: skip
    inner = max((shape[0] for shape in stack.values()), default=0)
    largest = max(map(math.prod, stack.values()), default=0)
    flow = rows * (8 * text.hidden_size + 3 * inner) * itemsize
    scores = text.num_attention_heads * min(BLOCK, rows) * positions * (itemsize + 4)
    return flow + scores + largest * itemsize


@dataclass(frozen=True)
class Need:
    """Bytes that a model will take.

    Attributes:
        weights: by part.
        cache: keys and values of the rows at work.
        kept: keys and values kept for later questions.
        activations: in flight while a prompt runs.
        process: before a model is there.
    """

    weights: Mapping[str, int]
    cache: int
    kept: int
    activations: int
    process: int = PROCESS

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.weights.values()) + self.cache + self.kept + self.activations + self.process

    def rows(self) -> dict[str, int]:
        """Each line of a table."""
        return {
            **self.weights,
            "keys and values": self.cache,
            "kept for later": self.kept,
            "at work": self.activations,
            "process": self.process,
        }


def need(
    shapes: Shapes,
    text: Any,
    dtype: torch.dtype,
    packed: Mapping[str, str] = MappingProxyType({}),
    *,
    positions: int,
    rows: int = 1,
    new: int = 128,
    keep: int = 0,
    card: bool = False,
) -> Need:
    """What a model takes; arguments as for `weight_bytes` and `cache_bytes`.

    Args:
        keep: the budget for what is kept for later questions, in bytes.
    """
    return Need(
        weights=weight_bytes(shapes, dtype, packed, card=card),
        cache=cache_bytes(text, positions, rows, new=new, itemsize=dtype.itemsize),
        kept=min(keep, cache_bytes(text, positions, itemsize=dtype.itemsize)),
        activations=activation_bytes(text, shapes, positions, itemsize=dtype.itemsize),
    )


def check_fits(wanted: Need, there: Memory, where: str) -> None:
    """Refuse what will not fit, before the machine begins to swap.

    Raises:
        CapacityError: it does not fit.
    """
    if there.available is None or wanted.total <= there.available:
        return
    raise CapacityError(
        f"{where}: needs about {gib(wanted.total)} ({gib(sum(wanted.weights.values()))} of weights), and "
        f"{there.where} is {gib(there.available)}; close other programs, or load it smaller: "
        "quantize='int8' or 'int4', fewer positions or rows (`watchword fit` shows each)"
    )
