"""Every store keeps the contract: in memory, in a file, and in a file whose disk is slow."""

from pathlib import Path

import pytest

from treadle.store.check import check
from treadle.store.sqlite import SLOW_COMMIT_S, SqliteStore
from treadle.testing.store_contract import StoreContract
from treadle.testing.workflow_contract import ForkContract, WorkflowContract


class TestMemory(StoreContract, WorkflowContract, ForkContract):
    def open(self) -> SqliteStore:
        return SqliteStore(None)


class TestFile(StoreContract, WorkflowContract, ForkContract):
    @pytest.fixture(autouse=True)
    def in_a_folder(self, tmp_path: Path):
        self.path = tmp_path / "store.db"
        yield
        # The suite commits what no walk would: what must hold all the same are the rules of the schema.
        about_walks = ("a run that has ended has", "a step names the row", "a run that has not ended")
        assert [p for p in check(self.path) if not p.message.startswith(about_walks)] == []

    def open(self) -> SqliteStore:
        return SqliteStore(self.path)


class TestSlowDisk(TestFile):
    """Every group is written on the store's thread."""

    def open(self) -> SqliteStore:
        store = SqliteStore(self.path)
        store._commit_s = 1e9 * SLOW_COMMIT_S
        return store
