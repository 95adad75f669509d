"""The bodies of requests about vector stores and their files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool, model_validator

from treadle.objects.vector_store import Chunking
from treadle.server.bodies import Body, Free, Id, Metadata, MetadataKey, Name, ShortText, Text, Whole
from treadle.wire import MAX_PAIRS


class ExpiresAfter(Body):
    """When a vector store expires."""

    anchor: Literal["last_active_at"] = Field(description="From when the days are counted.")
    days: Annotated[int, Field(ge=1, le=365), Whole] = Field(description="Days without use.")


class StaticChunking(Body):
    """The size of the pieces."""

    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4096), Whole] = Field(
        description="Tokens of a piece."
    )
    chunk_overlap_tokens: Annotated[int, Field(ge=0), Whole] = Field(
        description="Tokens that two neighbours share: at most half of a piece."
    )

    @model_validator(mode="after")
    def _overlaps_by_half(self) -> StaticChunking:
        if self.chunk_overlap_tokens * 2 > self.max_chunk_size_tokens:
            msg = "chunk_overlap_tokens is at most half of max_chunk_size_tokens"
            raise ValueError(msg)
        return self


class ChunkingStrategy(Body):
    """How a file is cut for the search."""

    type: Literal["auto", "static"] = Field(description="`auto` is pieces of 800 tokens that share 400.")
    static: StaticChunking | None = Field(default=None, description="The size, where it is static.")

    @model_validator(mode="after")
    def _says_its_size(self) -> ChunkingStrategy:
        if (self.type == "static") != (self.static is not None):
            msg = "static comes with its numbers, auto without"
            raise ValueError(msg)
        return self

    def chunking(self) -> Chunking:
        """Give it as a record."""
        if self.static is None:
            return Chunking()
        return Chunking(
            max_tokens=self.static.max_chunk_size_tokens, overlap_tokens=self.static.chunk_overlap_tokens
        )


Attributes = Annotated[
    dict[MetadataKey, ShortText | StrictBool | int | float],
    Field(max_length=MAX_PAIRS, description="Notes that a search can filter by."),
]
Strategy = Annotated[ChunkingStrategy | None, Field(description="How the files are cut.")]


class VectorStoreCreate(Body):
    """A vector store, with its first files."""

    name: Name | None = Field(default=None, description="Its name.")
    description: ShortText | None = Field(default=None, description="What it is for.")
    file_ids: list[Id] | None = Field(default=None, description="Its first files.")
    expires_after: ExpiresAfter | None = Field(default=None, description="When it expires; never without it.")
    chunking_strategy: Strategy = None
    metadata: Metadata | None = None


class VectorStoreUpdate(Body):
    """What changes of a vector store; what is left out stays."""

    name: Name | None = Field(default=None, description="Its name.")
    description: ShortText | None = Field(default=None, description="What it is for.")
    expires_after: ExpiresAfter | None = Field(default=None, description="When it expires; null for never.")
    metadata: Metadata | None = None


class VectorStoreFileCreate(Body):
    """A file that goes into a vector store."""

    file_id: Id = Field(description="The file.")
    chunking_strategy: Strategy = None
    attributes: Attributes | None = None


class VectorStoreFileUpdate(Body):
    """New attributes of a file in a vector store."""

    attributes: Attributes | None = Field(
        description="Notes that a search can filter by, in place of those it has."
    )


class FileBatchCreate(Body):
    """Files that go into a vector store together."""

    file_ids: list[Id] | None = Field(default=None, description="The files.")
    files: list[VectorStoreFileCreate] | None = Field(
        default=None, description="The files, each with what holds for it alone."
    )
    chunking_strategy: Strategy = None
    attributes: Attributes | None = None


class VectorStoreSearch(Body):
    """What is searched for."""

    query: Text | list[Text] = Field(description="The words, or several searches at once.")
    filters: Free | None = Field(default=None, description="Which attributes a file must have.")
    max_num_results: Annotated[int, Field(ge=1, le=50), Whole] | None = Field(
        default=None, description="How many pieces are given."
    )
    ranking_options: Free | None = Field(default=None, description="How pieces are ranked.")
    rewrite_query: bool | None = Field(default=None, description="Whether the words are put better first.")
