"""Every store keeps the contract about files: in memory, in a file, and in a file whose disk is slow."""

from pathlib import Path

import pytest

from treadle.store.check import check
from treadle.store.sqlite import SLOW_COMMIT_S, SqliteStore
from treadle.testing.file_contract import FileContract


class TestMemory(FileContract):
    def open(self) -> SqliteStore:
        return SqliteStore(None)


class TestFile(FileContract):
    @pytest.fixture(autouse=True)
    def in_a_folder(self, tmp_path: Path):
        self.path = tmp_path / "store.db"
        yield
        assert [p for p in check(self.path) if not p.message.startswith("a run that has not ended")] == []
        contents = [p for p in (tmp_path / "files").rglob("*") if p.is_file()]
        assert all(p.stat().st_mode & 0o777 == 0o600 for p in contents)
        assert [p for p in contents if p.suffix == ".part"] == []

    def open(self) -> SqliteStore:
        return SqliteStore(self.path)


class TestSlowDisk(TestFile):
    """Every group is written on the store's thread."""

    def open(self) -> SqliteStore:
        store = SqliteStore(self.path)
        store._commit_s = 1e9 * SLOW_COMMIT_S
        return store
