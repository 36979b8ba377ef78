"""The text of a refusal: what was found, what was expected, how to fix it."""

import pytest

from pendel.base import InputError


@pytest.mark.parametrize(
    ("found", "expected", "do", "message"),
    [
        (
            "no file a.cif",
            "a CIF file",
            "check the path",
            "No file a.cif. Expected a CIF file. To fix: check the path.",
        ),
        ("hold-out 2", "below 1.", "give less.", "Hold-out 2. Expected below 1. To fix: give less."),
        ("quartz.cif: no cell", "one", "add it", "quartz.cif: no cell. Expected one. To fix: add it."),
        ("--tilts -1", "1 or more", "raise it", "--tilts -1. Expected 1 or more. To fix: raise it."),
        ("3 sites", "one", "delete two", "3 sites. Expected one. To fix: delete two."),
    ],
)
def test_a_refusal_is_three_sentences(found, expected, do, message):
    assert str(InputError(found=found, expected=expected, do=do)) == message
