"""Progress where nobody watches a bar: no silence longer than asked, also while one step takes minutes."""

import io
import json
import re
import time

from rich.console import Console

from pendel.cli.progress import JsonLines, TerminalProgress

SILENCE = 0.2  # s, instead of ten


def test_a_log_says_that_the_work_goes_on_and_since_when_no_step_ended():
    text = io.StringIO()
    with TerminalProgress(Console(file=text), seconds=SILENCE) as progress:
        progress("frames", 3, 9, {"log_likelihood": -12.5})
        time.sleep(3 * SILENCE)
        progress("matrix", 0, 1, {})
        time.sleep(3 * SILENCE)
        progress("matrix", 1, 1, {})
    lines = text.getvalue().splitlines()
    assert lines[0] == "frames 3/9 log likelihood -12.5"
    assert lines[-1] == "matrix 1/1"
    after, during = (
        [line for line in lines[1:-1] if re.fullmatch(f"still at work {words}", line)]
        for words in (r"\d+ s after frames 3/9", r"on matrix for \d+ s")
    )
    assert after
    assert during
    assert after + during == lines[1:-1]


def test_where_nobody_knows_how_many_steps_there_will_be_no_number_is_told():
    text = io.StringIO()
    with TerminalProgress(Console(file=text), seconds=60.0) as progress:
        progress("map", 1, 0, {"log_density": -12.5})
    assert text.getvalue() == "map 1 log density -12.5\n"


def test_a_log_says_how_long_the_maximum_will_take_until_it_is_there():
    text = io.StringIO()
    with TerminalProgress(Console(file=text, width=200), seconds=60.0) as progress:
        progress("files", 1, 1, {"minutes_to_the_maximum": 13.2})
        progress("start", 1, 9, {})
        progress("map done", 1, 1, {"r_obs_pooled": 0.05})
        progress("svi", 1, 200, {})
    assert text.getvalue().splitlines() == [
        "files 1/1; about 14 min to the first results",
        "start 1/9; about 14 min to the first results",
        "map done 1/1 r obs pooled 0.05",
        "svi 1/200",
    ]


def test_a_terminal_shows_the_time_in_one_place_and_ends_bars_of_unknown_length():
    text = io.StringIO()
    with TerminalProgress(Console(file=text, force_terminal=True, width=120)) as progress:
        progress("files", 1, 1, {"minutes_to_the_maximum": 13.2})
        progress("map", 1, 0, {"log_density": -12.5})
        progress("map", 2, 0, {"log_density": -11.5})
        progress._bars.refresh()
        before = text.getvalue()
        progress("map done", 1, 1, {"r_obs_pooled": 0.05})
        progress("svi", 1, 200, {})
        progress._bars.refresh()
        screen = text.getvalue()
    assert "about 14 min to the first results" in before
    assert "; about" not in before
    screen = screen[screen.rindex("files") :]
    assert "2/2" in screen
    assert "min to the first results" not in screen


def test_a_log_is_not_flooded_while_steps_end():
    text = io.StringIO()
    with TerminalProgress(Console(file=text), seconds=60.0) as progress:
        for step in range(1, 101):
            progress("svi", step, 100, {})
    assert text.getvalue().splitlines() == ["svi 1/100", "svi 100/100"]


def test_lines_of_json_repeat_the_last_step_with_the_silence():
    text = io.StringIO()
    with JsonLines(Console(file=text), seconds=SILENCE) as progress:
        progress("map", 2, 0, {"log_density": -12.5})
        time.sleep(2.5 * SILENCE)
    lines = [json.loads(line) for line in text.getvalue().splitlines()]
    assert lines[0].items() >= {"stage": "map", "step": 2, "total": 0, "log_density": -12.5}.items()
    assert len(lines) >= 2
    assert all(line["step"] == 2 and line["silent_s"] > 0 for line in lines[1:])


def test_nothing_is_written_after_the_end():
    text = io.StringIO()
    with TerminalProgress(Console(file=text), seconds=SILENCE):
        pass
    before = text.getvalue()
    time.sleep(2 * SILENCE)
    assert text.getvalue() == before
