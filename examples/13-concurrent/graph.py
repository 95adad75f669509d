"""The workflow of `read-mail.workflow.yaml`, built in Python."""

from typing import Any

from treadle import END, START, Graph

QUESTIONS: dict[str, dict[str, Any]] = {
    "who": {"email": {"type": "string", "format": "email"}},
    "what": {"category": {"enum": ["damage", "delay", "other"]}, "urgent": {"type": "boolean"}},
    "when": {"deadline": {"type": "string", "format": "date"}},
}

g = Graph(
    "read-mail",
    description="Ask three questions of a mail at once, then put the answers together.",
    inputs={"mail": "string"},
    state={"facts": {"type": "object", "default": {}, "reduce": "merge"}},
    outputs={"facts": "state.facts", "note": "result_of.file.text"},
)
g.add_parallel("read", list(QUESTIONS), join="file")
for name, properties in QUESTIONS.items():
    g.add_model(
        name,
        model="offline",
        prompt="{{ inputs.mail }}",
        output={"schema": {"type": "object", "properties": properties, "required": list(properties)}},
        save={"facts": "result.output"},
    )
    g.add_edge(name, "file")
g.add_message(
    "file",
    text="{{ state.facts.category|title }}, to be settled by {{ state.facts.deadline }}: {{ state.facts.email }}",
)
g.add_edge(START, "read")
g.add_edge("file", END)

if __name__ == "__main__":
    print(g.to_yaml())
    print(g.draw("text"))
