"""Claims of the notebooks: they must hold for the default run, and are reported for any other."""

from __future__ import annotations

from collections.abc import Callable


def claims(*, default: bool) -> Callable[[str, bool], None]:
    """A function that takes a claim in words and whether it holds.

    What a notebook says of quality ("neighbours share their task") was found on the default run: the embedded corpus
    with the parameters of ``tiny``. Other data may be otherwise, and that is no error.

    Parameters
    ----------
    default : bool
        Whether this is the default run.

    Returns
    -------
    callable
        ``claim(text, holds)``. In the default run it says nothing, and raises ``AssertionError`` with the text if the
        claim does not hold; in any other it prints whether it does.

    Examples
    --------
    >>> claim = claims(default=False)
    >>> claim("neighbours share their task", 0.4 > 0.5)
    does not hold here: neighbours share their task
    >>> claims(default=True)("neighbours share their task", 0.9 > 0.5)
    """

    def claim(text: str, holds: bool) -> None:
        if not default:
            print("holds here:" if holds else "does not hold here:", text)
        elif not holds:
            raise AssertionError(f"in the default run this does not hold: {text}")

    return claim
