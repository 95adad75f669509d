"""Files, projects, and the way from a name to a document."""

import pytest

from treadle.definition.load import find_document, find_project, load, load_project, load_text, split_target
from treadle.errors import ConfigurationError, DefinitionError, NotFound

AGENT = "version: 1.0.0\nkind: agent\nmodel: offline\n"
PROJECT = """\
version: 1.0.0
kind: project
name: shop
x-owner: me
python: {allow_modules: [shop_tools]}
allow: {env: [CHAT_MODEL], hosts: [a.example], stdio_mcp: []}
connections:
  main: {type: openai, base_url: '${env:URL:http://127.0.0.1:1/v1}', api_key: '${secret:KEY}', x-a: 1}
models:
  cheap: {id: gpt-4.1-mini, connection: main, context_window: 8000, price: {input: 0.4, output: 1.6}}
templates: [./shared]
defaults: {run_ttl: 1h, on_busy: reject, approval: always}
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "treadle.yaml").write_text(PROJECT)
    (tmp_path / "agents").mkdir()
    (tmp_path / "shared").mkdir()
    return tmp_path


def write(path, text):
    path.write_text(text)
    return path


def test_a_project_file_loads(project):
    spec, loaded = load_project(project / "treadle.yaml")
    assert loaded.problems == ()
    assert spec.name == "shop"
    assert spec.extensions == {"x-owner": "me"}
    assert spec.connections["main"].api_key == "${secret:KEY}"
    assert spec.models["cheap"].price.output == 1.6
    assert spec.defaults.run_ttl == "1h"


def test_mistakes_of_a_project_file_have_places(project):
    text = PROJECT.replace("allow_modules", "alow_modules").replace("connection: main", "connection: mian")
    with pytest.raises(DefinitionError) as raised:
        load_project(write(project / "treadle.yaml", text))
    assert [(p.code, p.line, p.hint) for p in raised.value.problems] == [
        ("TR104", 5, "did you mean 'allow_modules'?"),
        ("TR213", 10, "did you mean 'main'?"),
    ]


def test_a_file_that_declares_no_project_is_no_project_file(project):
    with pytest.raises(ConfigurationError, match="declares no project"):
        load_project(write(project / "treadle.yaml", AGENT))


def test_a_project_among_the_files_rules_the_others(project):
    agent = write(
        project / "agents" / "a.yaml", f"{AGENT}tools: [{{type: function, name: f, call: 'os:system'}}]\n"
    )
    loaded = load([agent, project / "treadle.yaml"])
    assert [p.code for p in loaded.errors] == ["TR214"]
    assert load([agent]).errors == ()


def test_each_project_rules_its_own_documents_only(tmp_path):
    tool = "tools: [{type: function, name: f, call: 'shop_tools:f'}]\n"
    paths = []
    for name, modules in (("one", "shop_tools"), ("two", "others")):
        (tmp_path / name).mkdir()
        text = f"version: 1.0.0\nkind: project\npython: {{allow_modules: [{modules}]}}\n"
        paths.append(write(tmp_path / name / "treadle.yaml", text))
        paths.append(write(tmp_path / name / "a.yaml", f"{AGENT}name: same\n{tool}"))
    found = [(p.code, p.file) for p in load(paths).errors]
    assert found == [("TR214", str(tmp_path / "two" / "a.yaml"))]


def test_problems_of_all_files_come_in_order_of_place(project):
    second = write(project / "b.yaml", f"{AGENT}nme: x\nlimts: {{}}\n")
    first = write(project / "a.yaml", f"{AGENT}name: 1\n")
    away = project / "0.yaml"
    loaded = load([second, first, away])
    assert [(p.file, p.line, p.code) for p in loaded.problems] == [
        (str(away), None, "TR001"),
        (str(first), 4, "TR102"),
        (str(second), 4, "TR104"),
        (str(second), 5, "TR104"),
    ]


def test_a_sound_document_loads_beside_a_broken_one(project):
    loaded = load([write(project / "a.yaml", f"{AGENT}name: a\n"), write(project / "b.yaml", "kind: [\n")])
    assert [d.name for d in loaded.documents] == ["a"]
    assert loaded.errors


def test_files_that_cannot_be_read_are_problems(project):
    binary = project / "b.yaml"
    binary.write_bytes(b"a: \xff\xfe\n")
    large = write(project / "l.yaml", "#" * (1 << 20) + "\n")
    loaded = load([project, binary, large, project / "away.yaml"])
    assert sorted(p.code for p in loaded.errors) == ["TR001", "TR001", "TR001", "TR003"]


def test_instructions_may_stand_in_a_file_which_is_a_template_too(project):
    write(project / "agents" / "prompt.md", "Hello {{ who }}.\n")
    path = project / "agents" / "a.yaml"
    write(path, f"{AGENT}inputs: {{who: string}}\ninstructions: {{file: prompt.md, x-note: 1}}\n")
    assert load([path]).documents[0].agent.instructions.template == "Hello {{ who }}.\n"
    write(path, f"{AGENT}instructions: {{file: prompt.md}}\n")
    problem = load([path]).errors[0]
    assert problem.file.endswith("prompt.md")
    assert (problem.code, problem.line, problem.column) == ("TR210", 1, 10)
    assert problem.file in load([path]).sources


def test_a_misspelt_file_key_is_answered(project):
    write(project / "p.md", "x")
    loaded = load([write(project / "a.yaml", f"{AGENT}instructions: {{file: p.md, fiel: p.md}}\n")])
    assert [(p.code, p.hint) for p in loaded.errors] == [("TR104", "did you mean 'file'?")]


@pytest.mark.parametrize("name", ["away.md", "../outside.md", "/etc/hostname", "link.md", "''", "."])
def test_an_instructions_file_must_lie_in_the_project(project, tmp_path_factory, name):
    outside = write(tmp_path_factory.mktemp("other") / "outside.md", "x")
    (project / "link.md").symlink_to(outside)
    loaded = load([write(project / "a.yaml", f"{AGENT}instructions: {{file: {name}}}\n")])
    assert [(p.code, p.line) for p in loaded.errors] == [("TR115", 4)]


def test_a_file_may_be_taken_from_anywhere_in_the_project(project):
    write(project / "shared" / "p.md", "shared text")
    path = write(project / "agents" / "a.yaml", f"{AGENT}instructions: {{file: ../shared/p.md}}\n")
    assert load([path]).documents[0].agent.instructions.template == "shared text"


def test_includes_become_part_of_the_agent(project):
    write(project / "shared" / "tone.md", "Be kind to {{ who }}.{% include 'end.md' %}")
    write(project / "shared" / "end.md", " The end.")
    write(project / "agents" / "beside.md", "Beside.")
    text = f"{AGENT}inputs: {{who: string}}\ninstructions: |\n  {{% include 'tone.md' %}}\n  {{% include 'beside.md' %}}\n"
    spec, _ = load_project(project / "treadle.yaml")
    loaded = load([write(project / "agents" / "a.yaml", text)], project=spec)
    assert loaded.errors == ()
    told = loaded.documents[0].agent.instructions.template
    assert told == "Be kind to {{ who }}. The end.\nBeside.\n"


def test_an_include_that_is_away_is_an_error_at_the_include(project):
    text = f"{AGENT}instructions: |\n  one\n  {{% include 'away.md' %}}\n"
    problem = load([write(project / "a.yaml", text)]).errors[0]
    assert (problem.code, problem.line, problem.column) == ("TR115", 6, 15)


def test_a_template_that_includes_itself_is_refused(project):
    write(project / "loop.md", "x{% include 'loop.md' %}")
    loaded = load([write(project / "a.yaml", f"{AGENT}instructions: {{file: loop.md}}\n")])
    assert [p.code for p in loaded.errors] == ["TR115"]


def test_includes_may_not_grow_without_end(project):
    write(project / "big.md", "x" * 200_000)
    text = f"{AGENT}instructions: |\n  {{% include 'big.md' %}}\n  {{% include 'big.md' %}}\n"
    loaded = load([write(project / "a.yaml", text)])
    assert [p.code for p in loaded.errors] == ["TR115"]


def test_the_nearest_project_file_above_counts(project):
    inner = project / "agents" / "deep"
    inner.mkdir()
    assert find_project(inner) == project / "treadle.yaml"
    write(inner / "treadle.yaml", PROJECT)
    assert find_project(inner / "x.yaml") == inner / "treadle.yaml"


def test_an_agent_is_found_by_path_by_name_and_by_the_name_of_its_file(project):
    weather = write(project / "agents" / "w.agent.yaml", f"# an agent\n{AGENT}name: weather  # its name\n")
    nameless = write(project / "plain.agent.yaml", AGENT)
    quoted = write(project / "q.yml", f"{AGENT}name: 'two words'\n---\n{AGENT}name: second\n")
    write(project / "flow.yaml", "version: 1.0.0\nkind: workflow\nname: flow\n")
    assert find_document(str(weather), kind="agent", project_root=project) == weather
    assert find_document(f"{quoted}#second", kind="agent", project_root=project) == quoted
    assert find_document("weather", kind="agent", project_root=project) == weather
    assert find_document("plain", kind="agent", project_root=project) == nameless
    assert find_document("two words", kind="agent", project_root=project) == quoted
    assert find_document("second", kind="agent", project_root=project) == quoted
    with pytest.raises(NotFound) as raised:
        find_document("wether", kind="agent", project_root=project)
    assert raised.value.hint == "did you mean 'weather'?"
    with pytest.raises(NotFound) as raised:
        find_document("flow", kind="agent", project_root=project)
    with pytest.raises(NotFound) as raised:
        find_document(str(project / "agents" / "v.agent.yaml"), kind="agent", project_root=project)
    assert raised.value.hint == "did you mean 'w.agent.yaml'?"


def test_a_name_that_two_files_declare_is_refused(project):
    write(project / "a.yaml", f"{AGENT}name: x\n")
    write(project / "b.yaml", f"{AGENT}name: x\n")
    with pytest.raises(ConfigurationError, match="several files declare an agent 'x'"):
        find_document("x", kind="agent", project_root=project)


def test_a_document_is_picked_by_name():
    loaded = load_text(f"{AGENT}name: one\n---\n{AGENT}name: two\n")
    assert loaded.pick("two").line == 6
    with pytest.raises(ConfigurationError, match="has 2 agents: one and two"):
        loaded.pick()
    with pytest.raises(NotFound) as raised:
        loaded.pick("tow")
    assert raised.value.hint == "did you mean 'two'?"
    assert load_text(f"{AGENT}name: one\n").pick().name == "one"
    assert split_target("a.yaml#two") == ("a.yaml", "two")
    assert split_target("a.yaml") == ("a.yaml", None)


def test_an_unknown_dialect_is_a_configuration_error():
    with pytest.raises(ConfigurationError) as raised:
        load_text(AGENT, dialect="foundry-vscod")
    assert raised.value.hint == "did you mean 'foundry-vscode'?"
