"""Foreign documents: each loads as it is on disk, and its problems stand where its author wrote them."""

import pytest

from treadle.definition.load import load_text


def one(text, dialect=None, *, wanted=None):
    loaded = load_text(text, dialect=wanted)
    assert [str(p) for p in loaded.errors] == []
    document = loaded.documents[0]
    assert document.dialect == dialect
    return document.agent


def noted(text):
    return [(p.code, p.line, p.severity) for p in load_text(text).problems]


def errors(text, **more):
    return [(p.code, p.line, p.column) for p in load_text(text, **more).errors]


VSCODE = """\
# yaml-language-server: $schema=https://aka.ms/ai-foundry-vsc/agent/1.0.0
version: 1.0.0
name: support-agent
description: Answers questions about our products
id: ''
metadata:
  authors:
    - jane
  tags:
    - support
model:
  id: gpt-4o
  options:
    temperature: 1
    top_p: 0.9
instructions: |-
  You are a support agent. Answer in {language} and never write {{ braces }}.
tools:
  - type: bing_grounding
    id: search
    options:
      tool_connections:
        - /subscriptions/1/connections/bing
      market: en-US
      count: 5
  - type: code_interpreter
    options:
      file_ids: [assistant-1]
  - type: openapi
    id: weather
    description: The weather service
    options:
      auth: {type: anonymous}
      specification: '{"openapi": "3.1.0", "paths": {}}'
  - type: file_search
    options:
      vector_store_ids: [vs_1]
  - type: mcp
    id: github
    options:
      server_url: https://mcp.example/mcp
      allowed_tools: [search]
"""


def test_a_foundry_vscode_file_loads_unchanged():
    agent = one(VSCODE, "foundry-vscode")
    assert agent.name == "support-agent"
    assert agent.model.id == "gpt-4o"
    assert (agent.model.options.temperature, agent.model.options.top_p) == (1, 0.9)
    assert agent.metadata == {"authors": ["jane"], "tags": ["support"]}
    assert agent.instructions.text == (
        "You are a support agent. Answer in {language} and never write {{ braces }}."
    )
    assert agent.instructions.template is None
    assert [(t.type, t.name) for t in agent.tools] == [
        ("bing_grounding", "search"),
        ("code_interpreter", None),
        ("openapi", "weather"),
        ("file_search", None),
        ("mcp", "github"),
    ]
    assert agent.unavailable == agent.tools
    assert agent.tools[0].options["market"] == "en-US"
    assert agent.tools[2].options["specification"] == {"openapi": "3.1.0", "paths": {}}
    assert agent.tools[2].description == "The weather service"


def test_the_dialect_is_said_and_each_tool_that_cannot_run():
    assert noted(VSCODE) == [
        ("TR202", 2, "note"),
        ("TR301", 19, "warning"),
        ("TR301", 26, "warning"),
        ("TR301", 29, "warning"),
        ("TR301", 35, "warning"),
        ("TR301", 38, "warning"),
    ]
    assert load_text(VSCODE).problems[0].message == "reads as: Foundry VS Code 1.0.0"


def test_vscode_tools_of_the_rest_shape_are_read_with_a_note():
    text = VSCODE.partition("tools:")[0] + (
        "tools:\n"
        "  - type: mcp\n    server_label: github\n    server_url: https://x.example\n"
        "  - type: openapi\n    openapi: {name: weather, spec: {a: 1}}\n"
        "  - type: function\n    function:\n      name: add\n      parameters: {type: object, properties: {a: {type: number}}}\n"
    )
    agent = one(text, "foundry-vscode")
    assert agent.tools[0].name == "github"
    assert agent.tools[0].options == {"server_label": "github", "server_url": "https://x.example"}
    assert agent.tools[1].name == "weather"
    assert agent.functions["add"].is_client_side
    notes = [p for p in load_text(text).problems if p.code == "TR201"]
    assert [(p.line, p.column) for p in notes] == [(19, 5), (22, 5), (24, 5)]


def test_mistakes_in_a_vscode_file_stand_where_they_were_made():
    text = """\
version: 1.0.0
name: x
instruction: hello
model:
  id: gpt-4o
  options:
    temprature: 1
    top_p: 3
  deployment: d
instructions: 12
tools:
  - type: mpc
    id: a
  - null
  - id: b
  - type: openapi
    options: {specification: '{'}
"""
    assert errors(text) == [
        ("TR104", 3, 1),
        ("TR104", 7, 5),
        ("TR103", 8, 12),
        ("TR104", 9, 3),
        ("TR102", 10, 15),
        ("TR103", 12, 11),
        ("TR102", 14, 5),
        ("TR101", 15, 5),
        ("TR101", 16, 5),
        ("TR103", 17, 30),
    ]
    assert "instructions must be a string" in load_text(text).errors[4].message


def test_a_vscode_file_needs_its_four_fields():
    found = load_text("version: 1.0.0\ntools: [{type: mcp, options: {}}]\n").errors
    assert [(p.code, p.line, p.message) for p in found] == [
        ("TR101", 1, "missing field 'instructions'"),
        ("TR101", 1, "missing field 'model'"),
        ("TR101", 1, "missing field 'name'"),
    ]


def test_a_name_that_the_native_format_cannot_hold_becomes_the_display_name():
    agent = one(
        "version: 1.0.0\nname: 'Übersetzer (v2)!'\nmodel: {id: x}\ninstructions: y\n", "foundry-vscode"
    )
    assert (agent.name, agent.display_name) == ("Ubersetzer -v2", "Übersetzer (v2)!")
    agent = one("version: 1.0.0\nname: 翻訳\nmodel: {id: x}\ninstructions: y\n", "foundry-vscode")
    assert (agent.name, agent.display_name) == ("agent", "翻訳")


def test_an_id_of_the_service_is_left_out_with_a_note():
    text = "version: 1.0.0\nid: asst_abcdefghijklmnopqrstuvwx\nname: x\nmodel: {id: x}\ninstructions: y\n"
    assert ("TR204", 2, "note") in noted(text)


REST = """\
id: asst_abc123
object: assistant
created_at: 1700000000
name: Math Tutor
description: null
model: gpt-4o
instructions: You are a tutor. {{ not a template }}
tools:
  - type: code_interpreter
  - type: file_search
    file_search: {max_num_results: 5}
  - type: function
    function:
      name: get_weather
      description: The weather
      strict: true
      parameters:
        type: object
        properties: {city: {type: string}}
        required: [city]
tool_resources:
  code_interpreter: {file_ids: [file_1]}
  file_search: {vector_store_ids: [vs_1]}
metadata: {team: maths}
temperature: 0.5
top_p: 1
response_format:
  type: json_schema
  json_schema:
    name: answer
    strict: true
    schema: {type: object, properties: {answer: {type: string}}}
"""


def test_a_rest_object_loads_unchanged():
    agent = one(REST, "rest")
    assert (agent.name, agent.description, agent.model.id) == ("Math Tutor", None, "gpt-4o")
    assert (agent.model.options.temperature, agent.model.options.top_p) == (0.5, 1)
    assert agent.instructions.text == "You are a tutor. {{ not a template }}"
    assert agent.tools[0].options == {"file_ids": ["file_1"]}
    assert agent.tools[1].options == {"max_num_results": 5, "vector_store_ids": ["vs_1"]}
    assert agent.functions["get_weather"].strict
    assert agent.functions["get_weather"].is_client_side
    assert agent.output.strict
    assert agent.output.schema_["properties"] == {"answer": {"type": "string"}}
    notes = [p for p in load_text(REST).problems if p.code == "TR204"]
    assert [p.message for p in notes] == [
        "'id', 'object' and 'created_at' are left out: the service sets them; here an agent gets its own"
    ]


def test_mistakes_in_a_rest_object_stand_where_they_were_made():
    text = REST.replace("temperature: 0.5", "temprature: 0.5").replace("type: string}\n", "type: strng}\n")
    text = text.replace("properties: {city: {type: string}}", "properties: {city: {type: strng}}")
    text = text.replace("      name: get_weather", "      nam: get_weather")
    assert errors(text) == [("TR101", 12, 5), ("TR104", 14, 7), ("TR111", 19, 35), ("TR104", 25, 1)]


def test_resources_without_their_tool_are_a_warning():
    text = "object: assistant\nmodel: x\ntool_resources: {file_search: {vector_store_ids: [a]}, code_interpreter: {}}\n"
    assert ("TR114", 3, "warning") in noted(text)
    assert one(text, "rest").tools == ()


@pytest.mark.parametrize(
    ("format_", "extra"),
    [
        ("auto", {}),
        ("{type: text}", {}),
        ("{type: json_object}", {"response_format": {"type": "json_object"}}),
    ],
)
def test_response_formats_of_a_rest_object_are_carried_over(format_, extra):
    agent = one(f"object: assistant\nmodel: x\nresponse_format: {format_}\n", "rest")
    assert agent.model.options.extra == extra
    assert agent.output is None


SCHEMA = """\
kind: prompt
name: basic-prompt
displayName: Basic Prompt
description: A basic prompt
metadata:
  authors: [jietong]
  camelCase: {keepMe: 1}
inputSchema:
  properties:
    firstName:
      kind: string
      description: The first name
      default: Jane
      example: Jane
    lastName: {kind: string, required: true}
    age: 42
    tags: {kind: array, items: {kind: string}}
outputSchema:
  properties:
    - name: answer
      kind: string
      required: true
      enumValues: ['yes', 'no']
    - name: score
      kind: float
model:
  id: gpt-4o
  provider: azure
  apiType: chat
  connection: {kind: reference, name: main}
  options:
    temperature: 0.7
    maxOutputTokens: 200
    topK: 40
    topP: 0.9
    stopSequences: [STOP]
    allowMultipleToolCalls: true
    additionalProperties: {user: abc}
template: {format: jinja2, parser: prompty}
instructions: |
  Hello {{ firstName }} {{ lastName }}.
additionalInstructions: Be brief, {{ firstName }}.
tools:
  get_weather:
    kind: function
    description: The weather
    strict: true
    parameters:
      properties:
        - name: city
          kind: string
          required: true
          description: The city
        - {name: unit, kind: string, enumValues: [c, f]}
  search:
    kind: bing_search
    connection: bing
  docs:
    kind: mcp
    serverName: docs
    approvalMode: {kind: never}
  mine: {kind: my_tool, options: {a: 1}}
"""


def test_an_agentschema_prompt_loads_unchanged():
    agent = one(SCHEMA, "agentschema")
    assert (agent.name, agent.display_name) == ("basic-prompt", "Basic Prompt")
    assert agent.metadata == {"authors": ["jietong"], "camelCase": {"keepMe": 1}}
    assert agent.inputs["firstName"].default == "Jane"
    assert agent.inputs["firstName"].json_schema["examples"] == ["Jane"]
    assert agent.inputs["lastName"].is_required
    assert not agent.inputs["firstName"].is_required
    assert agent.inputs["age"].json_schema == {"type": "number", "examples": [42]}
    assert agent.inputs["tags"].json_schema == {"type": "array", "items": {"type": "string"}}
    assert agent.output.schema_ == {
        "type": "object",
        "properties": {"answer": {"type": "string", "enum": ["yes", "no"]}, "score": {"type": "number"}},
        "required": ["answer"],
        "additionalProperties": False,
    }
    assert (agent.model.id, agent.model.connection) == ("gpt-4o", "main")
    options = agent.model.options
    assert (options.max_output_tokens, options.top_p, options.stop) == (200, 0.9, ("STOP",))
    assert options.parallel_tool_calls
    assert options.extra == {"top_k": 40, "user": "abc"}
    assert agent.instructions.template == "Hello {{ firstName }} {{ lastName }}.\n"
    assert agent.additional_instructions == "Be brief, {{ firstName }}."
    function = agent.functions["get_weather"]
    assert function.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "The city"},
            "unit": {"type": "string", "enum": ["c", "f"]},
        },
        "required": ["city"],
    }
    assert [(t.type, t.name) for t in agent.unavailable] == [
        ("bing_search", "search"),
        ("mcp", "docs"),
        ("my_tool", "mine"),
    ]
    assert agent.unavailable[1].options == {"serverName": "docs", "approvalMode": {"kind": "never"}}


def test_agentschema_without_kind_is_seen_by_its_keys():
    text = """\
name: research
model:
  id: gpt-4o
  provider: openai
  connection: main
inputs:
  - {name: topic, kind: string, required: true}
instructions: Find out about {{ topic }}.
tools:
  - {kind: function, name: f, parameters: [{name: a, kind: integer}], somethingNew: 1}
handoffs: []
"""
    agent = one(text, "agentschema")
    assert agent.model.connection == "main"
    assert agent.inputs["topic"].is_required
    assert agent.functions["f"].parameters["properties"] == {"a": {"type": "integer"}}
    assert ("TR104", 10, "warning") in noted(text)
    assert ("TR104", 11, "warning") in noted(text)


def test_mistakes_in_an_agentschema_prompt_stand_where_they_were_made():
    text = (
        SCHEMA.replace("temperature: 0.7", "temperature: hot")
        .replace("kind: array, items: {kind: string}", "kind: array, items: {kind: strng}")
        .replace("{{ lastName }}.", "{{ lstName }}.")
        .replace("maxOutputTokens: 200", "maxOutputTokens: many")
        .replace("additionalInstructions: Be", "additionalInstructions: '{% if %}' # Be")
    )
    assert errors(text) == [
        ("TR103", 17, 39),
        ("TR102", 32, 18),
        ("TR102", 33, 22),
        ("TR210", 41, 28),
        ("TR112", 42, 25),
    ]
    messages = [p.message for p in load_text(text).errors]
    assert "model.options.maxOutputTokens must be a whole number, not a string" in messages


@pytest.mark.parametrize(
    ("connection", "kept"),
    [
        (
            "{kind: key, endpoint: 'https://a.example', apiKey: '${secret:K}'}",
            ("https://a.example", "${secret:K}"),
        ),
        ("{kind: anonymous, endpoint: 'http://b.example'}", ("http://b.example", None)),
        ("{kind: remote, endpoint: 'http://b.example', name: x}", ("http://b.example", None)),
    ],
)
def test_a_connection_of_its_own_becomes_the_agents_connection(connection, kept):
    agent = one(
        f"kind: prompt\nname: x\nmodel: {{id: y, provider: azure, connection: {connection}}}\n", "agentschema"
    )
    own = agent.connections[agent.model.connection]
    assert (own.base_url, own.api_key) == kept
    assert own.type == "azure_openai"


def test_a_connection_that_needs_the_service_is_refused():
    assert errors("kind: prompt\nname: x\nmodel: {id: y, connection: {kind: oauth}}\n") == [("TR302", 3, 35)]


def test_what_another_template_language_would_mean_is_refused():
    head = "kind: prompt\nname: x\nmodel: y\ninputs: {a: b}\n"
    assert errors(f"{head}template: {{format: mustache}}\ninstructions: |\n  Hi\n  {{{{#a}}}}b{{{{/a}}}}\n")[
        0
    ] == ("TR302", 8, 3)
    assert errors(f"{head}template: {{format: fstring}}\ninstructions: x\n") == [("TR302", 5, 20)]
    assert errors(
        f"{head}template: {{format: jinja2, parser: prompty}}\ninstructions: |\n  system:\n  x\n"
    ) == [("TR302", 7, 3)]
    assert one(f"{head}template: {{format: mustache}}\ninstructions: Hi {{{{a}}}}\n", "agentschema")


def test_without_a_template_and_inputs_the_instructions_are_text():
    agent = one(
        "kind: prompt\nname: x\nmodel: y\ninstructions: '{{ a }}'\nadditionalInstructions: '{{ b }}'\n",
        "agentschema",
    )
    assert agent.instructions.text == "{{ a }}"
    assert agent.additional_instructions == "{% raw %}{{ b }}{% endraw %}"


def test_bindings_are_refused_because_nothing_acts_on_them():
    text = "kind: prompt\nname: x\nmodel: y\ntools: [{kind: function, name: f, bindings: {a: {input: b}}}]\n"
    assert errors(text) == [("TR302", 4, 35)]


FRAMEWORK = """\
kind: Prompt
name: Assistant
displayName: Assistant
description: A helpful assistant
instructions: You are helpful and answer in the language of the user.
model:
  id: =Env.AZURE_OPENAI_MODEL
  provider: AzureOpenAI
  connection:
    kind: key
    endpoint: =Env.AZURE_OPENAI_ENDPOINT
    key: =Env.AZURE_OPENAI_KEY
  options:
    temperature: 0.9
    topP: 0.95
outputSchema:
  properties:
    language: {type: string, required: true, description: The language}
    answer: {kind: string, enum: [a, b]}
tools:
  - kind: function
    name: GetWeather
    description: Get the weather
    parameters:
      properties:
        location: {type: string, required: true}
  - kind: mcp
    name: learn
    url: https://learn.example/mcp
  - {kind: web_search, name: web}
  - {kind: custom, name: own}
"""


def test_an_agent_framework_prompt_loads_unchanged():
    agent = one(FRAMEWORK, "agent-framework")
    assert agent.model.id == "${env:AZURE_OPENAI_MODEL}"
    own = agent.connections[agent.model.connection]
    assert (own.type, own.base_url, own.api_key) == (
        "azure_openai",
        "${env:AZURE_OPENAI_ENDPOINT}",
        "${env:AZURE_OPENAI_KEY}",
    )
    assert agent.instructions.text.startswith("You are helpful")
    assert agent.output.schema_["required"] == ["language"]
    assert agent.output.schema_["properties"]["answer"] == {"type": "string", "enum": ["a", "b"]}
    assert agent.functions["GetWeather"].parameters["required"] == ["location"]
    assert [t.type for t in agent.unavailable] == ["mcp", "web_search", "custom"]
    assert agent.unavailable[0].options == {"url": "https://learn.example/mcp"}


def test_kind_agent_with_a_capital_is_agent_framework():
    assert one("kind: Agent\nname: x\nmodel: y\n", "agent-framework").model.id == "y"


def test_a_formula_is_refused_with_its_line():
    text = "kind: Prompt\nname: x\nmodel: {id: =Concat(Env.A;Env.B)}\ninstructions: =If(true, 1, 2)\n"
    assert errors(text) == [("TR116", 3, 13), ("TR116", 4, 15)]
    assert errors("kind: Prompt\nname: x\nmodel: y\ninstructions: =Env.SECRET\n") == [("TR108", 4, 15)]


def test_an_unknown_key_is_an_error_in_agent_framework():
    assert errors("kind: Prompt\nname: x\nmodel: {id: y, optons: {}}\nfoo: 1\n") == [
        ("TR104", 3, 16),
        ("TR104", 4, 1),
    ]


def test_a_document_that_two_dialects_fit_is_an_error_that_names_both():
    text = "version: 1.0.0\nname: x\nmodel: {id: y}\ninstructions: z\ntemperature: 1\n"
    problem = load_text(text).errors[0]
    assert (problem.code, problem.line) == ("TR107", 1)
    assert "Foundry VS Code 1.0.0" in problem.message
    assert "REST object" in problem.message
    assert problem.hint == "say which: --dialect foundry-vscode"


def test_the_users_word_decides_between_dialects():
    text = "version: 1.0.0\nname: x\nmodel: {id: y}\ninstructions: z\ntemperature: 1\n"
    assert errors(text, dialect="foundry-vscode") == [("TR104", 5, 1)]
    assert ("TR104", 1, 1) in errors(text, dialect="rest")
    assert ("TR101", 1, 1) in errors(text, dialect="native")
    assert one("version: 1.0.0\nkind: agent\nmodel: x\n", None, wanted="rest").model.id == "x"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: hosted\nname: x\n", "needs a host"),
        ("kind: Workflow\ntrigger: {kind: OnConversationStart}\n", "Foundry workflow"),
        ("kind: AdaptiveDialog\nbeginDialog: {}\n", "Copilot Studio"),
        ("object: agent.version\ndefinition: {}\n", "portal"),
        ("type: chat_completion_agent\nname: x\n", "Semantic Kernel"),
        ("template: {kind: prompt, name: x}\nparameters: {}\n", "manifest"),
        ("name: x\nactions: []\n", "Agent Framework workflow"),
        ("apiVersion: kagent.dev/v1\nmetadata: {}\n", "Kubernetes"),
        ("document: {dsl: 1.0.0}\ndo: []\n", "Serverless Workflow"),
    ],
)
def test_a_format_that_is_known_but_not_read_is_refused_by_its_name(text, words):
    problems = load_text(text).errors
    assert [p.code for p in problems] == ["TR302"]
    assert words in problems[0].message


def test_what_nobody_knows_is_one_error():
    assert errors("services: {web: {image: x}}\n") == [("TR105", 1, 1)]


def test_x_keys_of_a_foreign_document_are_kept():
    text = "version: 1.0.0\nname: x\nmodel: {id: y}\ninstructions: z\nx-mine: 1\n"
    assert one(text, "foundry-vscode").extensions == {"x-mine": 1}


def test_agentschema_with_a_version_and_without_kind_is_seen_by_its_keys():
    text = "version: 1.0.0\nname: x\ndisplayName: X\nmodel: {id: y}\ninputs: {a: {kind: string}}\ninstructions: '{{ a }}'\n"
    assert one(text, "agentschema").inputs["a"].json_schema == {"type": "string"}
