"""The workflows of this folder, built in Python: the same nodes, the same checks, the same digests."""

from pathlib import Path
from typing import Annotated

from checks import markdown
from pydantic import BaseModel
from web_pages import files

from treadle import END, START, AgentSpec, Graph

HERE = Path(__file__).parent

translator = AgentSpec.model_validate(
    {
        "name": "translator",
        "model": {"id": "offline"},
        "inputs": {
            "language": {"type": "string"},
            "glossary": {"type": "array", "items": {"type": "string"}, "default": []},
        },
        "instructions": {
            "template": "Translate the user's text into {{ language }}. Keep Markdown as it is.\n"
            "{% for term in glossary %}\n"
            '- leave "{{ term }}" untranslated\n'
            "{% endfor %}\n"
        },
    }
)


class Polished(BaseModel):
    """The state of `polish`."""

    text: str = ""
    problems: list[str] = []


# What a loop repeats is a graph of its own.
rounds = Graph()
rounds.add_agent(
    "draft",
    "translator",
    thread="new",
    inputs={"language": "{{ inputs.language }}", "glossary": ["runner", "step graph"]},
    message="{{ inputs.notes }}\n{% for p in state.problems %}\nFix: {{ p }}\n{% endfor %}\n",
    save={"text": "result.text"},
)
rounds.add_node(
    "check",
    markdown.same_structure,
    with_={"source": "{{ inputs.notes }}", "target": "{{ state.text }}"},
    effect="pure",
    save={"problems": "result"},
)
rounds.add_path([START, "draft", "check", END])

polish = Graph(
    "polish",
    folder=HERE,
    inputs={"language": "string", "notes": "string"},
    state=Polished,
    outputs={"text": "state.text", "clean": "not state.problems"},
)
# The document names its agent plainly, as one of the same file; `add_agent` would write `#translator` for the spec itself.
polish.documents["translator"] = translator
polish.add_loop(
    "refine", rounds, max_iterations=3, until="state.text and not state.problems", on_exhausted="continue"
)
polish.add_path([START, "refine", END])

publish = Graph(
    "publish",
    folder=HERE,
    description="Put each page on the site, one after the other.",
    inputs={"pages": {"type": "object", "additionalProperties": {"type": "string"}}},
    outputs={"published": "(result_of.put|default({})).collected"},
)
page = Graph()
page.add_node(
    "put", files.put, with_={"language": "{{ page[0] }}", "text": "{{ page[1] }}"}, effect="idempotent"
)
publish.add_map(
    "put",
    page,
    over="inputs.pages|items",
    as_="page",
    max_concurrency=1,
)
publish.add_path([START, "put", END])


class Translated(BaseModel):
    """The state of `release-notes`."""

    translations: Annotated[dict[str, object], "merge"] = {}


g = Graph(
    "release-notes",
    folder=HERE,
    description="Translate release notes, improve each translation until a check passes, then publish.",
    inputs={
        "notes": "string",
        "languages": {"type": "array", "items": {"type": "string"}, "default": ["de", "fr"]},
    },
    state=Translated,
    outputs={"translations": "state.translations"},
    start="translate_all",
)
g.add_map(
    "translate_all",
    over="inputs.languages",
    as_="language",
    workflow=polish,
    with_={"language": "{{ language }}", "notes": "{{ inputs.notes }}"},
    max_concurrency=2,
    collect="{language: result.text}",
    save={"translations": "result.merged"},
)
g.add_switch("choose", "inputs.languages|length", {0: "nothing_to_do"}, default="publish")
g.add_end("nothing_to_do", outputs={"translations": {}})
g.add_graph("publish", "./publish.workflow.yaml", with_={"pages": "{{ state.translations }}"})
g.add_path(["translate_all", "choose"])
g.add_edge("publish", END)
