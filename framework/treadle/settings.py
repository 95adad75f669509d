"""The settings of a process: one frozen record, built once from TREADLE_* variables.

The project document is read by the composition root; this file knows nothing of YAML.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from treadle.errors import ConfigurationError

VARIABLES = {
    "TREADLE_STORE": "where everything is kept: sqlite:///PATH or sqlite://:memory:",
    "TREADLE_TENANT": "the tenant of the command line",
    "TREADLE_DURABILITY": "full (default: a commit survives a power loss) or normal (a process crash only)",
    "TREADLE_MODEL": "the model that replaces the one a document names",
    "TREADLE_LEASE_S": "seconds after which a process that gives no sign of life loses its runs (default: 15)",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says; None where it says nothing."""

    store: str | None = None
    tenant: str = "default"
    durability: Literal["full", "normal"] = "full"
    model: str | None = None
    lease_s: float = 15.0

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
        )
