"""The workflow of `order-mail.workflow.yaml`, built in Python."""

from pathlib import Path

from orders import find

from treadle import END, START, Graph

g = Graph(
    "order-mail",
    folder=Path(__file__).parent,
    description="Read a mail, look up its order, write an answer.",
    inputs={"mail": "string"},
    outputs={"order": "result_of.read.output.order_id", "reply": "result_of.reply.text"},
)
g.add_model(
    "read",
    model="offline",
    prompt="{{ inputs.mail }}",
    output={
        "schema": {
            "type": "object",
            "properties": {"order_id": {"type": "string"}},
            "required": ["order_id"],
            "additionalProperties": False,
        }
    },
)
g.add_node("look_up", find, with_={"order_id": "{{ result_of.read.output.order_id }}"}, effect="pure")
g.add_model(
    "reply",
    model="offline",
    messages=[
        {
            "role": "system",
            "content": "Answer the customer in one line.\n"
            "The {{ result_of.look_up.item }} was sent on {{ result_of.look_up.sent }}.\n",
        },
        {"content": "{{ inputs.mail }}"},
    ],
)
g.add_path([START, "read", "look_up", "reply", END])

if __name__ == "__main__":
    print(g.to_yaml())
    print(g.draw("text"))
