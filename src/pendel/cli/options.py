"""Options of a command from the fields of dataclasses: default, help and name of an option stand in one place."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_args, get_type_hints

import typer
from rich.markup import escape

from pendel.run.settings import option_name

SCALARS = (bool, int, float, str)


def option(help: str, *names: str) -> Any:
    """An option whose help shows what stands in square brackets, such as units, which Rich takes for markup."""
    return typer.Option(*names, help=escape(help))


def with_options(command: str, **defaults: Any) -> Callable[[Callable], Callable]:
    """Makes a function whose arguments include dataclasses into one with an argument for each field of theirs.

    Args:
        command: only the fields that name this command become options.
        defaults: of this command, by field, where they differ from those of the dataclass.
    """

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)
        records: dict[str, Any] = {
            name: parameter.annotation
            for name, parameter in signature.parameters.items()
            if dataclasses.is_dataclass(parameter.annotation)
        }
        parameters: list[inspect.Parameter] = []
        for name, parameter in signature.parameters.items():
            parameters += _parameters(records[name], command, defaults) if name in records else [parameter]

        @functools.wraps(function)
        def called(**given: Any) -> Any:
            made = {}
            for name, record in records.items():
                values = {field.name: given.pop(field.name) for field in _fields(record, command)}
                values = {field: tuple(x) if isinstance(x, list) else x for field, x in values.items()}
                made[name] = record(**{field: x for field, x in values.items() if x not in (None, ())})
            return function(**given, **made)

        wrapper: Any = called
        wrapper.__signature__ = signature.replace(
            parameters=[parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
        )
        return wrapper

    return decorate


def _fields(record: Any, command: str) -> Iterator[dataclasses.Field]:
    return (field for field in dataclasses.fields(record) if command in field.metadata["commands"])


def _parameters(record: Any, command: str, defaults: dict[str, Any]) -> Iterator[inspect.Parameter]:
    """An argument for each field: its type, default and help; a field for every data set takes a list."""
    hints = get_type_hints(record)
    for field in _fields(record, command):
        kind, help = _scalar(hints[field.name]), field.metadata["help"]
        default = defaults.get(field.name, field.default)
        if field.metadata["per_data"]:
            kind, default = list[kind], None if default is None else [default]
            help += "; once, or once for each data set"
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[kind | None, option(help, option_name(field))],
        )


def _scalar(hint: Any) -> Any:
    """The type of one value, e.g. float of `float | None | tuple[float, ...]`."""
    return hint if hint in SCALARS else next(found for found in map(_scalar, get_args(hint)) if found in SCALARS)
