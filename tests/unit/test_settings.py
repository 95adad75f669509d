"""The TREADLE_* variables, read once."""

import pytest

from treadle.errors import ConfigurationError
from treadle.settings import VARIABLES, Settings


def test_nothing_in_the_environment_gives_the_defaults() -> None:
    assert Settings.from_environment({}) == Settings(
        store=None, tenant="default", durability="full", model=None
    )


def test_every_variable_is_read() -> None:
    read = Settings.from_environment(
        {
            "TREADLE_STORE": "sqlite:///x.db",
            "TREADLE_TENANT": "acme",
            "TREADLE_DURABILITY": "normal",
            "TREADLE_MODEL": "offline",
            "TREADLE_LEASE_S": "20",
            "TREADLE_API_KEY": "0123456789abcdef",
        }
    )
    assert read == Settings(
        store="sqlite:///x.db", tenant="acme", durability="normal", model="offline", lease_s=20,
        api_key="0123456789abcdef",
    )  # fmt: skip
    assert "0123456789abcdef" not in repr(read)
    assert {name.removeprefix("TREADLE_").lower() for name in VARIABLES} == set(Settings.__slots__)


def test_an_empty_variable_counts_as_none() -> None:
    assert (
        Settings.from_environment({"TREADLE_STORE": "", "TREADLE_TENANT": "", "TREADLE_MODEL": ""})
        == Settings()
    )


def test_a_value_that_cannot_be_is_refused_with_the_possible_ones() -> None:
    with pytest.raises(ConfigurationError) as refused:
        Settings.from_environment({"TREADLE_DURABILITY": "some"})
    assert "TREADLE_DURABILITY is 'some'" in refused.value.message
    assert refused.value.hint == "use full or normal"


def test_the_process_environment_is_the_default_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_TENANT", "from-the-process")
    assert Settings.from_environment().tenant == "from-the-process"


@pytest.mark.parametrize("key", ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\n", "x" * 513])
def test_a_key_that_opens_nothing_is_an_error_and_no_open_door(key: str) -> None:
    for make in (lambda: Settings(api_key=key), lambda: Settings.from_environment({"TREADLE_API_KEY": key})):
        with pytest.raises(ConfigurationError, match="TREADLE_API_KEY") as refused:
            make()
        assert not key or key not in refused.value.message
