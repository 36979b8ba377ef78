"""Numbers as text, with their standard uncertainties."""

import math

import gemmi

CELL_ITEMS = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")  # after "_cell_"
_MAXIMUM_TWO_DIGITS = 19.5  # an uncertainty is written with two digits up to 19, with one above


def format_su(value: float, su: float | None = None, *, decimals: int = 6, extra: int = 0) -> str:
    """A number with its standard uncertainty in units of the last digits, as CIF writes it.

    The uncertainty has two digits up to 19 and one above (Schwarzenbach et al. 1995, Acta Cryst. A51, 565, rule of
    19). Without one (None, zero, not finite: a fixed value) the number has `decimals` decimals. extra: digits more.

    >>> format_su(0.85397, 0.00024), format_su(0.6188, 0.0012), format_su(1284.7, 38.0), format_su(-1e-9, 0.0)
    ('0.8540(2)', '0.6188(12)', '1280(40)', '0.000000')
    """
    if su is None or not math.isfinite(su) or su < 10.0 ** -(decimals + 3):
        return f"{value:z.{decimals + extra}f}"
    exponent = math.floor(math.log10(su))  # of the first digit
    places = 1 - exponent if su / 10.0 ** (exponent - 1) < _MAXIMUM_TWO_DIGITS else -exponent
    places += extra
    digits = round(su * 10.0**places)
    if places >= 0:
        return f"{value:.{places}f}({digits})"
    step = 10**-places
    return f"{round(value / step) * step}({digits * step})"


def set_item(block: gemmi.cif.Block, tag: str, value: str) -> None:
    """Set one item of a CIF block, quoted as its text needs."""
    block.set_pair(tag, gemmi.cif.quote(value))
