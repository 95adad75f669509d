"""The workflow of `announce.workflow.yaml`, built in Python."""

from treadle import END, START, Graph

NEWS = """\
{{ inputs.news }}
{% for comment in state.comments %}
{{ comment }}
{% endfor %}
"""

g = Graph(
    "announce",
    description="Draft an announcement, ask a person, and draft again until it is approved.",
    inputs={"news": "string"},
    state={
        "draft": {"type": "string", "default": ""},
        "comments": {"type": "array", "items": {"type": "string"}, "default": [], "reduce": "append"},
    },
    outputs={"announced": "state.draft"},
)
g.add_model(
    "write",
    model="offline",
    messages=[
        {
            "role": "system",
            "content": "Write an announcement of one or two sentences. Heed every comment.",
        },
        {"content": NEWS},
    ],
    save={"draft": "result.text"},
)
g.add_pause(
    "approve",
    ask="Announce this?\n\n{{ state.draft }}\n",
    timeout="2d",
    on_timeout="reject",
    save={"comments": "result.comment or 'Write it anew.'"},
)
g.add_message("announce", text="{{ state.draft }}")
g.add_fail("give_up", error="not_approved", message="Three drafts were turned down.")

g.add_path([START, "write", "approve"])
g.add_edge("approve", "announce", when="result.decision == 'approve'")
g.add_edge("approve", "write", when="state.comments|length < 3")
g.add_edge("approve", "give_up")
g.add_edge("announce", END)

if __name__ == "__main__":
    print(g.to_yaml())
    print(g.draw("text"))
