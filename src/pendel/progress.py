"""Progress of a run on the terminal: a bar where someone watches, plain lines where a file does."""

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

LINE_SECONDS = 10.0  # between plain lines of one stage


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
            TimeElapsedColumn(),
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
