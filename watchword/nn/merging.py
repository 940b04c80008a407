"""Fewer visual tokens: those that are most alike become one, without any training.

Source: Token Merging (ToMe), Bolya et al., ICLR 2023, arXiv:2210.09461: bipartite soft matching. There it is
between the layers of a vision transformer; here once, on what the projector made of a whole picture or clip,
so that what does not change between frames is told once. The attention that weighs by size is left out, for
the language model stays as it is.
"""

import torch
from torch.nn.functional import normalize

from watchword.shapes import Float, Tensor


def kept_count(full: int, wanted: float | None) -> int:
    """How many of `full` tokens stay.

    Args:
        full: tokens of a picture or clip.
        wanted: a share above 0 and up to 1, a whole number of tokens from 2 on, or None for all.
    """
    if wanted is None:
        return full
    return max(1, round(full * wanted)) if wanted <= 1 else min(full, int(wanted))


@torch.no_grad()
def merge_tokens(tokens: Float[Tensor, "M D"], count: int) -> Float[Tensor, "m D"]:
    """Merge until `count` tokens are left, in the order in which they were.

    In each round every second token looks for the most alike of the others; the most alike pairs become their
    mean, weighted by how many tokens each is already. A round at most halves the number.
    """
    x, sizes = tokens.float(), tokens.new_ones(len(tokens), dtype=torch.float32)
    while len(x) > count:
        unit = normalize(x, dim=-1)
        likeness, partner = (unit[0::2] @ unit[1::2].T).max(dim=1)
        most = min(len(x) - count, len(x) // 2)
        gone = likeness.argsort(descending=True, stable=True)[:most]
        source, into = 2 * gone, 2 * partner[gone] + 1
        sums = (x * sizes[:, None]).index_add(0, into, x[source] * sizes[source, None])
        sizes = sizes.index_add(0, into, sizes[source])
        left = torch.ones(len(x), dtype=torch.bool, device=x.device)
        left[source] = False
        x, sizes = (sums / sizes[:, None])[left], sizes[left]
    return x.to(tokens.dtype)
