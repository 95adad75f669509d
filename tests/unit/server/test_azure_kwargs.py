"""The keywords with which Azure's clients show a key over plain http."""

import subprocess
import sys

import pytest
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.policies import AzureKeyCredentialPolicy
from azure.core.rest import HttpRequest

from treadle.azure import local_client_kwargs
from treadle.errors import ConfigurationError


def sent(policy: AzureKeyCredentialPolicy) -> dict[str, str]:
    """Give the headers of a request over plain http after the policy saw it."""
    request = HttpRequest("GET", "http://127.0.0.1:8000/threads")
    policy.on_request(PipelineRequest(request, PipelineContext(None)))
    return dict(request.headers)


def test_the_key_of_the_argument_goes_into_the_header_api_key() -> None:
    kwargs = local_client_kwargs("k-1")
    assert list(kwargs) == ["authentication_policy"]
    assert sent(kwargs["authentication_policy"]) == {"api-key": "k-1"}


def test_the_key_may_go_as_a_bearer_token() -> None:
    kwargs = local_client_kwargs("k-1", header="Authorization")
    assert sent(kwargs["authentication_policy"]) == {"Authorization": "Bearer k-1"}


def test_the_environment_has_the_key_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREADLE_API_KEY", "k-2")
    assert sent(local_client_kwargs()["authentication_policy"]) == {"api-key": "k-2"}
    assert sent(local_client_kwargs("k-3")["authentication_policy"]) == {"api-key": "k-3"}


def test_without_a_key_the_error_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TREADLE_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match="no API key") as e:
        local_client_kwargs()
    assert "TREADLE_API_KEY" in (e.value.hint or "")


def test_without_the_library_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "azure.core.credentials", None)
    with pytest.raises(ConfigurationError) as e:
        local_client_kwargs("k-1")
    assert e.value.hint == "install them: pip install 'treadle[azure]'"


def test_importing_the_module_loads_no_client() -> None:
    code = "import sys, treadle.azure; print([m for m in sys.modules if m.split('.')[0] == 'azure'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
