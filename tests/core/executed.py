"""What a call really executes of the first-party source, by the names that a key uses."""

import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from types import CodeType, FrameType
from typing import Any, TypeVar

from components.core.reachability import FIRST_PARTY, PROJECT_ROOT

Result = TypeVar("Result")


def not_counted(executed: set[str], code: Mapping[str, str]) -> set[str]:
    """What was ``executed`` and is no part of the ``code`` of a key: there must be nothing.

    A method counts with its class, but for views, whose methods count one by one.
    """
    views = {name.rpartition(".")[0] for name in code} & code.keys()
    counted = code.keys() - views
    return {name for name in executed if name not in code and name.rpartition(".")[0] not in counted}


def executed(call: Callable[[], Result]) -> tuple[Result, set[str]]:
    """The result of ``call``, and every first-party function that ran, ``module.function`` or ``module.Class.method``.

    Bodies of modules and classes are passed over: they run when a module is imported, needed or not.
    """
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        result = call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return result, {name for code in seen if (name := _name(code))}


def _name(code: CodeType) -> str | None:
    root = f"{PROJECT_ROOT}/"
    path = code.co_filename.removeprefix(root)
    if path == code.co_filename or not path.startswith(FIRST_PARTY) or not code.co_flags & inspect.CO_OPTIMIZED:
        return None
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    outer = code.co_qualname.partition(".<locals>")[0]
    return None if outer.startswith("<") else f"{module}.{outer}"
