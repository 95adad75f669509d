"""The workflow of `advert.workflow.yaml`, built in Python."""

from treadle import END, START, Graph

FACTS = """\
We sell a fine {{ inputs.item }}.
{% if 'price' in state.missing %}Its price is {{ inputs.price }} euros.{% endif %}
{% if 'delivery' in state.missing %}Delivery takes {{ inputs.weeks }} weeks.{% endif %}
"""
VERDICT = {
    "type": "object",
    "properties": {"price": {"type": "boolean"}, "delivery": {"type": "boolean"}},
    "required": ["price", "delivery"],
    "additionalProperties": False,
}

# What a loop repeats is a graph of its own.
round_ = Graph()
round_.add_model(
    "draft",
    model="offline",
    messages=[
        {"role": "system", "content": "Write an advert that says all that you are told."},
        {"content": FACTS},
    ],
    save={"text": "result.text"},
)
round_.add_model(
    "judge",
    model="offline",
    messages=[
        {"role": "system", "content": "Tell what the advert says."},
        {"content": "{{ state.text }}"},
    ],
    output={"schema": VERDICT},
    save={
        "missing": "([] if result.output.price else ['price']) + ([] if result.output.delivery else ['delivery'])"
    },
)
round_.add_path([START, "draft", "judge", END])

g = Graph(
    "advert",
    description="Write an advert and judge it, until the judge misses nothing or three rounds are over.",
    inputs={
        "item": "string",
        "price": {"type": "integer", "minimum": 1},
        "weeks": {"type": "integer", "minimum": 1},
    },
    state={
        "text": {"type": "string", "default": ""},
        "missing": {"type": "array", "items": {"type": "string"}, "default": []},
    },
    outputs={
        "text": "state.text",
        "rounds": "result_of.improve.iterations",
        "complete": "not state.missing",
    },
)
g.add_loop("improve", round_, max_iterations=3, until="not state.missing", on_exhausted="continue")
g.add_path([START, "improve", END])

if __name__ == "__main__":
    print(g.to_yaml())
    print(g.draw("text"))
