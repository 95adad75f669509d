"""The settings of a process: one frozen record, built once from TREADLE_* variables.

The project document is read by the composition root; this file knows nothing of YAML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from treadle.errors import ConfigurationError

VARIABLES = {
    "TREADLE_STORE": "where everything is kept: sqlite:///PATH or sqlite://:memory:",
    "TREADLE_TENANT": "the tenant of the command line",
    "TREADLE_DURABILITY": "full (default: a commit survives a power loss) or normal (a process crash only)",
    "TREADLE_MODEL": "the model that replaces the one a document names",
    "TREADLE_API_KEY": "a key of the server, beside those that the store knows; it opens TREADLE_TENANT",
    "TREADLE_LEASE_S": "seconds after which a process that gives no sign of life loses its runs (default: 15)",
}


_LEAST_CHARS = 16
_API_KEY = re.compile(r"[!-~]{16,512}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says; None where it says nothing."""

    store: str | None = None
    tenant: str = "default"
    durability: Literal["full", "normal"] = "full"
    model: str | None = None
    lease_s: float = 15.0
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse a key that is none, however the settings came about."""
        if self.api_key is not None:
            _refuse_api_key(self.api_key)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the TREADLE_* variables.

        Errors: ConfigurationError for a value that a variable cannot have.
        """
        env = os.environ if environ is None else environ
        durability = env.get("TREADLE_DURABILITY", "full")
        if durability not in ("full", "normal"):
            raise ConfigurationError(f"TREADLE_DURABILITY is '{durability}'", hint="use full or normal")
        lease = env.get("TREADLE_LEASE_S") or "15"
        try:
            lease_s = float(lease)
        except ValueError:
            lease_s = 0.0
        if not 1 <= lease_s <= 3600:
            raise ConfigurationError(f"TREADLE_LEASE_S is '{lease}'", hint="give seconds, 1 to 3600")
        return cls(
            store=env.get("TREADLE_STORE") or None,
            tenant=env.get("TREADLE_TENANT") or "default",
            durability="full" if durability == "full" else "normal",
            model=env.get("TREADLE_MODEL") or None,
            lease_s=lease_s,
            api_key=env.get("TREADLE_API_KEY"),
        )


def _refuse_api_key(given: str) -> None:
    """Refuse a key that no client could show, or that somebody could guess.

    Hazard: a variable that is set to nothing is a deployment whose secret did not arrive. It must not count as the
    wish for a server without one.

    Errors: ConfigurationError, which does not quote the key.
    """
    if _API_KEY.fullmatch(given):
        return
    if not given:
        said = "is empty"
    elif len(given) < _LEAST_CHARS:
        said = f"has {len(given)} characters"
    else:
        said = "cannot be sent in a header: it is too long, has blanks, or is no plain text"
    raise ConfigurationError(
        f"TREADLE_API_KEY {said}",
        hint=f"give {_LEAST_CHARS} to 512 letters, digits and marks, or unset it and use: treadle keys create",
    )
