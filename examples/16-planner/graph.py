"""The workflow of `research.workflow.yaml`, built in Python."""

from pathlib import Path

from treadle import END, START, AgentSpec, Graph

PLAN = {
    "type": "object",
    "properties": {"cities": {"type": "array", "items": {"type": "string"}, "maxItems": 3}},
    "required": ["cities"],
    "additionalProperties": False,
}
FOUND = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "celsius": {"type": "integer"}},
    "required": ["city", "celsius"],
    "additionalProperties": False,
}
REPORT = """\
Answer from these findings alone.
The climates, the warmest first:
{%- for found in result_of.work.collected|sort(attribute='celsius', reverse=true) %} {{ found.city }} {{ found.celsius }} °C
{%- endfor %}
"""

worker = AgentSpec.model_validate(
    {
        "name": "worker",
        "model": {"id": "offline"},
        "instructions": {"template": "You look things up with your tools and report what you found."},
        "tools": [
            {"type": "function", "name": "get_climate", "call": "climate:get_climate", "effect": "pure"}
        ],
    }
)

task = Graph()
task.documents["worker"] = worker
task.add_agent(
    "task", "worker", thread="new", message="Look up the climate of {{ city }}.", output={"schema": FOUND}
)

g = Graph(
    "research",
    folder=Path(__file__).parent,
    description="Plan the tasks of a question, let a worker do each of them, and sum up what they found.",
    inputs={"question": "string"},
    outputs={"findings": "result_of.work.collected", "report": "result_of.sum_up.text"},
)
g.documents["worker"] = worker
g.add_model(
    "plan",
    model="offline",
    messages=[
        {"role": "system", "content": "Name the cities that have to be looked at, three at most."},
        {"content": "{{ inputs.question }}"},
    ],
    output={"schema": PLAN},
)
g.add_map(
    "work",
    task,
    over="result_of.plan.output.cities",
    as_="city",
    max_concurrency=3,
    on_item_error="skip",
    collect="result.output",
)
g.add_model(
    "sum_up",
    model="offline",
    messages=[{"role": "system", "content": REPORT}, {"content": "{{ inputs.question }}"}],
)
g.add_path([START, "plan", "work", "sum_up", END])

if __name__ == "__main__":
    print(g.to_yaml())
    print(g.draw("text"))
