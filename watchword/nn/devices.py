"""Which device: the one asked for, the best there is, and what this machine has."""

import torch

from watchword.errors import ConfigError


def best_device() -> torch.device:
    """cuda, else mps, else cpu. mps is untested."""
    mps = torch.backends.mps.is_available()
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")


def chosen_device(asked: object, what: str = "device") -> torch.device:
    """The device asked for, tried; "auto" takes the best there is.

    Args:
        asked: "auto", "cpu", "cuda", "cuda:1", "mps", the number of a card, or a torch device.
        what: the argument's name, for the message.

    Raises:
        ConfigError: no such device, or not on this machine.
    """
    if asked == "auto":
        return best_device()
    try:
        device = torch.device(asked)  # type: ignore[call-overload]
        if device.type == "meta":
            raise TypeError("it holds no values")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise ConfigError(
            f"{what} {str(asked)!r}: not usable here ({reason}); use 'auto', or one that "
            "`watchword doctor` lists"
        ) from error
    return device


def device_rows() -> list[tuple[str, str]]:
    """What `watchword doctor` says about devices: pairs of a name and a finding, one for each device."""
    rows = [("cpu", f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            free, total = torch.cuda.mem_get_info(index)
            half = "bfloat16" if torch.cuda.is_bf16_supported() else "float16 only"
            rows.append(
                (
                    f"cuda:{index}",
                    f"{card.name}, capability {card.major}.{card.minor}, {half}, "
                    f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free, CUDA {torch.version.cuda}",
                )
            )
    elif torch.version.cuda is None:
        rows.append(("cuda", "no: this torch was built without CUDA"))
    else:
        rows.append(
            ("cuda", f"no: torch was built for CUDA {torch.version.cuda}, but finds no card or driver")
        )
    mps = torch.backends.mps
    built = "no: this Mac or its system is too old" if mps.is_built() else "no: not a Mac with Apple silicon"
    rows.append(("mps", "yes (untested)" if mps.is_available() else built))
    return rows
