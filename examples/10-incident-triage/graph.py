"""The workflow of `triage.workflow.yaml`, built in Python: the same nodes, the same checks, the same digest."""

from pathlib import Path
from typing import Annotated, Any

from ops_tools import deploys
from pydantic import BaseModel, Field

from treadle import END, START, Graph


class Inputs(BaseModel):
    """What a run is given."""

    report: str = Field(max_length=20_000)
    service: str
    severity_floor: int = Field(default=3, ge=1, le=5)


class State(BaseModel):
    """What nodes read and write; evidence is appended to, the others are replaced."""

    severity: int = 5
    evidence: Annotated[list[dict[str, Any]], "append"] = []
    draft: str = ""
    rounds: int = 0


g = Graph(
    "incident-triage",
    folder=Path(__file__).parent,
    description="Classify an incident, gather evidence in parallel, draft an update, get it approved.",
    inputs=Inputs,
    state=State,
    outputs={"severity": "state.severity", "update": "state.draft"},
    agents={"classifier": "./classifier.agent.yaml", "writer": "./update-writer.agent.yaml"},
    tools=[
        {"type": "function", "name": "log_search", "call": "ops_tools.logs:search", "effect": "pure"},
        {
            "type": "function",
            "name": "incident_search",
            "call": "ops_tools.incidents:search",
            "effect": "pure",
        },
        {
            "type": "function",
            "name": "status_page_post",
            "call": "ops_tools.status:post",
            "pass": ["idempotency_key"],
            "approval": "never",
        },
    ],
    limits={"max_steps": 60, "timeout": "30m", "max_cost_usd": 0.75, "max_concurrency": 4},
)

g.add_agent(
    "classify",
    "classifier",
    thread="new",
    message="Service: {{ inputs.service }}. Report: {{ inputs.report }}",
    save={"severity": "result.output.severity"},
    retry={"max_attempts": 3, "initial_delay": "1s", "on": ["rate_limit", "timeout", "invalid_output"]},
)
g.add_message(
    "acknowledge", text="Noted: {{ inputs.service }}, severity {{ state.severity }}. No page was sent."
)
g.add_parallel("gather", ["logs", "deploys", "similar"], join="draft_update", on_branch_error="continue")
g.add_tool(
    "logs",
    "log_search",
    with_={"service": "{{ inputs.service }}", "minutes": 30},
    timeout="20s",
    save={"evidence": "{'source': 'logs', 'lines': result.lines[:50]}"},
)
g.add_node(
    "deploys",
    deploys.recent,
    with_={"service": "{{ inputs.service }}"},
    effect="pure",
    on_error=[{"on": ["code_error"], "continue_with": {"deploys": []}}],
    save={"evidence": "{'source': 'deploys', 'items': result.deploys}"},
)
search = Graph()
search.add_tool("search", "incident_search", with_={"query": "{{ keyword }}", "limit": 3})
g.add_map(
    "similar",
    search,
    over="result_of.classify.output.keywords",
    as_="keyword",
    max_concurrency=3,
    max_items=10,
    on_item_error="skip",
    save={"evidence": "{'source': 'similar', 'found': result.collected}"},
)
g.add_agent(
    "draft_update",
    "writer",
    inputs={"evidence": "{{ state.evidence }}", "severity": "{{ state.severity }}"},
    message="Draft the status update. {% if state.rounds %}Address this: "
    "{{ (result_of.approve|default({})).comment|default('') }}{% endif %}",
    save={"draft": "result.text", "rounds": "state.rounds + 1"},
)
g.add_pause(
    "approve",
    ask="Publish this update for {{ inputs.service }} (severity {{ state.severity }})?\n\n{{ state.draft }}\n",
    assignees=["incident-commander"],
    timeout="15m",
    on_timeout="reject",
)
g.add_tool(
    "publish",
    "status_page_post",
    with_={"service": "{{ inputs.service }}", "body": "{{ state.draft }}"},
    idempotency_key="{{ run.id }}-publish",
)
g.add_fail("give_up", error="not_approved", message="Three drafts were turned down for {{ inputs.service }}.")

g.add_edge(START, "classify")
g.add_edge("classify", "acknowledge", when="state.severity > inputs.severity_floor")
g.add_edge("classify", "gather")
g.add_edge("acknowledge", END)
g.add_edges_from([(branch, "draft_update") for branch in ("logs", "deploys", "similar")])
g.add_path(["draft_update", "approve"])
g.add_edge("approve", "publish", when="result.decision == 'approve'")
g.add_edge("approve", "draft_update", when="state.rounds < 3")
g.add_edge("approve", "give_up")
g.add_edge("publish", END)
