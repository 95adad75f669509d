"""The workflow of `invoices.workflow.yaml`, built in Python."""

from pathlib import Path

import inbox_files

from treadle import END, START, Graph

INVOICE = {
    "type": "object",
    "properties": {
        "amount": {"type": "integer", "minimum": 0},
        "due": {"type": "string", "format": "date"},
    },
    "required": ["amount", "due"],
    "additionalProperties": False,
}

# What is done with each document is a graph of its own.
document = Graph()
document.add_node("read", inbox_files.read, with_={"path": "{{ path }}"}, effect="pure")
document.add_model(
    "extract",
    model="offline",
    prompt="{{ result_of.read }}",
    output={"schema": INVOICE},
    save={"total": "result.output.amount"},
)
document.add_path([START, "read", "extract", END])

g = Graph(
    "invoices",
    folder=Path(__file__).parent,
    description="Read every document of a folder, take the invoice out of it, and add up what is due.",
    inputs={"folder": {"type": "string", "default": "inbox"}},
    state={"total": {"type": "integer", "default": 0, "reduce": "sum"}},
    outputs={
        "invoices": "result_of.each.collected",
        "unread": "result_of.each.errors|length",
        "total": "state.total",
    },
)
g.add_node("find", inbox_files.find, with_={"folder": "{{ inputs.folder }}"}, effect="pure")
g.add_map(
    "each",
    document,
    over="result_of.find",
    as_="path",
    max_concurrency=4,
    max_items=200,
    on_item_error="skip",
    tolerate="50%",
    collect="{'file': path, 'amount': result.output.amount, 'due': result.output.due}",
)
g.add_path([START, "find", "each", END])

if __name__ == "__main__":
    print(g.to_yaml())
    print(g.draw("text"))
