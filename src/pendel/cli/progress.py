"""Progress of a run: a bar where someone watches, plain lines in a log, one JSON object a line for pipelines."""

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pendel.failures import InputError
from pendel.run.settings import EXPECTED_MINUTES

LINE_SECONDS = 10.0  # between plain lines of one stage, and the longest silence
LEFT = "left"  # the task that shows a time
MODES = ("auto", "quiet", "json")


class Report(Protocol):
    """What a run calls after every step."""

    def __call__(self, stage: str, step: int, total: int, info: Mapping[str, float]) -> None:
        """One step of a stage is done, of `total`, or of 0 where nobody knows how many there will be."""


def progress_of(mode: str, console: Console) -> AbstractContextManager[Report]:
    """Where progress goes: "auto" (bars on a terminal, lines elsewhere), "quiet" (nowhere), "json" (lines of JSON).

    Raises InputError for another mode.
    """
    if mode not in MODES:
        raise InputError(found=f"--progress {mode}", expected=" or ".join(MODES), do="change --progress")
    if mode == "quiet" or console.quiet:
        return nullcontext(_nothing)
    return JsonLines(console) if mode == "json" else TerminalProgress(console)


class SignOfLife:
    """Tells, whenever `seconds` pass without a line, which step was the last one and how long ago it was.

    A compilation or a Gauss-Newton matrix of many frames takes minutes, in which no step ends.
    """

    def __init__(self, tell: Callable[[str, int, int, float], None], seconds: float = LINE_SECONDS) -> None:
        self._tell, self._seconds, self._ended = tell, seconds, threading.Event()
        self._last, self._since = ("files", 0, 1), time.monotonic()
        self._due = self._since + seconds
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "SignOfLife":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def step(self, stage: str, step: int, total: int) -> None:
        """A step was done, or one of a stage that now begins, 0, is on its way."""
        self._last, self._since = (stage, step, total), time.monotonic()

    def told(self) -> None:
        """A line was written."""
        self._due = time.monotonic() + self._seconds

    def _watch(self) -> None:
        while not self._ended.wait(self._seconds / 10):
            if time.monotonic() >= self._due:
                self._tell(*self._last, time.monotonic() - self._since)
                self.told()


class TerminalProgress:
    """Called as progress(stage, step, total, info); use it in a `with` block."""

    def __init__(self, console: Console, seconds: float = LINE_SECONDS) -> None:
        self._console, self._seconds = console, seconds
        self._life = SignOfLife(self._still, seconds)
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        self._steps: dict[str, int] = {}  # of the present stage, where nobody knows the total
        self._end: float | None = None  # when the maximum is expected
        self._bars = Progress(
            TextColumn("{task.description:8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[info]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "TerminalProgress":
        self._bars.start()
        if not self._console.is_terminal:  # there the bars show the time that passes
            self._life.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()
        if not self._console.is_terminal:
            self._life.__exit__()

    def __call__(self, stage: str, step: int, total: int, info: Mapping[str, float]) -> None:
        """Show one step of a stage."""
        self._life.step(stage, step, total)
        if EXPECTED_MINUTES in info:
            self._end = time.monotonic() + 60 * info[EXPECTED_MINUTES]
        elif stage == "map done":
            self._end = None
        shown = {name: value for name, value in info.items() if name != EXPECTED_MINUTES}
        numbers = ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in shown.items())
        if self._console.is_terminal:
            self._show(stage, step, total, numbers)
        elif step in (1, total) or (step and time.monotonic() - self._told.get(stage, 0.0) > self._seconds):
            self._told[stage] = time.monotonic()
            self._line(f"{_place(stage, step, total)} {numbers}".rstrip())
            self._life.told()

    def _show(self, stage: str, step: int, total: int, numbers: str) -> None:
        """A bar for every stage, and below them how long the first results will take."""
        for name, done in self._steps.items():  # where nobody knew the total, the next stage shows the end
            self._bars.update(self._tasks[name], total=done)
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total or None, info="")
        self._bars.update(self._tasks[stage], completed=step, total=total or None, info=numbers)
        self._steps = {} if total else {stage: step}
        if LEFT in self._tasks:
            self._bars.remove_task(self._tasks.pop(LEFT))
        for text in self._left():
            self._tasks[LEFT] = self._bars.add_task(LEFT, total=None, info=text)

    def _line(self, text: str) -> None:
        self._console.print("; ".join((text, *self._left())), highlight=False, soft_wrap=True)

    def _still(self, stage: str, step: int, total: int, seconds: float) -> None:
        since = f"{seconds:.0f} s"
        doing = f"{since} after {_place(stage, step, total)}" if step else f"on {stage} for {since}"
        self._line(f"still at work {doing}")

    def _left(self) -> tuple[str, ...]:
        """How long the results of the maximum will take; nothing where nobody said so, or where they are late."""
        seconds = 0.0 if self._end is None else self._end - time.monotonic()
        return (f"about {math.ceil(seconds / 60)} min to the first results",) if seconds > 0 else ()


class JsonLines:
    """One JSON object a step: time_s since the start, stage, step, total (0: not known), and numbers of the stage.

    Where no step ends for ten seconds the last one is repeated with `silent_s`, the seconds since then. Step 0 says
    that a stage begins.
    """

    def __init__(self, console: Console, seconds: float = LINE_SECONDS) -> None:
        self._console, self._began, self._lock = console, time.monotonic(), threading.Lock()
        self._life = SignOfLife(self._still, seconds)

    def __enter__(self) -> "JsonLines":
        self._life.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._life.__exit__()

    def __call__(self, stage: str, step: int, total: int, info: Mapping[str, float]) -> None:
        """Write one step of a stage."""
        self._life.step(stage, step, total)
        self._write(stage, step, total, info)

    def _still(self, stage: str, step: int, total: int, seconds: float) -> None:
        self._write(stage, step, total, {"silent_s": round(seconds, 2)})

    def _write(self, stage: str, step: int, total: int, info: Mapping[str, float]) -> None:
        numbers = {name: float(value) for name, value in info.items()}
        with self._lock:  # two threads write
            seconds = round(time.monotonic() - self._began, 2)
            line = json.dumps({"time_s": seconds, "stage": stage, "step": step, "total": total, **numbers})
            print(line, file=self._console.file, flush=True)
        self._life.told()


def _place(stage: str, step: int, total: int) -> str:
    return f"{stage} {step}/{total}" if total else f"{stage} {step}"


def _nothing(stage: str, step: int, total: int, info: Mapping[str, float]) -> None:
    """Progress nobody wants to see."""
    del stage, step, total, info
