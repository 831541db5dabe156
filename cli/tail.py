"""`tokenspool tail`: the text of a job, with -f while it grows."""

from __future__ import annotations

from time import sleep as pause
from typing import Annotated

import typer

from cli.options import BatchName, Folder, command_app, invocation
from cli.printing import ModelText, say, show_json
from tokenspool.database import Database
from tokenspool.model import JobState, Kind
from tokenspool.store import lookup, reads
from tokenspool.store.following import News, Position, look

app = command_app()
#: How often a follower looks: about what a beat takes, and a thousandth of a core.
_LOOK_S = 0.2


@app.command()
def tail(
    ctx: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="An id or a unique custom_id.")],
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the job ends.")] = False,
    kind: Annotated[Kind, typer.Option(help="What of the answer.")] = Kind.TEXT,
    batch: BatchName = None,
    output: Folder = None,
) -> int:
    """Print a job's text: raw bytes for a program, nothing that steers for a terminal."""
    asked = invocation(ctx)
    with asked.opened(asked.settings(), folder=output) as database:
        with database.read() as connection:
            chosen = None if batch is None else reads.batch_id(connection, batch)
            line = lookup.show(connection, lookup.find_job(connection, job, batch=chosen)).line
        shown = _Gathered() if asked.as_json else _Shown()
        try:
            news = _follow(database, line.id, shown, kind=kind, follow=follow)
        except KeyboardInterrupt:
            # It is how a follower leaves; the job goes on.
            return 0
        shown.end(line, news, kind)
    return 0


def _follow(database: Database, job_id: int, shown: _Shown, *, kind: Kind, follow: bool) -> News:
    position = Position()
    while True:
        news = look(database, job_id, after=position, kind=kind)
        if news.reset:
            shown.reset(news.position.edition)
        if news.data:
            shown.write(news.data)
        position = news.position
        if news.is_last or not (follow or news.more):
            return news
        if not news.more:
            pause(_LOOK_S)


class _Shown:
    """Prints the text as it comes."""

    def __init__(self) -> None:
        self._text = ModelText()

    def write(self, data: bytes) -> None:
        self._text.write(data)

    def reset(self, edition: int) -> None:
        self._text.end()
        say(f"reset: the text begins anew, edition {edition}")

    def end(self, line: lookup.JobLine, news: News, kind: Kind) -> None:
        self._text.end()
        if news.state is JobState.DONE and kind is Kind.TEXT and news.position.offset < line.bytes:
            say(f"the journal's text was pruned; it is in {line.root.rstrip('/')}/{line.name}")
        elif news.state is not JobState.DONE:
            say(f"job {line.id} is {news.state} at {news.position}")


class _Gathered(_Shown):
    """Keeps the text for one JSON document."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> None:
        self._data += data

    def reset(self, edition: int) -> None:
        del edition
        self._data.clear()

    def end(self, line: lookup.JobLine, news: News, kind: Kind) -> None:
        show_json(
            {
                "id": line.id,
                "custom_id": line.custom_id,
                "state": news.state.value,
                "kind": kind.value,
                "position": str(news.position),
                "text": self._data.decode(errors="replace"),
            }
        )
