"""Statistical models by name or by path: a user's edited copy is as good as a shipped one."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pendel.base import InputError

PACKAGE = "pendel.models"
OBSERVATIONS = ("intensities", "mask")  # keyword arguments that every model has


def load_model(name_or_path: str) -> Callable:
    """The function `model` of a shipped model ("robust") or of a Python file ("my_model.py").

    Raises InputError when there is no such model, when the file cannot be run, or when it defines no `model`.
    """
    model = getattr(_module(name_or_path), "model", None)
    if not callable(model):
        raise InputError(
            found=f"the model {name_or_path} has no function `model`",
            expected="def model(crystal, datasets, *, intensities=None, mask=None)",
            do="start from a copy of a shipped model",
        )
    return model


def with_options(model: Callable, **options: Any) -> Callable:
    """The model with values for its options, the keyword arguments after the data; None leaves the model's own value.

    Shipped models have `thickness`, a name in `pendel.model.thickness_prior`; `robust` has `errors`, `absorption`,
    `mosaicity`, `clouds`, `contraction` and `reflection_error` as well.

    Raises InputError for an option that the model does not have.
    """
    given = {name: value for name, value in options.items() if value is not None}
    known = list(model_options(model))
    for name, value in given.items():
        if name not in known:
            option = "--" + name.replace("_", "-")
            raise InputError(
                found=f"{option} {value} is given, but the model has no argument `{name}`",
                expected=f"a model with a choice of it; this one has {', '.join(known) or 'no options'}",
                do=f"leave out {option}, or choose another --model",
            )
    return partial(model, **given) if given else model


def model_options(model: Callable) -> dict[str, Any]:
    """The options of a model with their values: its keyword arguments other than intensities and mask."""
    keywords = [p for p in inspect.signature(model).parameters.values() if p.kind is p.KEYWORD_ONLY]
    return {p.name: p.default for p in keywords if p.name not in OBSERVATIONS}


def diffraction_theory(name_or_path: str) -> str:
    """What a model says of itself in DIFFRACTION_THEORY, in words of the CIF dictionary; else "dynamical"."""
    return getattr(_module(name_or_path), "DIFFRACTION_THEORY", "dynamical")


def model_story(name_or_path: str) -> str:
    """What a model says of itself: the docstring of its file, with the priors; empty without one."""
    return inspect.cleandoc(_module(name_or_path).__doc__ or "")


def model_file(name_or_path: str) -> Path:
    """The source file of a model, e.g. to record its hash."""
    return Path(str(_module(name_or_path).__file__))


def _module(name_or_path: str) -> ModuleType:
    path = Path(name_or_path)
    return _from_file(path) if path.suffix == ".py" else _shipped(name_or_path)


def _shipped(name: str) -> ModuleType:
    folder = Path(next(iter(importlib.import_module(PACKAGE).__path__)))
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    if name not in names:
        raise InputError(
            found=f"unknown model {name!r}",
            expected=f"one of {', '.join(names)}, or a path ending in .py",
            do="change --model",
        )
    return importlib.import_module(f"{PACKAGE}.{name}")


def _from_file(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"pendel_user_model_{path.stem}", path)
    if not path.is_file() or specification is None or specification.loader is None:
        raise InputError(found=f"no file {path}", expected="a Python file with a model", do="check --model")
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except (SyntaxError, ImportError, NameError, AttributeError, TypeError, ValueError) as error:
        raise InputError(
            found=f"the model file {path} cannot be run ({type(error).__name__}: {error})",
            expected="a Python file with a model",
            do="correct the file",
        ) from error
    return module
