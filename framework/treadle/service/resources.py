"""What tools of a thread, an agent or a run have to work with: files and vector stores, checked before they are kept.

A message's attachments feed its thread: what file_search is to see goes into the thread's vector store, which is made
when it is first needed; what code_interpreter is to see goes onto its list. All of it is one transaction with the message.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from treadle.errors import NotFound, StateError
from treadle.objects.agent import Agent
from treadle.objects.message import ImageFilePart, Message
from treadle.objects.run import Run
from treadle.objects.thread import Thread
from treadle.objects.vector_store import VectorStore
from treadle.service.ingestion import links_of, present
from treadle.service.vector_stores import chunking_of, drafted
from treadle.store.base import Stored
from treadle.store.base_files import Resources, Used

if TYPE_CHECKING:
    from treadle.service import Treadle

MOST_CODE_FILES = 20
"""Files of code_interpreter, of one thread or agent."""
THREAD_STORE_DAYS = 7
"""How long the vector store that a thread was made for its attachments outlasts their last use."""
_INTERPRETER, _SEARCH = "code_interpreter", "file_search"

Json = Mapping[str, Any]


async def resolve_tool_resources(treadle: Treadle, given: Json | None) -> tuple[dict[str, Any], list[Stored]]:
    """Give tool resources as they are kept, and the records that have to be kept before them.

    Shapes: a vector store that is described in place becomes one, and its id stands for it. What a client sends along
    for MCP servers are secrets of a run, and is never kept.

    Errors: StateError for files and vector stores that are not there, for too many of them, and for fields that do not fit.
    """
    resolved: dict[str, Any] = {}
    records: list[Stored] = []
    for tool, resources in (given or {}).items():
        if resources is None or tool == "mcp":
            continue
        if tool == _INTERPRETER:
            resolved[tool] = {"file_ids": await _code_files(treadle, _object(tool, resources))}
        elif tool == _SEARCH:
            ids, made = await _searched(treadle, _object(tool, resources))
            resolved[tool] = {"vector_store_ids": ids}
            records += made
        else:
            resolved[tool] = resources
    return resolved, records


async def _code_files(treadle: Treadle, given: Json) -> list[str]:
    _refuse_unknown(_INTERPRETER, given, ("file_ids",))
    ids = list(dict.fromkeys(_ids(given, "file_ids", of=_INTERPRETER)))
    _check_code_files(ids)
    await present(treadle, ids)
    return ids


def _check_code_files(ids: Sequence[str]) -> None:
    if len(ids) > MOST_CODE_FILES:
        raise StateError(f"code_interpreter takes at most {MOST_CODE_FILES} files, not {len(ids)}")


async def _searched(treadle: Treadle, given: Json) -> tuple[list[str], list[Stored]]:
    """Give the vector store that is searched, and what has to be kept where it is a new one."""
    _refuse_unknown(_SEARCH, given, ("vector_store_ids", "vector_stores"))
    ids = _ids(given, "vector_store_ids", of=_SEARCH)
    described = _list(given.get("vector_stores") or (), f"tool_resources.{_SEARCH}.vector_stores")
    if len(ids) + len(described) > 1:
        raise StateError("file_search searches one vector store: name one, or describe one in vector_stores")
    if not described:
        for id_ in ids:
            await _need_store(treadle, id_)
        return ids, []
    place = "tool_resources.file_search.vector_stores.0"
    fields = _object(place.removeprefix("tool_resources."), described[0])
    _refuse_unknown(
        place.removeprefix("tool_resources."), fields, ("file_ids", "chunking_strategy", "metadata")
    )
    strategy, metadata = fields.get("chunking_strategy"), fields.get("metadata")
    draft, links = await drafted(
        treadle,
        file_ids=_ids(fields, "file_ids", of=place),
        chunking=chunking_of(None if strategy is None else _object("chunking_strategy", strategy)),
        metadata=_object("metadata", {} if metadata is None else metadata),
    )
    return [draft.id], [draft, *links]


async def _need_store(treadle: Treadle, id_: str) -> None:
    try:
        await treadle.vector_stores.get(id_)
    except NotFound as e:
        raise StateError(f"No vector store found with id '{id_}'.") from e


async def completed(
    treadle: Treadle, thread_id: str, records: Sequence[Stored]
) -> tuple[list[Stored], list[Stored]]:
    """Give what has to be kept before records, and the records with their resources resolved.

    Shapes: the records stay as many, in their order. `thread_id` is the thread of the messages among them; it is
    looked up where it is none of the records.

    Errors: those of `resolve_tool_resources`; StateError for attachments and images that do not fit; NotFound for the thread.
    """
    before: list[Stored] = []
    after: list[Stored] = []
    for record in records:
        changed, made = await _resolved(treadle, record)
        before += made
        after.append(changed)
    messages = [r for r in after if isinstance(r, Message) and (r.attachments or r.parts)]
    if not messages:
        return before, after
    await _check_images(treadle, messages)
    searched, interpreted = _attached(messages)
    if not await _are_there(treadle, messages) or not (searched or interpreted):
        return before, after
    place = next((i for i, r in enumerate(after) if isinstance(r, Thread)), None)
    thread = after[place] if place is not None else await treadle.store.get(Thread, treadle.tenant, thread_id)
    was = cast("Thread", thread).tool_resources
    resources, made = await _fed(
        treadle, was, searched, interpreted, new=[r for r in before if isinstance(r, VectorStore)]
    )
    before += made
    if place is not None:
        after[place] = cast("Thread", thread).model_copy(update={"tool_resources": resources})
    elif resources != was:
        before.append(Resources(thread_id, resources, was))
    return before, after


async def _resolved(treadle: Treadle, record: Stored) -> tuple[Stored, list[Stored]]:
    """Give a record with its own resources resolved, and what has to be kept before it."""
    match record:
        case Thread() if record.tool_resources:
            resources, made = await resolve_tool_resources(treadle, record.tool_resources)
            return record.model_copy(update={"tool_resources": resources}), made
        case Agent() if record.spec.tool_resources:
            resources, made = await resolve_tool_resources(treadle, record.spec.tool_resources)
            spec = record.spec.model_copy(update={"tool_resources": resources})
            return record.model_copy(update={"spec": spec}), made
        case Run() if record.overrides.tool_resources:
            resources, made = await resolve_tool_resources(treadle, record.overrides.tool_resources)
            overrides = record.overrides.model_copy(update={"tool_resources": resources})
            return record.model_copy(update={"overrides": overrides}), made
        case _:
            return record, []


def _attached(messages: Sequence[Message]) -> tuple[list[str], list[str]]:
    """Give the ids of what file_search and code_interpreter are to see, each once.

    Errors: StateError for an attachment that is none.
    """
    searched: dict[str, None] = {}
    interpreted: dict[str, None] = {}
    for attachment in (a for m in messages for a in m.attachments):
        _refuse_unknown("attachments", attachment, ("file_id", "tools"))
        file_id = attachment.get("file_id")
        if not isinstance(file_id, str):
            raise StateError("an attachment names its file: {'file_id': …}")
        for tool in _list(attachment.get("tools") or (), "attachments.tools"):
            kind = _object("attachments.tools", tool).get("type")
            if kind not in (_SEARCH, _INTERPRETER):
                raise StateError(f"an attachment is for file_search or code_interpreter, not '{kind}'")
            (searched if kind == _SEARCH else interpreted)[file_id] = None
    return list(searched), list(interpreted)


async def _are_there(treadle: Treadle, messages: Sequence[Message]) -> bool:
    """Make sure that every attached file is there; tell whether there are any.

    Errors: StateError.
    """
    return bool(await present(treadle, [a["file_id"] for m in messages for a in m.attachments]))


async def _check_images(treadle: Treadle, messages: Sequence[Message]) -> None:
    images = [p.image_file.file_id for m in messages for p in m.parts if isinstance(p, ImageFilePart)]
    await present(treadle, images)


async def _fed(
    treadle: Treadle,
    was: Json,
    searched: Sequence[str],
    interpreted: Sequence[str],
    *,
    new: Sequence[VectorStore] = (),
) -> tuple[dict[str, Any], list[Stored]]:
    """Give a thread's resources with files added, and what has to be kept before them; `new` are vector stores that will be."""
    resources, records = dict(was), list[Stored]()
    if interpreted:
        had: Sequence[str] = was.get(_INTERPRETER, {}).get("file_ids", ())
        ids = list(dict.fromkeys((*had, *interpreted)))
        _check_code_files(ids)
        resources[_INTERPRETER] = {**was.get(_INTERPRETER, {}), "file_ids": ids}
    if searched:
        ids = list(was.get(_SEARCH, {}).get("vector_store_ids", ()))
        store = await _own_store(treadle, ids, new)
        now = treadle.clock.now_ms()
        if store is None:
            store = VectorStore(
                id=treadle.ids.new("vs"),
                tenant=treadle.tenant,
                created_ms=now,
                last_active_ms=now,
                expires_days=THREAD_STORE_DAYS,
            )
            records.append(store)
        most = treadle.project.serve.limits.vector_store_files
        if store.counts.total + len(searched) > most:
            raise StateError(
                f"Vector store {store.id} has {store.counts.total} files; it takes at most {most}."
            )
        files = await present(treadle, searched)
        records += [*await links_of(treadle, store.id, files), Used(store.id, now)]
        resources[_SEARCH] = {**was.get(_SEARCH, {}), "vector_store_ids": [store.id]}
    return resources, records


async def _own_store(treadle: Treadle, ids: Sequence[str], new: Sequence[VectorStore]) -> VectorStore | None:
    """Give the vector store that a thread has, None where it has none or it was deleted."""
    for id_ in ids:
        for one in new:
            if one.id == id_:
                return one
        try:
            return await treadle.vector_stores.get(id_)
        except NotFound:
            continue
    return None


def _refuse_unknown(place: str, given: Json, known: Sequence[str]) -> None:
    for name, value in given.items():
        if name not in known and value not in (None, [], ()):
            raise StateError(
                f"Invalid request. Parameter `{name}` is not supported.", hint=f"in {place}: {list(known)}"
            )


def _ids(given: Json, name: str, *, of: str) -> list[str]:
    found = _list(given.get(name) or (), f"{of}.{name}")
    if not all(isinstance(id_, str) for id_ in found):
        raise StateError(f"{of}.{name} is a list of ids")
    return cast("list[str]", found)


def _list(given: object, place: str) -> list[Any]:
    if not isinstance(given, (list, tuple)):
        raise StateError(f"{place} is a list")
    return list(cast("list[Any]", given))


def _object(place: str, given: object) -> Json:
    if not isinstance(given, Mapping):
        raise StateError(f"{place} is an object")
    return cast("Json", given)
