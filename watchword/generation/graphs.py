"""A decode step of fixed shape, for GPUs: recorded once as a CUDA graph, then replayed without Python.

A GPU is done with a step sooner than Python has asked for it. So keys and values lie in one rectangle that
does not move (`StaticCache`), a step sees its first rows and slots, rounded up, with the places of the rows
as tensors (`Window`), and what was recorded for that many rows and slots serves every later step that fits.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from watchword.errors import ConfigError, RequestError
from watchword.generation.cache import KVCache
from watchword.generation.engine import Decoder
from watchword.generation.rows import Rows
from watchword.nn.attention import Attended, CacheSpec, attention
from watchword.nn.lora import BASE, CHOSEN
from watchword.shapes import Bool, Float, Int, Tensor

SLOTS = 512
"""Slots are rounded up to a multiple of this: every multiple is recorded once, and its unused end is read."""

SHAPES = 256
"""Shapes of a step that are compiled before torch gives up compiling; its own limit is 8 for all models of a
process, and a batch of up to 32 rows has 6."""

WARM_UPS = 3
"""Runs before a recording, in which libraries choose kernels and make their workspaces."""

Run = Callable[[], Tensor]
Record = Callable[[Run], Run]
"""Takes a step that reads and writes fixed memory; returns what does the same from then on."""


class StaticCache(Rows):
    """The running batch's keys and values in one rectangle: layers, 2, rows, g, slots, d.

    It has the verbs by which a batch lets rows join, change places and leave. It grows, which is a new
    rectangle and forgets what was recorded, and never shrinks.

    Args:
        spec: what the decoder wants remembered.
        dtype: type of the keys and values.
        device: where they are.
    """

    def __init__(self, spec: CacheSpec, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__(spec, 0, 0, dtype, device)
        self.store = self._rectangle(0, 0)
        self.steps: dict[tuple[int, int], tuple[Window, Run]] = {}

    def _rectangle(self, rows: int, slots: int) -> Float[Tensor, "layers 2 r g s d"]:
        shape = (self.spec.layers, 2, rows, self.spec.heads, slots, self.spec.head_dim)
        return torch.zeros(
            shape, dtype=self.dtype, device=self.lengths.device
        )  # a masked slot must be finite

    def fit(self, rows: int, slots: int) -> None:
        """Make the rectangle as large as that, rounded up."""
        old = self.store
        rows, slots = max(power(rows), old.shape[2]), max(multiple(slots), old.shape[4])
        if (rows, slots) != (old.shape[2], old.shape[4]):
            self.store = self._rectangle(rows, slots)
            self.store[:, :, : old.shape[2], :, : old.shape[4]] = old
            self.steps.clear()

    def append_rows(self, other: KVCache) -> None:
        """The rows of another cache join behind those that are here; the other cache stays as it is."""
        at, longest = self.rows, other.longest
        self.fit(at + other.rows, max(self.capacity, longest + 1))
        for row in range(other.rows):
            self.store[:, :, at + row, :, :longest] = other.read(row, 0, longest)
            self.store[:, :, at + row, :, longest:] = 0
        self.lengths = torch.cat([self.lengths, other.lengths])
        self._measure()

    def restarted(self, other: KVCache) -> "StaticCache":
        """This cache with another's rows instead of its own."""
        self.remove(range(self.rows))
        self.capacity = 0
        self.append_rows(other)
        return self

    def remove(self, rows: Iterable[int]) -> list[int]:
        """These rows leave, and the last ones take their places; for each row that is now, which it was."""
        gone = set(rows)
        left = self.rows - len(gone)
        order = list(range(left))
        come = [row for row in range(left, self.rows) if row not in gone]
        free = [row for row in range(left) if row in gone]
        for row, source in zip(free, come):
            order[row] = source
            self.store[:, :, row] = self.store[:, :, source]
        self._relabel(torch.tensor(order, dtype=torch.long, device=self.lengths.device))
        return order

    def exchange(self, into: Sequence[int], source: Sequence[int], start: int) -> None:
        """Rows `into` become what rows `source` were: equally long ones, the same before slot `start`."""
        to, come = (torch.tensor(rows, device=self.lengths.device) for rows in (into, source))
        changing = self.store[..., start : self.longest, :]
        changing[:, :, to] = changing[:, :, come]

    def read(self, row: int, start: int, end: int) -> Float[Tensor, "layers 2 g n d"]:
        """A copy of keys and values of slots `start` to `end` - 1 of a row."""
        return self.store[:, :, row, :, start:end].clone()

    def picked(self, rows: Sequence[int]) -> KVCache:
        """An ordinary cache with these rows, copied."""
        cache = KVCache(self.spec, 0, 0, self.dtype, self.lengths.device)
        for row in rows:
            length = int(self.lengths[row])
            one = KVCache(self.spec, 1, length, self.dtype, self.lengths.device)
            one.fill([self.read(row, 0, length)])
            cache.append_rows(one)
        return cache


class Window:
    """What steps of one shape see and are told, in memory that stays where it is.

    Attributes:
        ids: the token of each row; rows beyond the batch's have some other and their scores mean nothing.
        places: the slot where each row's token belongs.
    """

    def __init__(self, store: Float[Tensor, "layers 2 r g s d"], rows: int, slots: int) -> None:
        self.store = store[:, :, :rows, :, :slots]
        self.slots = slots
        self.ids = torch.zeros(rows, dtype=torch.long, device=store.device)
        self.places = torch.zeros(rows, dtype=torch.long, device=store.device)
        self.rows = torch.arange(rows, device=store.device)


class Pass:
    """One step through a window; fits `nn.attention.Cache`. Lengths are counted outside."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.masks: dict[int | None, Tensor] = {}  # one for all layers

    def layer(self, index: int) -> "PassLayer":
        """The part that belongs to layer `index`."""
        return PassLayer(self, self.window.store[index, 0], self.window.store[index, 1])

    def span(self, length: int, device: torch.device) -> tuple[Int[Tensor, "B 1"], int]:
        """Where the next token of each row belongs, and how many slots it faces, empty ones too."""
        return self.window.places[:, None], self.window.slots

    def advance(self, counts: Int[Tensor, "B"] | int) -> None:
        """Nothing: the same step is run again and again."""

    def mask(self, reach: int | None) -> Bool[Tensor, "B 1 1 S"]:
        """Slots up to each row's own; `reach` of them at most."""
        if reach not in self.masks:
            place = self.window.places[:, None, None, None]
            slot = torch.arange(self.window.slots, device=place.device)
            seen = slot <= place
            self.masks[reach] = seen if reach is None else seen & (slot > place - reach)
        return self.masks[reach]


class PassLayer:
    """One layer of a `Pass`; fits `nn.attention.LayerCache`."""

    def __init__(self, whole: Pass, keys: Float[Tensor, "B g S d"], values: Float[Tensor, "B g S d"]) -> None:
        self.whole, self.keys, self.values = whole, keys, values

    def attend(
        self,
        q: Float[Tensor, "B h 1 d"],
        k: Float[Tensor, "B g 1 d"],
        v: Float[Tensor, "B g 1 d"],
        *,
        scale: float | None = None,
        bias: Tensor | None = None,
        window: int | None = None,
        dropout: float = 0.0,
        backend: str = "sdpa",
        want_weights: bool = False,
    ) -> Attended:
        """Write each row's slot and attend to those before it.

        Heads that share keys stand as further queries of one head, so that keys are read once, not copied.
        Masks rule FlashAttention out; its place is the prefill.
        """
        at = self.whole.window
        self.keys[at.rows, :, at.places] = k[:, :, 0].to(self.keys.dtype)
        self.values[at.rows, :, at.places] = v[:, :, 0].to(self.values.dtype)
        shared = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
        out, _ = attention(
            shared,
            self.keys.to(q.dtype),
            self.values.to(q.dtype),
            mask=self.whole.mask(window),
            scale=scale,
            backend="eager" if backend == "eager" else "sdpa",
        )
        return out.reshape(q.shape), None

    def cross(self, q: Tensor, keys: Callable[[], Any], **settings: Any) -> Attended:
        """Not here: see `Stepper`."""
        raise ConfigError(
            "compile: a text model with an encoder; expected LLaMA, Mistral or OPT; leave it out"
        )


class Stepper:
    """A decoder whose steps over a `StaticCache` are recorded and replayed; fits `engine.Decoder`.

    Args:
        decoder: the model.
        record: how a step becomes its recording; `recorder` for a GPU.

    Raises:
        ConfigError: an encoder-decoder model.
    """

    def __init__(self, decoder: Decoder, record: Record) -> None:
        if decoder.cache_spec.cross:
            raise ConfigError(
                "compile: the text model has an encoder (T5), and steps of fixed shape are implemented for "
                "LLaMA, Mistral and OPT; leave compile out"
            )
        self.decoder, self.record = decoder, record
        self.cache_spec = decoder.cache_spec
        self.piecewise, self.max_positions = decoder.piecewise, decoder.max_positions
        self.prefill, self.extend = decoder.prefill, decoder.extend

    def decode(self, ids: Int[Tensor, "B"], cache: StaticCache | KVCache) -> Float[Tensor, "B V"]:
        """One more token per row; scores of the next, good until the next step."""
        if not isinstance(cache, StaticCache):
            return self.decoder.decode(ids, cache)
        chosen = CHOSEN.get()
        if chosen is not None and chosen != BASE:
            raise RequestError(
                "compile: an adapter was asked for, and recorded steps know none; load without compile"
            )
        window, run = self.step(cache)
        count = len(ids)
        window.ids[:count], window.places[:count] = ids, cache.lengths
        window.places[count:] = 0
        scores = run()[:count]
        cache.advance(1)
        return scores

    def step(self, cache: StaticCache) -> tuple[Window, Run]:
        """The recording that fits the cache as it is, made if there is none."""
        slots = multiple(cache.longest + 1)
        if self.max_positions is not None:
            slots = min(slots, max(self.max_positions, cache.longest + 1))  # no more than were learned
        cache.fit(cache.rows, slots)
        shape = power(cache.rows), slots
        if shape not in cache.steps:
            window = Window(cache.store, *shape)
            window.places[: cache.rows] = cache.lengths  # warm-up runs write, and only where the step will
            # of a cache a model needs no more than `nn.attention.Cache` and `advance`
            run: Run = lambda: self.decoder.decode(window.ids, Pass(window))  # type: ignore[arg-type] # noqa: E731
            cache.steps[shape] = window, self.record(run)
        return cache.steps[shape]


def recorder(device: torch.device, *, compiled: bool = True) -> Record:
    """How steps are recorded on a GPU.

    Args:
        compiled: fuse the step by `torch.compile` first.

    Raises:
        ConfigError: a device that knows no CUDA graphs.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"compile: device {str(device)!r}; expected a CUDA device, for steps become CUDA graphs; leave "
            "compile out"
        )

    if compiled and not hasattr(PassLayer.attend, "_torchdynamo_disable"):
        # Compiled, writing into a part of the rectangle would copy all of it, in every layer. What is between
        # is the same code in all layers, and is compiled once.
        PassLayer.attend = torch.compiler.disable(PassLayer.attend)  # type: ignore[method-assign]

    def record(run: Run) -> Run:
        return captured(fused(run) if compiled else run, device)

    return record


def fused(run: Run, backend: str = "inductor") -> Run:
    """The step compiled, for its shape."""
    from torch._dynamo import config

    step = torch.compile(run, dynamic=False, backend=backend)

    def call() -> Tensor:
        with config.patch(recompile_limit=SHAPES):
            return step()

    return call


@torch.no_grad()
def captured(run: Run, device: torch.device) -> Run:
    """The step as a CUDA graph. Other threads may go on using the GPU meanwhile."""
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        scores = run()

    def replay() -> Tensor:
        graph.replay()
        return scores

    return replay


def power(rows: int) -> int:
    """The next power of two."""
    return 1 << max(rows - 1, 0).bit_length()


def multiple(slots: int) -> int:
    """The next multiple of `SLOTS`."""
    return -(-slots // SLOTS) * SLOTS
