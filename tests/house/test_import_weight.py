"""What is imported, and when: asserted on the names of modules, never on milliseconds."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "apsw",
    "jinja2",
    "jsonschema_rs",
    "networkx",
    "openai",
    "httpx2",
    "pydantic",
    "rich",
    "yaml",
    "asyncio",
}


def loaded_by(code: str) -> set[str]:
    """Run code in an interpreter of its own and give the top-level modules that it loaded."""
    code = (
        f"import json, sys\n{code}\nprint(json.dumps(sorted({{m.partition('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_treadle_loads_no_library() -> None:
    assert not loaded_by("import treadle") & (HEAVY | {"click", "dotenv"})


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["no-such-command"], []])
def test_the_command_line_without_a_command_loads_click_alone(arguments: list[str]) -> None:
    loaded = loaded_by(
        "import contextlib, io, treadle.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        f"    treadle.cli.invoke({arguments!r})"
    )
    assert "click" in loaded
    assert not loaded & HEAVY


def test_help_imports_no_command_module() -> None:
    code = (
        "import contextlib, io, sys, treadle.cli\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    treadle.cli.invoke(['--help'])\n"
        "targets = {target.partition(':')[0] for target, _ in treadle.cli.COMMANDS.values()}\n"
        "print(sorted(targets & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_completing_a_command_imports_no_command_module() -> None:
    code = (
        "import os, sys, treadle.cli\n"
        "os.environ.update(_TREADLE_COMPLETE='bash_complete', COMP_WORDS='treadle val', COMP_CWORD='1')\n"
        "try:\n    treadle.cli.invoke([])\nexcept SystemExit:\n    pass\n"
        "assert 'treadle.cli.validate' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "plain,validate"


def test_an_agent_is_loaded_without_networkx_openai_or_rich() -> None:
    loaded = loaded_by("import treadle.definition.load, treadle.graph.compile")
    assert not loaded & {"networkx", "openai", "rich", "click", "apsw"}


def test_what_walks_workflows_is_loaded_with_the_first_workflow() -> None:
    code = (
        "import sys, treadle.service\n"
        "late = {'treadle.objects.workflow', 'treadle.service.workflows', 'treadle.engine.workflow_walk', "
        "'treadle.engine.frames', 'treadle.steps.node'}\n"
        "print(sorted(late & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
