"""One placeholder becomes as many as its medium has visual tokens; and are there as many as there should
be?"""

from collections.abc import Iterable, Sequence

from watchword.errors import RequestError


def expand_text(texts: Sequence[str], placeholder: str, counts: Sequence[int], medium: str) -> list[str]:
    """Repeat each placeholder in the texts, the first as often as `counts` says for the first medium, and so
    on.

    Args:
        placeholder: for example `<image>`.
        counts: visual tokens of each medium, in the order of the placeholders over all texts.
        medium: what to call it in the error, for example "image".

    Raises:
        RequestError: the texts hold more or fewer placeholders than there are media.
    """
    found = [text.count(placeholder) for text in texts]
    if sum(found) != len(counts):
        raise RequestError(
            f"the texts hold {sum(found)} {placeholder} ({found} per text) and {len(counts)} {medium}(s) "
            "were given; "
            f"write one {placeholder} for each {medium}, where it belongs"
        )
    remaining = iter(counts)
    expanded = []
    for text in texts:
        first, *rest = text.split(placeholder)
        expanded.append(first + "".join(placeholder * next(remaining) + piece for piece in rest))
    return expanded


def expand_ids(ids: Iterable[int], placeholder: int, counts: Sequence[int]) -> list[int]:
    """The same on ids: each placeholder id repeated by its medium's count.

    Raises:
        RequestError: the ids hold more or fewer placeholders than there are counts.
    """
    ids = list(ids)
    if ids.count(placeholder) != len(counts):
        raise RequestError(
            f"the ids hold {ids.count(placeholder)} placeholders (id {placeholder}) for {len(counts)} media; "
            "expected one each"
        )
    remaining = iter(counts)
    return [index for one in ids for index in ([one] * next(remaining) if one == placeholder else [one])]


def check_kept(
    texts: Sequence[str], rows: Sequence[Iterable[int]], placeholder: str, index: int, medium: str
) -> None:
    """Every placeholder of the texts must be an id of its own in the rows.

    Raises:
        RequestError: truncation cut some away, or the tokenizer does not know the placeholder.
    """
    in_ids = [list(row).count(index) for row in rows]
    in_text = [text.count(placeholder) for text in texts]
    if in_ids != in_text:
        raise RequestError(
            f"Mismatch in `{medium}` token count between text and `input_ids`: ids={in_ids} and "
            f"text={in_text}. Truncation "
            f"cut visual tokens away, or {placeholder} is no token of this tokenizer; raise max_length or "
            "don't truncate"
        )
