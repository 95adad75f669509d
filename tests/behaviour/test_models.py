"""How the name of a model becomes an endpoint, by one rule."""

import pytest

from treadle.definition.load import load_project
from treadle.errors import ConfigurationError, ModelNotConfigured
from treadle.objects.agent import AgentSpec, Connection, ModelOptions, ModelSpec
from treadle.objects.project import ProjectSpec
from treadle.providers.offline import OfflineProvider
from treadle.providers.openai import OpenAIProvider
from treadle.providers.scripted import ScriptedProvider
from treadle.service.models import Models


def spec(model, **fields):
    return AgentSpec(model=ModelSpec(id=model) if isinstance(model, str) else model, **fields)


def models(tmp_path, project=None, environ=None, **more):
    return Models(ProjectSpec.model_validate(project or {}), tmp_path, environ=environ or {}, **more)


def test_the_embedded_models_need_nothing(tmp_path):
    found = models(tmp_path)
    assert isinstance(found.resolve(spec("offline")).provider, OfflineProvider)
    assert isinstance(found.resolve(spec("scripted")).provider, ScriptedProvider)


def test_a_name_under_models_comes_first(tmp_path):
    project = {
        "models": {
            "offline": {"id": "scripted", "context_window": 500, "options": {"temperature": 1, "seed": 3}}
        }
    }
    resolved = models(tmp_path, project).resolve(
        spec(ModelSpec(id="offline", options=ModelOptions(temperature=0.2, extra={"a": 1})))
    )
    assert isinstance(resolved.provider, ScriptedProvider)
    assert (resolved.id, resolved.context_window) == ("scripted", 500)
    assert (resolved.options.temperature, resolved.options.seed, resolved.options.extra) == (0.2, 3, {"a": 1})


def test_any_other_name_is_the_default_connections(tmp_path):
    project = {"connections": {"default": {"base_url": "http://127.0.0.1:1/v1", "api_key": "k"}}}
    resolved = models(tmp_path, project).resolve(spec("some-model:7b"))
    assert isinstance(resolved.provider, OpenAIProvider)
    assert resolved.id == "some-model:7b"


@pytest.mark.parametrize("environ", [{"OPENAI_API_KEY": "k"}, {"OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}])
def test_the_environment_makes_the_default_connection_where_no_document_does(tmp_path, environ):
    assert isinstance(models(tmp_path, environ=environ).resolve(spec("gpt-x")).provider, OpenAIProvider)


def test_without_any_connection_the_name_is_not_configured(tmp_path):
    with pytest.raises(ModelNotConfigured, match='"gpt-x" is not configured') as failure:
        models(tmp_path, {"models": {"mine": {"id": "offline"}}}).resolve(spec("gpt-x"))
    assert "known: mine, offline, scripted" in failure.value.hint


def test_a_connection_that_nobody_declares_is_named(tmp_path):
    with pytest.raises(ModelNotConfigured, match='connection "nowhere"'):
        models(tmp_path).resolve(spec(ModelSpec(id="m", connection="nowhere")))


def test_an_agents_own_connection_wins_over_the_projects(tmp_path):
    project = {"connections": {"c": {"base_url": "http://127.0.0.1:1/v1"}}}
    found = models(tmp_path, project)
    own = spec(
        ModelSpec(id="m", connection="c"), connections={"c": Connection(base_url="http://127.0.0.1:2/v1")}
    )
    assert found.resolve(own).provider is not found.resolve(spec(ModelSpec(id="m", connection="c"))).provider


def test_a_run_may_name_another_model_and_leaves_the_agents_connection(tmp_path):
    own = spec(
        ModelSpec(id="m", connection="c"), connections={"c": Connection(base_url="http://127.0.0.1:2/v1")}
    )
    assert isinstance(models(tmp_path).resolve(own, "offline").provider, OfflineProvider)


def test_references_are_resolved_when_a_run_begins(tmp_path):
    project = {"connections": {"default": {"base_url": "${env:URL}", "api_key": "${secret:KEY}"}}}
    with pytest.raises(ConfigurationError, match="URL"):
        models(tmp_path, project).resolve(spec("m"))
    (tmp_path / ".env").write_text("KEY=from-dotenv\n")
    environ = {"URL": "http://127.0.0.1:1/v1"}
    assert models(tmp_path, project, environ).resolve(spec("m")).id == "m"


def test_one_endpoint_has_one_provider(tmp_path):
    found = models(tmp_path, environ={"OPENAI_API_KEY": "k"})
    assert found.resolve(spec("a")).provider is found.resolve(spec("b")).provider


def test_a_base_url_of_the_command_line_replaces_that_of_the_default(tmp_path):
    project = {"connections": {"default": {"base_url": "http://127.0.0.1:1/v1", "api_key": "k"}}}
    found = models(tmp_path, project, base_url="http://127.0.0.1:3/v1")
    assert found.default_endpoint() == "http://127.0.0.1:3/v1"
    assert models(tmp_path).default_endpoint() is None


def test_a_providers_replacement_serves_its_type(tmp_path):
    scripted = ScriptedProvider(["x"])
    found = models(tmp_path, environ={"OPENAI_API_KEY": "k"}, providers={"openai": scripted})
    assert found.resolve(spec("gpt")).provider is scripted


async def test_the_project_file_is_used_by_every_run(workshop):
    (workshop.folder / "treadle.yaml").write_text("kind: project\nmodels:\n  mine: {id: scripted}\n")
    assert load_project(workshop.folder / "treadle.yaml")[0].models["mine"].id == "scripted"
    scene = await workshop.start(["ok"], model="mine")
    run = await scene.run()
    assert (run.status, run.model) == ("completed", "scripted")
