"""Fakes and contract suites for those who build on treadle.

`ScriptedProvider`, `FrozenClock` and `CountedIds` stand in for a model, the time and chance; `ChatServer` is a real
chat-completions endpoint on loopback. `StoreContract`, `ProviderContract`, `ToolContract` and `StepContract` are what
every implementation of a seam must pass: subclass one in a test module and give it yours. `crash_matrix` kills a
`Scenario` of yours at every point and tells which promise was not kept. The contracts need pytest
(`pip install 'treadle[testing]'`); names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

_PUBLIC = {
    "ChatServer": "treadle.testing.chat_server",
    "CountedIds": "treadle.testing.fakes",
    "Fault": "treadle.testing.storage_faults",
    "FaultDoor": "treadle.testing.storage_faults",
    "FrozenClock": "treadle.testing.fakes",
    "Place": "treadle.testing.crash_scenario",
    "PowerLoss": "treadle.testing.power_loss",
    "ProviderContract": "treadle.testing.provider_contract",
    "Scenario": "treadle.testing.crash_scenario",
    "ScriptedProvider": "treadle.testing.fakes",
    "StepContract": "treadle.testing.step_contract",
    "StoreContract": "treadle.testing.store_contract",
    "ToolContract": "treadle.testing.tool_contract",
    "crash_matrix": "treadle.testing.crash",
}

__all__ = [
    "ChatServer",
    "CountedIds",
    "Fault",
    "FaultDoor",
    "FrozenClock",
    "Place",
    "PowerLoss",
    "ProviderContract",
    "Scenario",
    "ScriptedProvider",
    "StepContract",
    "StoreContract",
    "ToolContract",
    "crash_matrix",
]

if TYPE_CHECKING:
    from treadle.testing.chat_server import ChatServer
    from treadle.testing.crash import crash_matrix
    from treadle.testing.crash_scenario import Place, Scenario
    from treadle.testing.fakes import CountedIds, FrozenClock, ScriptedProvider
    from treadle.testing.power_loss import PowerLoss
    from treadle.testing.provider_contract import ProviderContract
    from treadle.testing.step_contract import StepContract
    from treadle.testing.storage_faults import Fault, FaultDoor
    from treadle.testing.store_contract import StoreContract
    from treadle.testing.tool_contract import ToolContract


def __getattr__(name: str) -> object:
    """Import a public name on first use.

    Errors: AttributeError for a name that is not exported here.
    """
    module = _PUBLIC.get(name)
    if module is None:
        msg = f"module 'treadle.testing' has no attribute {name!r}; it exports {', '.join(sorted(_PUBLIC))}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value
