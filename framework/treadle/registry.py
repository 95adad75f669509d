"""Look a name up in a seam's table and import what it stands for.

Built-ins and third parties use the same door: a table of import strings first, then the entry points of the
seam's group (`treadle.tools`, `treadle.steps`, `treadle.providers`, `treadle.stores`,
`treadle.dispatchers`).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from treadle.errors import ConfigurationError


def load(target: str) -> object:
    """Import ``module:attribute``.

    Errors: ConfigurationError when the string has another form or the module lacks the attribute.
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise ConfigurationError(f"'{target}' is not an import string", hint="write module:attribute")
    try:
        return getattr(importlib.import_module(module), attribute)
    except AttributeError as e:
        raise ConfigurationError(f"module '{module}' has no '{attribute}'") from e


def lookup(seam: str, table: Mapping[str, str], name: str) -> object:
    """Give what a name stands for in a seam (`tools`, `steps`, `providers`, `stores`, `dispatchers`).

    Errors: ConfigurationError that lists the known names.
    """
    target = table.get(name)
    if target is None:
        from importlib.metadata import entry_points

        for point in entry_points(group=f"treadle.{seam}", name=name):
            return point.load()
        known = ", ".join(sorted(table))
        raise ConfigurationError(f"'{name}' is not one of the known {seam}", hint=f"known: {known}")
    return load(target)
