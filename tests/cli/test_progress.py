"""Progress where nobody watches a bar: no silence longer than asked, also while one step takes minutes."""

import io
import json
import time

from rich.console import Console

from pendel.cli.progress import JsonLines, TerminalProgress

SILENCE = 0.2  # s, instead of ten


def test_a_log_says_that_the_work_goes_on_and_since_when_no_step_ended():
    text = io.StringIO()
    with TerminalProgress(Console(file=text), seconds=SILENCE) as progress:
        progress("map", 3, 200, {"log_density": -12.5})
        progress("matrix", 0, 1, {})
        time.sleep(3 * SILENCE)
        progress("matrix", 1, 1, {})
    lines = text.getvalue().splitlines()
    assert lines[0] == "map 3/200 log density -12.5"
    assert lines[-1] == "matrix 1/1"
    between = lines[1:-1]
    assert between
    assert all(line.startswith("still at work, ") and line.endswith(" s since matrix 0/1") for line in between)


def test_a_log_is_not_flooded_while_steps_end():
    text = io.StringIO()
    with TerminalProgress(Console(file=text), seconds=60.0) as progress:
        for step in range(1, 101):
            progress("svi", step, 100, {})
    assert text.getvalue().splitlines() == ["svi 1/100", "svi 100/100"]


def test_lines_of_json_repeat_the_last_step_with_the_silence():
    text = io.StringIO()
    with JsonLines(Console(file=text), seconds=SILENCE) as progress:
        progress("map", 2, 200, {"log_density": -12.5})
        time.sleep(2.5 * SILENCE)
    lines = [json.loads(line) for line in text.getvalue().splitlines()]
    assert lines[0].items() >= {"stage": "map", "step": 2, "total": 200, "log_density": -12.5}.items()
    assert len(lines) >= 2
    assert all(line["step"] == 2 and line["silent_s"] > 0 for line in lines[1:])


def test_nothing_is_written_after_the_end():
    text = io.StringIO()
    with TerminalProgress(Console(file=text), seconds=SILENCE):
        pass
    before = text.getvalue()
    time.sleep(2 * SILENCE)
    assert text.getvalue() == before
