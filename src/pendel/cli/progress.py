"""Progress of a run: a bar where someone watches, plain lines in a log, one JSON object a line for pipelines."""

import json
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pendel.failures import InputError

LINE_SECONDS = 10.0  # between plain lines of one stage
MODES = ("auto", "quiet", "json")


class Report(Protocol):
    """What a run calls after every step."""

    def __call__(self, stage: str, step: int, total: int, info: Mapping[str, float]) -> None:
        """One step of a stage is done."""


def progress_of(mode: str, console: Console) -> AbstractContextManager[Report]:
    """Where progress goes: "auto" (bars on a terminal, lines elsewhere), "quiet" (nowhere), "json" (lines of JSON).

    Raises InputError for another mode.
    """
    if mode not in MODES:
        raise InputError(found=f"--progress {mode}", expected=" or ".join(MODES), do="change --progress")
    if mode == "quiet" or console.quiet:
        return nullcontext(_nothing)
    return nullcontext(JsonLines(console)) if mode == "json" else TerminalProgress(console)


class TerminalProgress:
    """Called as progress(stage, step, total, info); use it in a `with` block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._told: dict[str, float] = {}
        self._bars = Progress(
            TextColumn("{task.description:8}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[info]}"),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "TerminalProgress":
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def __call__(self, stage: str, step: int, total: int, info: Mapping[str, float]) -> None:
        """Show one step of a stage."""
        numbers = ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in info.items())
        if self._console.is_terminal:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, info="")
            self._bars.update(self._tasks[stage], completed=step, total=total, info=numbers)
        elif step in (1, total) or time.monotonic() - self._told.get(stage, 0.0) > LINE_SECONDS:
            self._told[stage] = time.monotonic()
            self._console.print(f"{stage} {step}/{total} {numbers}".rstrip(), highlight=False)


class JsonLines:
    """One JSON object a step: time_s since the start, stage, step, total, and the numbers of the stage."""

    def __init__(self, console: Console) -> None:
        self._console, self._began = console, time.monotonic()

    def __call__(self, stage: str, step: int, total: int, info: Mapping[str, float]) -> None:
        """Write one step of a stage."""
        seconds = round(time.monotonic() - self._began, 2)
        numbers = {name: float(value) for name, value in info.items()}
        line = json.dumps({"time_s": seconds, "stage": stage, "step": step, "total": total, **numbers})
        print(line, file=self._console.file, flush=True)


def _nothing(stage: str, step: int, total: int, info: Mapping[str, float]) -> None:
    """Progress nobody wants to see."""
    del stage, step, total, info
