"""The part of the seam to the database that is about files and vector stores; the rules of `base` hold here, too.

New vector stores, their files and batches, and a thread's changed resources are kept by `Store.insert`, so that one
transaction can hold them together with messages and threads.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, Self, TypeVar

from treadle.objects.file import File
from treadle.objects.vector_store import FileBatch, LinkStatus, VectorStore, VectorStoreFile

Order = Literal["asc", "desc"]
F = TypeVar("F", File, VectorStore, FileBatch)


class NewFile(NamedTuple):
    """A file that is to be kept, with its content where that is small enough for the database.

    Units: `most_total` is how many bytes all files of the tenant may have.
    """

    file: File
    body: bytes | None
    most_total: int | None = None

    @property
    def id(self) -> str:
        """Give the file's id."""
        return self.file.id


class Resources(NamedTuple):
    """New resources of the tools of a thread that is there, in place of those that it had.

    Shapes: `id` is the thread's; `was` is what the writer saw.
    """

    id: str
    tool_resources: Mapping[str, Any]
    was: Mapping[str, Any]


class Used(NamedTuple):
    """A vector store that is used now: it expires so much later."""

    id: str
    now_ms: int


FileRecord = NewFile | VectorStore | VectorStoreFile | FileBatch | Resources | Used
"""What `Store.insert` keeps of files and vector stores."""


class Received(NamedTuple):
    """What a sink took in: its length, its sha256, and how it begins."""

    bytes: int
    sha256: str
    head: bytes


class Sink(Protocol):
    """Where the content of a new file is written, piece by piece; until it is kept, leaving it leaves nothing."""

    async def __aenter__(self) -> Self:
        """Give the sink."""
        ...

    async def __aexit__(self, *_: object) -> None:
        """Drop what is not kept."""
        ...

    async def write(self, chunk: bytes) -> None:
        """Take the next piece.

        Errors: StoreError.
        """
        ...

    async def finish(self) -> Received:
        """Make what was written outlast a power loss, and tell what it is. Nothing can be written after it.

        Errors: StoreError.
        """
        ...

    def record(self, file: File, *, most_total: int | None = None) -> NewFile:
        """Give what `Store.insert` keeps: the content is the file's from then on.

        Errors of the insert: StateError when all files of the tenant would have more than `most_total` bytes.
        """
        ...

    def release(self) -> None:
        """Leave the content alone from now on: the file is kept, or it may be."""
        ...


class FileStore(Protocol):
    """Files and vector stores, as a store keeps them."""

    def sink(self, tenant: str, id_: str) -> Sink:
        """Give where the content of a new file is written."""
        ...

    async def get(self, cls: type[F], tenant: str, id_: str) -> F:
        """Give a file, expired or not, a vector store or a batch, with their numbers.

        Errors: NotFound.
        """
        ...

    async def files(
        self,
        tenant: str,
        *,
        now_ms: int,
        purpose: str | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> list[File]:
        """Give a page of the files that have not expired; `after` and `before` are ids, exclusive."""
        ...

    def content(self, file: File) -> AsyncGenerator[bytes]:
        """Give the content, piece by piece; the last piece comes once all of them are known to be what was kept.

        Errors: NotFound for a file that is gone; StoreError for a content that cannot be read or is another.
        """
        ...

    async def delete_file(self, tenant: str, id_: str) -> None:
        """Remove a file with its content, and from every vector store.

        Errors: NotFound.
        """
        ...

    async def vector_stores(
        self,
        tenant: str,
        *,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> list[VectorStore]:
        """Give a page of vector stores."""
        ...

    async def replace(self, tenant: str, record: VectorStore) -> None:
        """Write a vector store's name, notes and expiry anew; it never becomes less recently used.

        Errors: NotFound.
        """
        ...

    async def delete_vector_store(self, tenant: str, id_: str) -> None:
        """Remove a vector store and its batches; the files stay files.

        Errors: NotFound.
        """
        ...

    async def link(self, tenant: str, store_id: str, file_id: str) -> VectorStoreFile:
        """Give a file of a vector store.

        Errors: NotFound.
        """
        ...

    async def links(
        self,
        tenant: str,
        store_id: str,
        *,
        batch: str | None = None,
        status: LinkStatus | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int = 20,
        order: Order = "desc",
    ) -> list[VectorStoreFile]:
        """Give a page of a vector store's files in the order in which they came, of one batch or of all.

        Shapes: `after` and `before` are ids of files.

        Errors: NotFound for a bound that names no file of it.
        """
        ...

    async def waiting(self, tenant: str, store_id: str, *, limit: int = 500) -> list[VectorStoreFile]:
        """Give the files of a vector store that nobody has read yet, the first ones first."""
        ...

    async def settle(self, tenant: str, link: VectorStoreFile) -> bool:
        """Write what became of a file that was in progress; tell whether it still was."""
        ...

    async def annotate(self, tenant: str, link: VectorStoreFile) -> None:
        """Write a link's attributes anew.

        Errors: NotFound.
        """
        ...

    async def unlink(self, tenant: str, store_id: str, file_id: str) -> None:
        """Take a file out of a vector store.

        Errors: NotFound.
        """
        ...

    async def cancel(self, tenant: str, batch: FileBatch) -> None:
        """Cancel what is not read of a batch; nothing happens where all of it is."""
        ...
