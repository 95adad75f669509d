"""The workflow of `support.workflow.yaml`, built in Python."""

from treadle import END, START, AgentSpec, Graph


def agent(name: str, instructions: str, **more: object) -> AgentSpec:
    """Give an agent that the offline model speaks for."""
    fields = {"name": name, "model": {"id": "offline"}, "instructions": {"template": instructions}}
    return AgentSpec.model_validate(fields | more)


TEAMS = {
    "billing": agent(
        "billing",
        "You answer questions about money.\n"
        "A refund is paid within five days.\n"
        "An invoice comes with the first mail of the month.\n",
    ),
    "shipping": agent(
        "shipping",
        "You answer questions about parcels.\n"
        "A parcel takes three days within the country.\n"
        "A parcel that goes abroad takes ten days.\n",
    ),
}
CHOICE = {
    "type": "object",
    "properties": {"team": {"enum": [*TEAMS, "other"]}},
    "required": ["team"],
    "additionalProperties": False,
}

g = Graph(
    "support",
    description="A triage agent reads the question and chooses the agent that answers it.",
    inputs={"question": "string"},
    state={"answer": {"type": "string", "default": ""}},
    outputs={"team": "result_of.triage.output.team", "answer": "state.answer"},
)
g.documents |= TEAMS
g.documents["triage"] = agent("triage", "Say which team answers the question.", output={"schema": CHOICE})

g.add_agent("triage", "triage", message="{{ inputs.question }}")
g.add_switch("hand_over", "result_of.triage.output.team", {team: team for team in TEAMS}, default="desk")
for team in TEAMS:
    g.add_agent(team, team, save={"answer": "result.text"})
    g.add_edge(team, END)
g.add_message("desk", text="A colleague will write to you.", save={"answer": "result.text"})
g.add_path([START, "triage", "hand_over"])
g.add_edge("desk", END)

if __name__ == "__main__":
    print(g.to_yaml())
    print(g.draw("text"))
