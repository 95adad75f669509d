"""The workflow of `launch.workflow.yaml`, built in Python."""

from treadle import END, START, AgentSpec, Graph

SPEAKERS = {
    "engineer": "The engineer says that the launch needs two more weeks.\n",
    "lawyer": "The lawyer says that the launch needs a new licence text.\n",
    "editor": "The editor says that the launch needs an announcement.\n",
}
QUESTION = """\
The topic is {{ inputs.topic }}. Who speaks next?
{% for name in ['engineer', 'lawyer', 'editor'] if name not in state.said|map(attribute='who')|list %}
Not heard yet: {{ name }}
{% else %}
There is nobody left.
{% endfor %}
{% for speech in state.said %}
{{ speech.who }}: {{ speech.text }}
{% endfor %}
"""
CHOICE = {
    "type": "object",
    "properties": {"next": {"enum": [*SPEAKERS, "nobody"]}},
    "required": ["next"],
    "additionalProperties": False,
}


def agent(name: str, instructions: str, **more: object) -> AgentSpec:
    """Give an agent that the offline model speaks for."""
    fields = {"name": name, "model": {"id": "offline"}, "instructions": {"template": instructions}}
    return AgentSpec.model_validate(fields | more)


# What a loop repeats is a graph of its own.
round_ = Graph()
round_.add_agent(
    "moderate",
    "moderator",
    thread="moderation",
    message=QUESTION,
    save={"next": "result.output.next"},
)
round_.add_switch("floor", "state.next", {name: name for name in SPEAKERS}, default=END)
for name in SPEAKERS:
    round_.add_agent(
        name,
        name,
        message=f"What does the {name} say to {{{{ inputs.topic }}}}?",
        save={"said": f"{{'who': '{name}', 'text': result.text}}"},
    )
    round_.add_edge(name, END)
round_.add_path([START, "moderate", "floor"])

g = Graph(
    "launch",
    description="A moderator chooses who speaks next, until everybody was heard.",
    inputs={"topic": "string"},
    state={
        "said": {"type": "array", "items": {"type": "object"}, "default": [], "reduce": "append"},
        "next": {"type": "string", "default": ""},
    },
    outputs={"speakers": "state.said|map(attribute='who')|list", "rounds": "result_of.talk.iterations"},
)
g.documents |= {name: agent(name, instructions) for name, instructions in SPEAKERS.items()}
g.documents["moderator"] = agent(
    "moderator",
    "You moderate a talk. Say who speaks next, and `nobody` when everything was said.",
    output={"schema": CHOICE},
)
g.add_loop("talk", round_, max_iterations=8, until="state.next == 'nobody'")
g.add_path([START, "talk", END])

if __name__ == "__main__":
    print(g.to_yaml())
    print(g.draw("text"))
