"""Where a model goes when it is opened, and how its steps run: one device, several, ranks, recorded steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from watchword.errors import ConfigError
from watchword.generation.engine import Decoder
from watchword.generation.graphs import Stepper, recorder
from watchword.models.mapped import Homes, homes
from watchword.models.parallel import Shares, rank_device
from watchword.nn.devices import chosen_device

PLACING = ("device_map", "max_memory", "offload_folder", "parallel", "compile")
"""The arguments of `load` that are read here."""


def checked_device(device: str | torch.device, more: Mapping[str, Any], **others: object) -> torch.device:
    """The device asked for; under parallel this rank's.

    Args:
        more: the arguments of `load` by name; those of `PLACING` count.
        **others: arguments that do not go with several devices, by name; None where not given.

    Raises:
        ConfigError: a device that is not here, or arguments that contradict each other.
    """
    parallel, device_map, compiled = (more.get(name) for name in ("parallel", "device_map", "compile"))
    if parallel not in (None, "tensor"):
        raise ConfigError(f"parallel {parallel!r}: not implemented; expected 'tensor' or None")
    if compiled not in (None, False, True, "graph"):
        raise ConfigError(f"compile {compiled!r}: expected True, 'graph' or False")
    spread = {"parallel='tensor'": parallel, "device_map": device_map}
    given = [name for name, value in spread.items() if value is not None]
    if len(given) == 2:
        raise ConfigError("parallel='tensor' and device_map: both say where the model goes; give one of them")
    others = {**others, "compile": compiled or None}
    if device_map is not None:
        others.pop(
            "quantize", None
        )  # goes with one device, whatever the map is called; checked where it is read
    if given and (also := [name for name, value in others.items() if value is not None]):
        raise ConfigError(
            f"{given[0]} and {also[0]}: not implemented together; expected one of them; leave the other out"
        )
    if compiled and others.get("adapter") is not None:
        raise ConfigError("compile and adapter: recorded steps know no adapters; merge the adapter, or leave "
                          "compile out")  # fmt: skip
    if device_map is not None and device != "auto":
        raise ConfigError(f"device {str(device)!r} and device_map: both say where the model goes; give one")
    found = rank_device(device) if parallel else chosen_device(device)
    if compiled:
        recorder(found)  # says now whether it can
    return found


def spots(
    model: nn.Module, device: torch.device, more: Mapping[str, Any], dtype: torch.dtype, *, quantized: bool
) -> Homes | Shares:
    """Where loading puts the values of a model on the meta device; of a quantized one on a single device."""
    if more.get("parallel"):
        return Shares(model, device)
    device_map = device if more.get("device_map") is None else more["device_map"]
    limits = {name: more[name] for name in ("max_memory", "offload_folder") if name in more}
    return homes(model, device_map, dtype=dtype, whole=quantized, **limits)


def stepping(text: nn.Module, device: torch.device, more: Mapping[str, Any]) -> Decoder:
    """The text model as the engine gets it: itself, or with recorded steps."""
    compiled = more.get("compile")
    return Stepper(text, recorder(device, compiled=compiled is True)) if compiled else text
