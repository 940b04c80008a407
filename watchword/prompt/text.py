"""What text is: characters that UTF-8 can spell, which strings of Python need not be."""

from watchword.errors import RequestError


def is_text(value: str) -> bool:
    """Whether UTF-8 can spell it; half of a surrogate pair, or a byte that was no UTF-8, it cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(where: str, value: str) -> None:
    """Refuse what tokenizers do not take.

    Raises:
        RequestError: it has characters that UTF-8 cannot spell.
    """
    if not is_text(value):
        raise RequestError(
            f"{where}: {value!r} is not UTF-8 text; expected characters that it can spell; write it again, "
            "or set the terminal to UTF-8"
        )
