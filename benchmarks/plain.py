"""The receiver that an ordinary good developer writes in an afternoon: what ours is measured against.

FastAPI, pydantic and SQLAlchemy's asynchronous session on asyncpg, served by uvicorn with uvloop and
httptools. One callback is one transaction: it keeps the body, gives the message its state, commits,
and answers. No group commit, no fold, no order of arrival considered.
"""

import os
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel
from sqlalchemy import DateTime, Identity
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_STATUS = {1: "delivered", -1: "failed", 0: "pending"}

engine = create_async_engine(os.environ["PLAIN_DATABASE_URL"], pool_size=12, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI(openapi_url=None)


class Base(DeclarativeBase):
    """The tables, which the benchmark makes."""


class Message(Base):
    """A message that was sent."""

    __tablename__ = "plain_messages"

    id: Mapped[str] = mapped_column(primary_key=True)
    phone: Mapped[str]
    status: Mapped[str]
    reported_at: Mapped[str | None]


class Callback(Base):
    """A callback as it came."""

    __tablename__ = "plain_callbacks"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    message_id: Mapped[str] = mapped_column(index=True)
    body: Mapped[str]


class Report(BaseModel):
    """`sms` of a push."""

    id: str
    phone: str
    status: int
    receiveDate: str | None = None  # noqa: N815  the vendor's spelling


class Push(BaseModel):
    """A push of ThinkAPI's."""

    action: str
    sms: Report


async def session() -> AsyncIterator[AsyncSession]:
    """Yield a session of its own for each request."""
    async with sessions() as one:
        yield one


@app.post("/callbacks/{account}/{token}")
async def callback(
    account: str,
    token: str,
    push: Push,
    request: Request,
    database: Annotated[AsyncSession, Depends(session)],
) -> dict[str, int]:
    """Keep one callback, give its message its state, commit, acknowledge."""
    if not secrets.compare_digest(token, os.environ["PLAIN_TOKEN"]):
        raise HTTPException(404)
    body = (await request.body()).decode()
    database.add(Callback(received_at=datetime.now(UTC), message_id=push.sms.id, body=body))
    message = await database.get(Message, push.sms.id, with_for_update=True)
    if message is not None:
        message.status = _STATUS.get(push.sms.status, "unknown")
        message.reported_at = push.sms.receiveDate
    await database.commit()
    return {"code": 0}
