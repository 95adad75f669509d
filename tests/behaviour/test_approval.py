"""A tool that asks for a person does not run while nobody can be asked, wherever the rule is written."""

import pytest

from treadle.definition.load import load_text
from treadle.errors import ConfigurationError
from treadle.objects.project import Project, ProjectDefaults, ProjectSpec
from treadle.objects.tool import ApprovalNames
from treadle.service import Treadle
from treadle.testing.fakes import ScriptedProvider

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("project", "agent", "asks"),
    [
        (None, None, False),
        ("never", None, False),
        ("always", None, True),
        ("always", "never", False),
        (None, "always", True),
        (None, ApprovalNames(always=("send",)), True),
        ("always", ApprovalNames(never=("send",)), False),
        ("always", ApprovalNames(never=("other",)), True),
        (None, ApprovalNames(always=("other",)), False),
    ],
)
async def test_the_nearest_rule_counts(tmp_path, project, agent, asks):
    sent = []

    def send(text: str) -> str:
        """Send a text."""
        sent.append(text)
        return "sent"

    script = [{"calls": [{"name": "send", "arguments": {"text": "hi"}}]}, "Done."]
    spec = ProjectSpec(defaults=ProjectDefaults(approval=project))
    async with Treadle(
        "sqlite://:memory:", project=Project(spec, tmp_path), providers={"scripted": ScriptedProvider(script)}
    ) as treadle:
        made = await treadle.agents.create(model="scripted", tools=[send], approval=agent)
        if asks:
            with pytest.raises(ConfigurationError, match="'send' asks for a person's approval"):
                await treadle.runs.create(None, agent=made, additional_messages=HELLO)
            assert await treadle.runs.list() == []
        else:
            run = await treadle.runs.create_and_wait(None, agent=made, additional_messages=HELLO)
            assert run.status == "completed"
        assert bool(sent) is not asks


def test_a_busy_rule_that_is_not_built_is_refused_by_name():
    text = "version: 1.0.0\nkind: project\nname: p\ndefaults: {on_busy: queue}\n"
    (problem,) = load_text(text).errors
    assert (problem.code, problem.line, problem.column) == ("TR302", 4, 21)
