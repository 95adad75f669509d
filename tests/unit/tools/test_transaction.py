"""What a transactional function collects, and when it may."""

import pytest

from treadle.errors import ConfigurationError, ToolError
from treadle.objects.message import ToolCall
from treadle.objects.tool import FunctionTool
from treadle.store.base import Statement
from treadle.tools.base import Binding, CallContext
from treadle.tools.function import bind
from treadle.tools.gate import admit, dispatch
from treadle.tools.transaction import MOST_STATEMENTS, Transaction

CONTEXT = CallContext("run_1", "thread_1", "tdl:key")


def tool(function, effect="transactional", **fields):
    spec = FunctionTool(name=function.__name__, runs="server", effect=effect, **fields)
    return bind(spec, Binding(callables={function.__name__: function}))


async def dispatched(function, arguments="{}", **fields):
    bound = tool(function, **fields)
    call = ToolCall(id="c", name=function.__name__, arguments=arguments)
    return await dispatch(admit({bound.spec.name: bound}, call), CONTEXT)


def test_statements_are_kept_as_they_were_when_they_were_added():
    tx = Transaction()
    values = ["Rex", True, 2, 1.5, None, b"raw", bytearray(b"more")]
    tx.execute("INSERT 1", values)
    values.append("later")
    tx.execute("INSERT 2")
    assert tx.close() == (
        Statement("INSERT 1", ("Rex", 1, 2, 1.5, None, b"raw", b"more")),
        Statement("INSERT 2", ()),
    )


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([object()], "value 1 .* is a object"),
        ([1, {"a": 1}], "value 2 .* is a dict"),
        ([1 << 63], "more than 64 bits"),
        (["\ud800"], "not well-formed text"),
        ("text", "not as str"),
        ({"a": 1}, "not as dict"),
        (3, "not as int"),
    ],
)
def test_a_value_that_no_column_can_hold_is_refused_where_it_is_given(values, why):
    with pytest.raises(ToolError, match=why):
        Transaction().execute("INSERT", values)


def test_a_statement_is_a_text():
    with pytest.raises(ToolError, match="takes a text"):
        Transaction().execute(b"INSERT")


def test_there_is_an_end_to_the_statements_of_a_call():
    tx = Transaction()
    for _ in range(MOST_STATEMENTS):
        tx.execute("INSERT")
    with pytest.raises(ToolError, match="at most"):
        tx.execute("INSERT")


def test_nothing_is_added_once_the_call_is_over():
    tx = Transaction()
    tx.close()
    with pytest.raises(ToolError, match="the call is over"):
        tx.execute("INSERT")


async def test_the_model_sees_no_tx_and_the_outcome_carries_the_statements():
    def save(name: str, tx, idempotency_key: str) -> str:
        tx.execute("INSERT INTO pets VALUES (?, ?)", (name, idempotency_key))
        return "saved"

    assert set(tool(save).definition.parameters["properties"]) == {"name"}
    outcome = await dispatched(save, '{"name": "Rex"}')
    assert outcome.text == "saved"
    assert outcome.statements == (Statement("INSERT INTO pets VALUES (?, ?)", ("Rex", "tdl:key")),)


async def test_an_asynchronous_function_collects_too_and_a_cut_result_keeps_its_statements():
    async def save(tx) -> str:
        tx.execute("INSERT")
        return "x" * 100

    outcome = await dispatched(save, max_result_chars=50)
    assert outcome.whole
    assert outcome.statements == (Statement("INSERT", ()),)


async def test_a_call_that_failed_has_no_statements():
    def save(tx) -> object:
        tx.execute("INSERT")
        return object()

    def fail(tx) -> str:
        tx.execute("INSERT", (object(),))
        return ""

    for function, said in ((save, "not JSON"), (fail, "fail: value 1 of tx.execute is a object")):
        outcome = await dispatched(function)
        assert outcome.code == "tool_error"
        assert said in outcome.message
        assert outcome.statements == ()


async def test_every_attempt_has_a_transaction_of_its_own():
    seen = []

    def save(tx) -> str:
        tx.execute(f"INSERT {len(seen)}")
        seen.append(tx)
        if len(seen) < 3:
            raise ConnectionError("away")
        return "saved"

    assert [(await dispatched(save)).statements for _ in range(2)] == [(), ()]
    outcome = await dispatched(save)
    assert outcome.statements == (Statement("INSERT 2", ()),)
    for tx in seen:
        with pytest.raises(ToolError, match="over"):
            tx.execute("INSERT")


def test_the_effect_and_the_parameter_come_together():
    def without() -> str:
        return ""

    def with_it(tx) -> str:
        return ""

    with pytest.raises(ConfigurationError, match="takes no `tx`"):
        tool(without)
    for effect in ("pure", "idempotent", "once"):
        with pytest.raises(ConfigurationError, match=f"takes `tx`, and the tool's effect is {effect}"):
            tool(with_it, effect)


def test_a_function_of_the_client_cannot_be_transactional():
    schema = {"type": "object", "properties": {}}
    with pytest.raises(ConfigurationError, match="its client runs it"):
        bind(FunctionTool(name="ask", parameters=schema, effect="transactional"), Binding())


@pytest.mark.parametrize("passed", [(), ("idempotency_key",)])
def test_a_function_of_the_project_takes_tx_without_naming_it_under_pass(tmp_path, passed):
    source = "def save(name: str, tx, idempotency_key: str = '') -> str:\n    return name\n"
    (tmp_path / "tx_tools.py").write_text(source)
    spec = FunctionTool(name="save", call="tx_tools:save", effect="transactional", **{"pass": passed})
    properties = bind(spec, Binding(tmp_path, ("tx_tools",))).definition.parameters["properties"]
    assert set(properties) == {"name", "idempotency_key"} - set(passed)
