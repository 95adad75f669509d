"""The native agent document: what it becomes, and what each mistake in it says."""

import time

import pytest

from treadle.definition.load import load_text
from treadle.errors import DefinitionError
from treadle.objects.agent import ModelEntry, Price
from treadle.objects.project import ProjectSpec, PythonSpec
from treadle.objects.record import parse_duration

HEAD = "version: 1.0.0\nkind: agent\nmodel: offline\n"


def one(text, **more):
    loaded = load_text(text, **more)
    assert [str(p) for p in loaded.errors] == []
    return loaded.documents[0].agent


def problem(text, **more):
    """Give the only error of a text."""
    loaded = load_text(text, **more)
    assert len(loaded.errors) == 1, [str(p) for p in loaded.errors]
    assert loaded.documents == ()
    return loaded.errors[0]


def at(p):
    return p.code, p.line, p.column, p.end_column


WHOLE = """\
# yaml-language-server: $schema=../schemas/agent-1.schema.json
version: 1.0.0
kind: agent
name: returns-desk
display_name: Returns
description: Answers questions about returns.
metadata:
  authors: [support-platform]
x-owner: shop
model:
  id: ${env:CHAT_MODEL:gpt-4.1-mini}
  connection: main_llm
  options:
    temperature: 0.2
    max_output_tokens: 900
    stop: [END]
    extra: {user: x, x-kept: 1}
    x-why: careful
inputs:
  name: string
  locale: {type: string, enum: [en, de], default: en}
  vip: {type: boolean, default: false, required: false}
instructions: |
  You work at the returns desk. Write in {{ locale }}.
  {% if vip %}Greet {{ name }}.{% endif %} It is {{ now }}; this is run {{ run.id }} of {{ agent.name }}.
additional_instructions: Be brief, {{ name }}.
output:
  schema:
    type: object
    properties: {reply: {type: string}}
    required: [reply]
  strict: false
tools:
  - type: function
    name: get_order
    description: Look up one order.
    call: shop_tools.orders:get_order
    effect: pure
    timeout: 10s
    retry: {max_attempts: 3, on: [timeout, connection]}
    pass: [run]
    approval:
      when: args.amount > 200 and tool.name == 'get_order'
      message: 'Look up {{ args.order_id }}?'
    x-note: {a: 1}
  - type: function
    name: pick_format
    parameters:
      type: object
      properties: {carrier: {type: string}}
  - {type: function, name: registered, runs: server}
tool_choice: get_order
thread: {truncation: last, keep_last: 20}
limits: {max_steps: 12, max_tool_calls: 20, timeout: 2m}
approval: {always: [get_order], never: [pick_format]}
retry: {max_attempts: 2}
timeout: PT30S
connections:
  main_llm: {base_url: 'https://llm.example/v1', api_key: '${secret:KEY}', headers: {x-team: '${env:TEAM}'}}
tests:
  - name: small return
    inputs: {name: Ada}
    messages: [{user: Take it back.}]
    mock:
      model: [{call: get_order, arguments: {id: 1}}, {text: Done}, {json: {a: 1}}]
      tools: {get_order: {returns: 1}}
    expect: {status: completed, tools_called: [get_order], assert: ["'x' not in output.reply|lower"]}
"""


def test_a_whole_document_loads_as_it_was_written():
    agent = one(WHOLE)
    assert agent.name == "returns-desk"
    assert agent.extensions == {"x-owner": "shop"}
    assert agent.model.id == "${env:CHAT_MODEL:gpt-4.1-mini}"
    assert agent.model.options.extra == {"user": "x", "x-kept": 1}
    assert agent.model.options.stop == ("END",)
    assert agent.inputs["name"].json_schema == {"type": "string"}
    assert agent.inputs["name"].is_required
    assert not agent.inputs["locale"].is_required
    assert agent.instructions.template.startswith("You work at the returns desk.")
    assert agent.output.schema_["required"] == ["reply"]
    assert [t.name for t in agent.tools] == ["get_order", "pick_format", "registered"]
    assert agent.functions["get_order"].pass_ == ("run",)
    assert agent.functions["pick_format"].is_client_side
    assert not agent.functions["registered"].is_client_side
    assert agent.connections["main_llm"].headers == {"x-team": "${env:TEAM}"}
    assert agent.tests[0]["mock"]["model"][2] == {"json": {"a": 1}}
    assert parse_duration(agent.timeout) == 30


def test_notes_say_which_functions_the_client_runs():
    notes = [p for p in load_text(WHOLE).problems if p.severity == "note"]
    assert [(p.code, p.line) for p in notes] == [("TR203", WHOLE.splitlines().index("    name: pick_format"))]
    assert "pick_format" in notes[0].message


def test_a_function_that_says_who_runs_it_needs_no_note():
    text = f"{HEAD}tools: [{{type: function, name: f, runs: client, parameters: {{type: object}}}}]\n"
    assert load_text(text).problems == ()


TEN = """\
version: 1.0
kind: agent
name: "!bad"
model:
  id: gpt
  options:
    temprature: 0.2
    top_p: 7
instructions: |
  Hello {{ nmae }}.
inputs:
  name: strng
tools:
  - type: functon
    name: x
  - type: function
    nam: y
limits:
  max_steps: many
  timeout: 20
tool_choice: auto
name: again
"""


def test_ten_mistakes_in_one_file_are_ten_errors_at_their_places():
    found = [(p.code, p.line, p.column) for p in load_text(TEN).errors]
    assert found == [
        ("TR106", 1, 10),
        ("TR103", 3, 7),
        ("TR104", 7, 5),
        ("TR103", 8, 12),
        ("TR210", 10, 12),
        ("TR111", 12, 9),
        ("TR103", 14, 11),
        ("TR101", 16, 5),
        ("TR104", 17, 5),
        ("TR102", 19, 14),
        ("TR103", 20, 12),
        ("TR004", 22, 1),
    ]


def test_an_unknown_field_is_an_error_under_its_key():
    p = problem(f"{HEAD.replace('model: offline', 'model: {id: offline, options: {temprature: 0.2}}')}")
    assert at(p) == ("TR104", 3, 32, 42)
    assert p.message == "unknown field 'temprature' in model.options"
    assert p.hint == "did you mean 'temperature'?"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("instrutions: x", "instructions"),
        ("tool: []", "tools"),
        ("toolChoice: auto", "tool_choice"),
        ("Limits: {}", "limits"),
    ],
)
def test_a_misspelt_field_is_answered_with_what_was_meant(written, meant):
    assert problem(HEAD + written + "\n").hint == f"did you mean '{meant}'?"


def test_a_missing_field_is_an_error_at_the_key_that_holds_it():
    assert at(problem("version: 1.0.0\nkind: agent\nmodel:\n  options: {seed: 1}\n")) == ("TR101", 3, 1, 6)
    p = problem(f"{HEAD}output:\n  strict: true\n")
    assert (at(p), p.message) == (("TR101", 4, 1, 7), "missing field 'schema' in output")


def test_a_missing_field_of_the_document_is_an_error_at_its_start():
    p = problem("# a comment\nversion: 1.0.0\nkind: agent\nname: x\n")
    assert (p.code, p.line, p.column, p.message) == ("TR101", 2, 1, "missing field 'model'")


def test_a_missing_field_of_a_list_item_is_an_error_at_the_item():
    p = problem(f"{HEAD}tools:\n  - type: function\n    call: a:b\n")
    assert (p.code, p.line, p.column) == ("TR101", 5, 5)


def test_a_field_without_a_value_is_an_error_at_its_key():
    p = problem(f"{HEAD}limits:\nname: x\n")
    assert (at(p), p.message) == (("TR102", 4, 1, 7), "limits must be a mapping, but is left empty")


@pytest.mark.parametrize(
    ("text", "code", "message", "hint"),
    [
        ("name: 12", "TR102", "name must be a string, not a number", "quote it"),
        (
            "limits: {max_steps: '3'}",
            "TR102",
            "limits.max_steps must be a whole number, not a string",
            "write the number without quotes",
        ),
        ("limits: {max_steps: 0}", "TR103", "limits.max_steps is 0; it must be at least 1", None),
        (
            "timeout: 20",
            "TR103",
            "timeout: a duration needs a unit: write it as a string such as 20s, 5m or 1h30m",
            None,
        ),
        (
            "timeout: 20 parsecs",
            "TR103",
            "timeout: '20 parsecs' is not a duration: write 500ms, 20s, 5m, 1h30m, 2d or PT5M",
            None,
        ),
        (
            "approval: alway",
            "TR103",
            "approval is 'alway'; expected never, always or a mapping",
            "did you mean 'always'?",
        ),
        ("approval: [a]", "TR102", "approval must be never, always or a mapping, not a list", None),
        ("approval: {alwys: [a]}", "TR104", "unknown field 'alwys' in approval", "did you mean 'always'?"),
        ("thread: {truncation: first}", "TR103", "thread.truncation is 'first'; expected auto or last", None),
        (
            "retry: {on: [tiemout]}",
            "TR103",
            "retry.on[0]: 'tiemout' is not an error code",
            "did you mean 'timeout'?",
        ),
        ("tools: {}", "TR102", "tools must be a list, not a mapping", None),
        ("tools: [x]", "TR102", "tools[0] must be a mapping, not a string", None),
        ("metadata: x", "TR102", "metadata must be a mapping, not a string", None),
        ("instructions: [a]", "TR102", "instructions must be a string or {file: path}, not a list", None),
        (
            "inputs: {a: {type: object, properties: {b: 3}}}",
            "TR111",
            "inputs.a.properties.b must be a JSON Schema, not a number",
            None,
        ),
        ("inputs: [a]", "TR102", "inputs must be a mapping, not a list", None),
        ("tests: [{nam: x, name: y}]", "TR104", "unknown field 'nam' in tests[0]", "did you mean 'name'?"),
        (
            "tests: [{name: x, expect: {output: 1, pth: [a]}}]",
            "TR104",
            "unknown field 'pth' in tests[0].expect",
            "did you mean 'path'?",
        ),
        ("extensions: {}", "TR104", "unknown field 'extensions'", "write a key that begins with x-"),
    ],
)
def test_a_wrong_value_is_answered_in_plain_words(text, code, message, hint):
    p = problem(f"{HEAD}{text}\n")
    assert (p.code, p.message, p.hint) == (code, message, hint)


def test_yes_is_text_and_the_error_says_so():
    p = problem(f"{HEAD}tools: [{{type: function, name: f, call: 'a:b', strict: yes}}]\n")
    assert (p.code, p.hint) == ("TR102", "YAML 1.2 reads yes as text: write true or false")


def test_no_message_speaks_the_validators_language():
    broken = [
        TEN,
        f"{HEAD}model: {{id: 3, options: {{stop: 5, seed: x, top_p: true, extra: []}}}}\noutput: []\n",
    ]
    for text in broken:
        for p in load_text(text).errors:
            for word in ("Input should", "valid", "str_", "Extra inputs", "tuple", "dict", "Field required"):
                assert word not in p.message


def test_the_names_that_python_uses_inside_are_no_fields():
    p = problem(f"{HEAD}tools: [{{type: function, name: f, call: 'a:b', pass_: []}}]\n")
    assert (p.code, p.hint) == ("TR104", "did you mean 'pass'?")


@pytest.mark.parametrize(
    "field",
    ["extends: ./base.yaml", "env: [A]", "id: asst_1", "model: {id: x, api: responses}", "model: {id: x, fallback: [y]}",
     "output: {schema: {type: object}, repair: 1}", "thread: {summarize_at_tokens: 1000}", "model: {id: x, provider: azure}"],
)  # fmt: skip
def test_a_known_field_that_is_not_built_is_refused_by_name(field):
    head = HEAD if not field.startswith("model") else HEAD.replace("model: offline\n", "")
    p = problem(f"{head}{field}\n")
    assert p.code == "TR302"
    assert p.message.endswith("is known to the format but not built yet")


@pytest.mark.parametrize(
    "kind", ["openapi", "mcp", "code_interpreter", "connected_agent", "bing_grounding", "azure_function"]
)
def test_a_tool_kind_that_is_not_built_is_refused_by_name(kind):
    p = problem(f"{HEAD}tools:\n  - type: {kind}\n    name: x\n    whatever: 1\n")
    assert at(p) == ("TR301", 5, 11, 11 + len(kind))
    assert f"'{kind}'" in p.message


def test_an_unknown_tool_kind_is_answered_with_what_was_meant():
    assert problem(f"{HEAD}tools: [{{type: functon}}]\n").hint == "did you mean 'function'?"


def test_a_kind_that_nobody_knows_is_an_error_at_the_kind():
    p = problem("version: 1.0.0\nkind: agnet\nmodel: x\n")
    assert (at(p), p.hint) == (("TR105", 2, 7, 12), "did you mean 'agent'?")


def test_kind_prompt_with_a_version_is_native():
    loaded = load_text("version: 1.0.0\nkind: prompt\nmodel: offline\n")
    assert (loaded.documents[0].dialect, loaded.documents[0].agent.kind) == (None, "agent")


def test_a_native_document_without_kind_is_told_so():
    p = problem("version: 1.0.0\nmodel: offline\nlimits: {max_steps: 3}\n")
    assert (p.code, p.line, p.message) == ("TR101", 1, "missing field 'kind'")


@pytest.mark.parametrize(
    ("version", "said"), [("1.0", "the number 1.0"), ("1", "the number 1"), ("", "empty"), ("[1]", "a list")]
)
def test_a_version_that_is_no_text_is_refused_with_the_quoted_form(version, said):
    p = problem(f"version: {version}\nkind: agent\nmodel: offline\n")
    assert (p.code, p.line, p.hint) == ("TR106", 1, "write: version: '1.0.0'")
    assert said in p.message


def test_a_later_version_of_the_format_is_refused_and_a_minor_one_is_read():
    assert problem("version: 2.0.0\nkind: agent\nmodel: x\n").code == "TR106"
    assert one("version: 1.4.2\nkind: agent\nmodel: x\n").version == "1.4.2"


@pytest.mark.parametrize(
    ("text", "line", "column", "end", "name"),
    [
        ("instructions: |\n  Hi {{ nam }}.\n", 4 + 1, 9, 12, "nam"),
        ("instructions: |\n\n  a\n\n  b {{ nam }}\n", 8, 8, 11, "nam"),
        ("instructions: 'Hi {{ nam }}.'\n", 4, 22, 25, "nam"),
        ("instructions: Hi {{ nam }}.\n", 4, 21, 24, "nam"),
        ("instructions: >\n  Some words and\n  then {{ nam }}.\n", 6, 11, 14, "nam"),
        ('instructions: "tab\\t{{ nam }}"\n', 4, 24, 27, "nam"),
        ("additional_instructions: |-\n    deep {{ nam }}\n", 5, 13, 16, "nam"),
    ],
)
def test_an_undeclared_name_is_found_where_it_is_written(text, line, column, end, name):
    p = problem(f"{HEAD}inputs: {{name: string}}\n".replace("inputs", "inputs") + text)
    assert (p.code, p.line, p.column, p.end_column) == ("TR210", line + 1, column, end)
    assert name in p.message


def test_a_broken_template_is_found_on_its_line():
    p = problem(f"{HEAD}instructions: |\n  one\n  {{% if x %}}\n")
    assert p.code == "TR112"
    assert p.line in (5, 6)


def test_prompts_cannot_read_the_environment():
    p = problem(f"{HEAD}instructions: 'Use {{{{ env.KEY }}}}'\n")
    assert (p.code, p.message, p.hint) == ("TR108", "prompts cannot read the environment", "declare an input")


def test_an_approval_may_use_args_and_tool_only():
    text = f"{HEAD}tools:\n  - {{type: function, name: f, call: 'a:b', approval: {{when: 'arg.x > 1'}}}}\n"
    p = problem(text)
    assert (p.code, p.line, p.column) == ("TR210", 5, 62)
    text = f"{HEAD}tools:\n  - {{type: function, name: f, call: 'a:b', approval: {{when: 'args.x >'}}}}\n"
    assert problem(text).code == "TR113"
    text = f"{HEAD}tools:\n  - {{type: function, name: f, call: 'a:b', approval: {{when: 'true', message: '{{{{ x }}}}'}}}}\n"
    assert problem(text).code == "TR210"


def test_an_input_may_not_take_a_name_of_treadle():
    p = problem(f"{HEAD}inputs:\n  run: string\n")
    assert at(p) == ("TR211", 5, 3, 6)


def test_an_input_must_have_a_name_that_templates_can_use():
    assert problem(f"{HEAD}inputs:\n  first-name: string\n").code == "TR103"


def test_a_default_must_be_of_its_type():
    p = problem(f"{HEAD}inputs:\n  n: {{type: integer, default: three}}\n")
    assert (p.code, p.line, p.column) == ("TR103", 5, 31)
    assert problem(f"{HEAD}inputs:\n  n: {{type: string, enum: [a, b], default: c}}\n").code == "TR103"
    assert one(f"{HEAD}inputs:\n  n: {{type: [string, 'null'], default: null}}\n").inputs["n"].default is None


@pytest.mark.parametrize(
    ("parameters", "column"),
    [
        ("{properties: {}}", 3),
        ("{type: array}", 22),
        ("{type: object, properties: [a]}", 42),
        ("{type: object, properties: {a: {type: strng}}}", 53),
        ("{type: object, required: a}", 40),
        ("{type: object, properties: {a: {minLength: -1}}}", 58),
        ("{type: object, properties: {a: {pattern: '('}}}", 56),
        ("{type: object, properties: {a: {anyOf: []}}}", 54),
        ("{type: object, properties: {a: {$ref: 'http://x'}}}", 53),
        ("{type: object, properties: {a: 3}}", 46),
        ("{type: object, properties: {a: {enum: x}}}", 53),
    ],
)
def test_parameters_must_be_a_json_schema_of_an_object(parameters, column):
    p = problem(f"{HEAD}tools:\n- type: function\n  name: f\n  parameters: {parameters}\n")
    assert (p.code, p.line, p.column) == ("TR111", 7, column)


def test_parameters_that_refuse_everything_else_are_sound():
    text = "{type: object, properties: {a: {type: [string, 'null'], items: {}, not: {const: 1}}}, additionalProperties: false}"
    assert one(f"{HEAD}tools: [{{type: function, name: f, parameters: {text}}}]\n").functions["f"].parameters


def test_a_function_without_call_needs_parameters():
    p = problem(f"{HEAD}tools:\n  - type: function\n    name: f\n")
    assert (p.code, p.line, p.message) == ("TR101", 5, "missing field 'parameters' in tools[0]")


def test_retry_on_a_tool_with_effect_once_is_an_error():
    p = problem(f"{HEAD}tools:\n  - {{type: function, name: f, call: 'a:b', retry: {{max_attempts: 2}}}}\n")
    assert at(p) == ("TR114", 5, 44, 49)
    assert "by default" in p.message


def test_contradictions_of_a_function_are_errors():
    assert problem(f"{HEAD}tools: [{{type: function, name: f, call: 'a:b', runs: client}}]\n").code == "TR114"
    text = f"{HEAD}tools: [{{type: function, name: f, parameters: {{type: object}}, pass: [run]}}]\n"
    assert problem(text).code == "TR114"


def test_two_tools_of_one_name_are_an_error_at_the_second():
    tool = "  - {type: function, name: f, call: 'a:b'}\n"
    p = problem(f"{HEAD}tools:\n{tool}{tool}")
    assert (at(p), p.hint) == (("TR211", 6, 28, 29), "the first one is on line 5")


def test_names_of_tools_are_checked_where_they_are_used():
    tools = "tools: [{type: function, name: get_order, call: 'a:b'}]\n"
    p = problem(f"{HEAD}{tools}tool_choice: get_oder\n")
    assert (at(p), p.hint) == (("TR212", 5, 14, 22), "did you mean 'get_order'?")
    p = problem(f"{HEAD}{tools}approval: {{never: [get_oder]}}\n")
    assert (p.code, p.hint) == ("TR212", "did you mean 'get_order'?")


def test_keep_last_goes_with_truncation_last():
    assert problem(f"{HEAD}thread: {{truncation: last}}\n").code == "TR101"
    assert problem(f"{HEAD}thread: {{keep_last: 3}}\n").code == "TR114"


def test_assertions_of_tests_are_expressions():
    p = problem(f"{HEAD}tests: [{{name: x, expect: {{assert: ['output.a ==']}}}}]\n")
    assert p.code == "TR113"


PROJECT = ProjectSpec(
    python=PythonSpec(allow_modules=("shop_tools",)),
    models={
        "cheap": ModelEntry(id="gpt-4.1-mini", price=Price(input=1, output=2)),
        "free": ModelEntry(id="offline"),
        "unknown": ModelEntry(id="gpt-9"),
    },
)


def test_a_call_must_lie_on_the_projects_allow_list():
    tool = "tools:\n  - {{type: function, name: f, call: '{}'}}\n"
    assert one(HEAD + tool.format("shop_tools.orders:get"), project=PROJECT)
    assert one(HEAD + tool.format("shop_tools:get"), project=PROJECT)
    p = problem(HEAD + tool.format("shop_tools_evil:get"), project=PROJECT)
    assert (p.code, p.line, p.column) == ("TR214", 5, 37)
    assert "allow_modules" in p.hint
    assert one(HEAD + tool.format("os:system")).functions["f"].call == "os:system"


def test_nothing_that_a_document_names_is_imported(tmp_path, monkeypatch):
    (tmp_path / "trap_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    project = ProjectSpec(python=PythonSpec(allow_modules=("trap_module",)))
    assert one(f"{HEAD}tools: [{{type: function, name: f, call: 'trap_module:f'}}]\n", project=project)


def test_a_cost_limit_needs_a_price():
    text = "version: 1.0.0\nkind: agent\nmodel: {}\nlimits: {{max_cost_usd: 0.05}}\n"
    for model in ("cheap", "free", "offline", "${env:MODEL}"):
        assert one(text.format(model), project=PROJECT)
    for model in ("unknown", "gpt-5"):
        assert at(problem(text.format(model), project=PROJECT)) == ("TR215", 4, 10, 22)
    assert one(text.format("gpt-5"))


def test_a_connection_must_exist_when_the_project_is_known():
    text = "version: 1.0.0\nkind: agent\nmodel: {id: x, connection: main}\n"
    assert problem(text, project=PROJECT).code == "TR213"
    assert one(text + "connections: {main: {base_url: 'http://x'}}\n", project=PROJECT)


def test_raise_if_bad_carries_every_error():
    with pytest.raises(DefinitionError) as raised:
        load_text(TEN).raise_if_bad()
    assert len(raised.value.problems) == 12
    load_text(WHOLE).raise_if_bad()


def test_two_agents_of_one_name_are_an_error():
    p = load_text(f"{HEAD}name: a\n---\n{HEAD}name: a\n").errors[0]
    assert (p.code, p.line, p.hint) == ("TR211", 6, "the first one is <text>:1")


PLAIN = """\
version: 1.0.0
kind: agent
name: weather
description: Tells the weather and converts temperatures.
metadata:
  authors: [docs]
model:
  id: gpt-4.1-mini
  options:
    temperature: 0.2
    max_output_tokens: 900
instructions: |
  You tell the weather in one short sentence.
  Look it up before you answer.
tools:
  - type: function
    name: get_weather
    description: The weather in a city now.
    call: tools:get_weather
    effect: pure
    timeout: 10s
  - type: function
    name: to_fahrenheit
    description: Convert degrees Celsius.
    call: tools:to_fahrenheit
    effect: pure
limits:
  max_steps: 12
  max_tool_calls: 20
  timeout: 2m
"""


def test_a_plain_file_of_thirty_lines_loads_in_three_milliseconds():
    assert len(PLAIN.splitlines()) == 30
    one(PLAIN)
    best = 1.0
    for _ in range(20):
        begun = time.process_time()
        load_text(PLAIN)
        best = min(best, time.process_time() - begun)
    assert best < 0.003


def test_a_plain_file_loads_no_template_engine():
    import subprocess
    import sys

    code = (
        "import sys; from treadle.definition.load import load_text\n"
        f"assert not load_text({PLAIN!r}).errors\n"
        "print([m for m in ('jinja2', 'networkx', 'openai', 'jsonschema_rs', 'dotenv', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
