"""What a run says of itself: what learns, what it takes, how far it is."""

from collections.abc import Iterator

from watchword.train.checking import Checked
from watchword.train.masters import Masters
from watchword.train.opening import Opened, counts
from watchword.train.recipes import Recipe


def introduced(opened: Opened, recipe: Recipe, masters: Masters, data: Checked, steps: int) -> Iterator[str]:
    """Before the first step."""
    yield f"{opened.name} ({opened.config.model_type}) on {opened.device}, recipe {recipe.name}"
    yield f"learns: {recipe.learns}"
    parts = counts(opened.model)
    for part, (learns, total) in parts.items():
        yield f"  {part:<24} {learns:>14,} of {total:>14,} parameters"
    learns, total = (sum(one[k] for one in parts.values()) for k in (0, 1))
    yield f"  {'all':<24} {learns:>14,} of {total:>14,} parameters ({100 * learns / max(total, 1):.3g} %)"
    yield memory(opened, masters)
    rows = sum(len(group) for group in data.groups)
    yield (
        f"data: {rows} examples in {len(data.groups)} sets, longest {max(data.lengths)} positions, "
        f"{sum(data.learned):,} tokens of answers; {steps} steps"
    )


def memory(opened: Opened, masters: Masters) -> str:
    """What the model and its optimizer take; what a batch takes on its way comes on top."""
    stored = [*opened.model.parameters(), *opened.model.buffers()]
    weights = sum(one.numel() * one.element_size() for one in stored)
    beside = sum(4 * one.numel() for name, one in masters.masters.items() if one is not masters.weights[name])
    learning = sum(one.numel() for one in masters.masters.values())
    parts = {"weights": weights, "masters": beside, "gradients": 4 * learning, "optimizer": 8 * learning}
    told = ", ".join(f"{name} {size_of(size)}" for name, size in parts.items())
    return f"memory: {told}; {size_of(sum(parts.values()))} in all, and activations of a batch on top"


def size_of(bytes_: float) -> str:
    """Bytes as people read them.

    >>> size_of(1_800_000)
    '1.8 MB'
    """
    for unit in ("bytes", "kB", "MB"):
        if bytes_ < 1000:
            return f"{bytes_:.3g} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.3g} GB"


def time_of(seconds: float) -> str:
    """Seconds as people read them.

    >>> time_of(59), time_of(3700)
    ('0:59', '1:01:40')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
