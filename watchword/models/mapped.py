"""Parts of one model on several devices: `device_map`, through accelerate.

accelerate moves what a module gets to where the module is, and brings offloaded weights when they are needed.
Here is what it can not know: which parts stay in one piece, and which results are expected at home, where the
text model's embedding runs.
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from watchword.errors import ConfigError, MissingExtra
from watchword.nn.devices import best_device, chosen_device
from watchword.shapes import Tensor

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""How parts are spread when no map is given; the names are accelerate's."""

WHOLE = (
    "ClipVision", "EvaVision", "QFormer", "Projector",
    "LlamaLayer", "PreNormLayer", "PostNormLayer", "EncoderBlock", "DecoderBlock",
)  # fmt: skip
"""Classes whose parts stay together: towers, Q-Former and projector of families, layers of text models."""

READ_BY_OWNERS = ["ClipEmbeddings"]
"""Classes that read their children's weights without calling the children."""

BRIDGES = ("multi_modal_projector", "language_projection")
AT_HOME = {
    *BRIDGES, "embed_tokens", "shared", "embed_positions", "project_in", "relative_attention_bias",
    "model", "encoder", "decoder", "lm_head",
}  # fmt: skip
"""Modules whose results meet others in the verbs of families and text models."""

SPARE = 0.9
"""Share of a card's free memory that a model may take whole; the rest is for keys, values and the work."""

Device = str | int | torch.device


@dataclass
class Homes:
    """Where every part of a model goes.

    Args:
        device: where prompts are embedded, and inputs belong.
        parts: name of a module or parameter → device, or "disk"; one entry "" for a single device.
        folder: where parts on disk are written; None without any.
    """

    device: torch.device
    parts: Mapping[str, Device]
    folder: Path | None = None
    _index: dict = field(default_factory=dict)

    @property
    def spread(self) -> bool:
        """Whether keys and values of some layers are on another card than those of others."""
        return len({str(where) for where in self.parts.values()} - {"cpu", "disk"}) > 1

    def place(self, name: str, values: Tensor) -> Tensor:
        """Values to their device; a stand-in for those that went to disk."""
        where = _of(self.parts, name)
        if where != "disk":
            return values.to(where)
        from accelerate.utils import offload_weight

        offload_weight(values, name, self.folder, self._index)
        return values.to("meta")

    def settle(self, model: nn.Module) -> None:
        """After loading: hooks that move what modules get and give, where there is more than one device."""
        model.hf_device_map = dict(self.parts)
        if list(self.parts) == [""]:
            return
        import accelerate
        from accelerate.hooks import remove_hook_from_module
        from accelerate.utils import save_offload_index

        for name, source in ties(model):
            self._share(name, source)
        save_offload_index(self._index, self.folder)
        with _quiet():
            accelerate.dispatch_model(
                model, dict(self.parts), main_device=_main(self.parts), offload_dir=self.folder,
                preload_module_classes=READ_BY_OWNERS,
            )  # fmt: skip
        remove_hook_from_module(
            model
        )  # the root's: it would copy inputs and outputs that are where they belong
        model.home = self.device
        for name, module in model.named_modules():
            inside = name.partition(".")[0] in ("language_model", *BRIDGES)
            if inside and name.rpartition(".")[2] in AT_HOME:
                module.register_forward_hook(lambda _module, _args, result: result.to(self.device))

    def _share(self, name: str, source: str) -> None:
        """Values on disk that the files leave out, because another parameter has them."""
        if source in self._index and name not in self._index:
            shutil.copyfile(f"{self.folder}/{source}.dat", f"{self.folder}/{name}.dat")
            self._index[name] = self._index[source]


def homes(
    model: nn.Module,
    device_map: object,
    *,
    dtype: torch.dtype,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    whole: bool = False,
) -> Homes:
    """Where the parts of a model on the meta device shall go.

    Args:
        device_map: a device for all; a mapping from names of modules to devices or "disk"; or one of
            `STRATEGIES` ("auto" is "balanced"): one card if all fits, else spread over the cards, then the
            host, then the disk.
        dtype: type of the weights in memory.
        max_memory: bytes, or text such as "20GiB", that a card (by number) or "cpu" may take; asks for
            spreading.
        offload_folder: where parts on disk are written.
        whole: "auto" and the like take one card whatever it holds: what is quantized is smaller than it
            looks, and is in one place.

    Raises:
        ConfigError: a map with unknown names, gaps or devices that are not here; `max_memory` with other
            names or no sizes; parts on disk and no folder.
        MissingExtra: more than one device without accelerate.
    """
    folder = None if offload_folder is None else Path(offload_folder)
    if isinstance(device_map, str) and device_map in STRATEGIES:
        one = whole and max_memory is None
        parts = {"": best_device()} if one else spread(model, device_map, dtype, max_memory)
    elif isinstance(device_map, Mapping):
        parts = {str(name): _checked(where) for name, where in device_map.items()}
    else:
        parts = {"": chosen_device(device_map, "device_map")}
    if max_memory is not None and not (isinstance(device_map, str) and device_map in STRATEGIES):
        raise ConfigError(
            f"max_memory with device_map {device_map!r}: only spreading asks for it; use device_map='auto'"
        )
    check(model, parts)
    if "disk" in parts.values():
        _on_disk(parts, folder)
    if len(set(map(str, parts.values()))) == 1:
        parts = {"": next(iter(parts.values()))}
    else:
        import_accelerate("device_map with several devices")
        parts = flat(model, parts)
    return Homes(_home(model, parts), parts, folder)


def spread(
    model: nn.Module, how: str, dtype: torch.dtype, max_memory: Mapping[int | str, int | str] | None
) -> dict[str, Device]:
    """A map for a model of this size on this machine."""
    device = best_device()
    if max_memory is None and (device.type != "cuda" or _fits(model, dtype)):
        return {"": device}
    import_accelerate(f"device_map={how!r} for a model that one card does not hold, or with max_memory")
    from accelerate.utils import get_balanced_memory, get_max_memory, infer_auto_device_map

    if max_memory is not None:
        max_memory = {name: _bytes(name, size) for name, size in max_memory.items()}
    settings = {"no_split_module_classes": list(WHOLE), "dtype": dtype}
    if how == "sequential":
        room = get_max_memory(max_memory)
    else:
        room = get_balanced_memory(model, max_memory, low_zero=how == "balanced_low_0", **settings)
    with _quiet():
        return dict(infer_auto_device_map(model, room, **settings))


def check(model: nn.Module, parts: Mapping[str, Device]) -> None:
    """Each name is a part that may stand alone, and together they are all.

    Raises:
        ConfigError: they are not.
    """
    names = {name for name, _ in (*model.named_modules(), *model.named_parameters(recurse=False))}
    if unknown := [name for name in parts if name not in names]:
        top = sorted({name.partition(".")[0] for name in names} - {""})
        raise ConfigError(
            f"device_map: no part of {type(model).__name__} is called {unknown[0]!r}; expected names such as "
            f"{', '.join(top)}, or those inside language_model"
        )
    for name in parts:
        for outer in list(prefixes(name))[1:-1]:
            kind = type(model.get_submodule(outer)).__name__
            if kind in WHOLE:
                raise ConfigError(
                    f"device_map: {name!r} is inside {outer!r}, and a {kind} stays in one piece; map "
                    f"{outer!r}"
                )
    if missing := [name for name in model.state_dict() if not any(one in parts for one in prefixes(name))]:
        raise ConfigError(
            f"device_map: {len(missing)} tensors of {type(model).__name__} have no device, the first is "
            f"{missing[0]!r}; add its part, or '' for all the rest"
        )
    for name, source in ties(model):
        if str(_of(parts, name)) != str(_of(parts, source)):
            raise ConfigError(
                f"device_map: {name!r} has the values of {source!r}, but they go to {_of(parts, name)} and "
                f"{_of(parts, source)}; give both one device"
            )


def ties(model: nn.Module) -> list[tuple[str, str]]:
    """Parameters that have another's values, and whose."""
    text = getattr(model, "language_model", None)
    pairs = () if text is None else text.tied.items()
    return [(f"language_model.{name}", f"language_model.{source}") for name, source in pairs
            if hasattr(text, name.partition(".")[0])]  # fmt: skip


def flat(model: nn.Module, parts: Mapping[str, Device]) -> dict[str, Device]:
    """The same map without names inside others. A parameter of the model itself is never offloaded: no module
    would bring it when it is needed."""

    def walk(name: str) -> Iterator[tuple[str, Device]]:
        if not any(one != name and name in prefixes(one) for one in parts):
            yield name, _of(parts, name)
            return
        module = model.get_submodule(name)
        for child in (*dict(module.named_children()), *dict(module.named_parameters(recurse=False))):
            yield from walk(f"{name}.{child}" if name else child)

    found = dict(walk(""))
    own = dict(model.named_parameters(recurse=False))
    return {name: _main(parts) if name in own and str(where) in ("cpu", "disk") else where
            for name, where in found.items()}  # fmt: skip


def prefixes(name: str) -> Iterator[str]:
    """The name, then those of what it is in, up to "", which is all."""
    while name:
        yield name
        name = name.rpartition(".")[0]
    yield ""


def _of(parts: Mapping[str, Device], name: str) -> Device:
    """Where a part goes: by its own name, or that of what it is in."""
    return parts[next(one for one in prefixes(name) if one in parts)]


def import_accelerate(why: str) -> None:
    """Make sure that accelerate is there.

    Raises:
        MissingExtra: it is not.
    """
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            f"{why}: needs accelerate, which is not installed; pip install 'watchword[accelerate]', or give "
            "one device"
        ) from error


def _checked(where: object) -> Device:
    """A device of an explicit map: "disk", or one that is here."""
    return "disk" if where == "disk" else chosen_device(where, "device_map")


def _bytes(name: int | str, size: int | str) -> int:
    """How much a card or the host may take.

    Raises:
        ConfigError: no such card, or no such size.
    """
    from accelerate.utils import convert_file_size_to_int

    cards = torch.cuda.device_count()
    if name != "cpu" and name not in range(cards):
        raise ConfigError(
            f"max_memory: {name!r} is neither 'cpu' nor the number of one of the {cards} cards here; name "
            "those"
        )
    try:
        found = convert_file_size_to_int(size)
    except (AttributeError, ValueError):
        found = -1
    if found < 0:
        raise ConfigError(
            f"max_memory: {size!r} for {name!r}; expected bytes, or text such as '20GiB' or '800MB'"
        )
    return found


def _fits(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether the first card holds all of it."""
    free, _ = torch.cuda.mem_get_info(0)
    return sum(tensor.numel() for tensor in model.state_dict().values()) * dtype.itemsize < SPARE * free


def _main(parts: Mapping[str, Device]) -> torch.device:
    """Where offloaded parts are run: the first card of the map, or the host."""
    cards = [where for where in parts.values() if str(where) not in ("cpu", "disk")]
    return torch.device(cards[0] if cards else "cpu")


def _home(model: nn.Module, parts: Mapping[str, Device]) -> torch.device:
    """Where the text model's embedding runs; a model that is in one place is at home there."""
    if list(parts) == [""]:
        return torch.device(parts[""])
    table = model.language_model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    where = _of(parts, name)
    return _main(parts) if str(where) in ("cpu", "disk") else torch.device(where)


def _on_disk(parts: Mapping[str, Device], folder: Path | None) -> None:
    """Refuse what can not be on disk, and make its folder."""
    count = sum(where == "disk" for where in parts.values())
    if folder is None:
        raise ConfigError(
            f"device_map: {count} of {len(parts)} parts are to be on disk, and offload_folder is not given; "
            "name a folder with room for them, or allow more memory"
        )
    if count == len(parts):
        raise ConfigError("device_map: all parts are to be on disk; give at least one of them a device")
    folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """accelerate warns about parameters that belong to no module; query_tokens is one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
