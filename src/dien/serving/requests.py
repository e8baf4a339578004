"""What a client may ask of `POST /rank`, and how its bytes become a checked `RankRequest`."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from dien.raw_ids import EXACT
from dien.serving.refusal import Refusal

MAX_CANDIDATES = 1000
MAX_HISTORY = 1000
"""Of which the model looks at the latest `data.history_length`."""
MAX_EVENTS = 100
"""Each may cost a pass over the window of the user, hence fewer than of a history."""
MAX_ID_LETTERS = 256
MAX_BODY = 1 << 20
"""Bytes. A request with as many ids as are allowed has about 50 of them for each."""
BODY_SECONDS = 10.0
"""In which a body has to arrive."""


def _whole(value: object) -> object:
    """7.0 is 7: tables make floats of whole numbers where some are missing."""
    return int(value) if type(value) is float and value.is_integer() and abs(value) < EXACT else value


Text = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=MAX_ID_LETTERS)]
Whole = Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63), BeforeValidator(_whole)]
Id = Text | Whole
Ids = Annotated[list[Id], Field(fail_fast=True)]
AN_ID = f"an id is text of 1 to {MAX_ID_LETTERS} characters, or a whole number of 64 bits"


class RankRequest(BaseModel):
    """A user, what they clicked, and the items to rank.

    What they clicked is either said in full (`history`) or is what the server keeps of them, and `events` after it.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"user": "u1", "history": ["i3", "i7"], "candidates": ["i4", "i9"], "top": 1}]},
    )

    user: Id | None = Field(None, description="Raw id. Without one nothing is kept.")
    history: Annotated[Ids, Field(max_length=MAX_HISTORY)] | None = Field(
        None, description="Clicked items, oldest first. It replaces what is kept of the user."
    )
    events: Annotated[Ids, Field(max_length=MAX_EVENTS)] | None = Field(
        None, description="Newly clicked items, oldest first: appended to what is kept of the user."
    )
    after: Annotated[int, Field(strict=True, ge=0, lt=2**63)] | None = Field(
        None, description="Refuse with 409 unless exactly so many clicks of the user are kept."
    )
    candidates: Annotated[Ids, Field(min_length=1, max_length=MAX_CANDIDATES)] = Field(description="Items to rank.")
    top: Annotated[int, Field(strict=True, ge=1, lt=2**63)] | None = Field(
        None, description="How many to answer; all without it."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.history is not None and (self.events is not None or self.after is not None):
            raise ValueError("history is all that the user clicked: events and after do not go with it.")
        if self.user is None and (self.events is not None or self.after is not None):
            raise ValueError("events and after need a user, whose clicks they follow.")
        return self


class RankedItem(BaseModel):
    """A candidate of the answer."""

    item: Id
    score: float = Field(description="Probability of a click.")
    known: bool = Field(description="Whether the model knows the item; otherwise it is scored as the unknown one.")


class Ranking(BaseModel):
    """The answer: candidates by falling score, equal ones in the order of the request."""

    items: list[RankedItem]
    known_user: bool = Field(description="Whether the model knows the user; false without one.")
    clicks: int = Field(description="How many clicks of the user are counted, these events included.")
    model: str = Field(description="Which weights ranked.")


async def read_body(chunks: AsyncIterator[bytes], *, seconds: float, limit: int = MAX_BODY) -> bytes:
    """The body of a request; what it says of its own length is not believed.

    Raises:
        Refusal: 413 as soon as more than `limit` bytes have arrived, 408 if it takes longer than `seconds`.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in chunks:
                if len(body) + len(chunk) > limit:
                    raise Refusal(413, f"the body is larger than {limit:,} bytes.")
                body += chunk
    except TimeoutError:
        raise Refusal(408, f"the body did not arrive within {seconds:g} s.") from None
    return bytes(body)


def parse(body: bytes) -> RankRequest:
    """The request in a body.

    Raises:
        Refusal: 400 if it is not JSON, 422 if it is not a request; one sentence says where and why.
    """
    try:
        return RankRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place, said = [str(part) for part in first["loc"]], first["msg"]
    if first["type"] == "json_invalid":
        raise Refusal(400, f"the body is not JSON in UTF-8: {said.removeprefix('Invalid JSON: ')}.")
    if first["type"] == "value_error":  # of a validator of ours
        raise Refusal(422, said.removeprefix("Value error, "))
    if first["type"] == "extra_forbidden":
        raise Refusal(422, f"there is a field besides {', '.join(RankRequest.model_fields)}.")
    if place and place[-1] in ("constrained-str", "constrained-int"):
        raise Refusal(422, f"{'.'.join(place[:-1])} is not an id: {AN_ID}.")
    raise Refusal(422, f"{'.'.join(place) or 'the body'}: {said[0].lower()}{said[1:]}.")
