"""Names of devices. No torch, so that a typo is refused before it loads."""

import re

from dreamer_cli.errors import UsageError, closest

KNOWN = ("auto", "cpu", "cuda", "cuda:1", "mps")


def parse_device(text: str, what: str = "--device") -> str:
    """`text`, if it names a device; whether that is there is seen when it is used.

    Args:
        what: the option or key that it was typed for.

    Raises:
        UsageError: it names none.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", text):
        raise UsageError(
            f"{what} is {text!r}, which is no device.", hint=closest(text, KNOWN) + f"Known: {', '.join(KNOWN)}."
        )
    return text
