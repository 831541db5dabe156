"""Settings: flags, then `TOKENSPOOL_*`, then `tokenspool.toml`, then the defaults below.

`load` parses them once, at the door; inside, they are right. A key is named, never kept.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from tokenspool.errors import UsageError
from tokenspool.model import Prefill
from tokenspool.profiles import Profile, profile_for

#: Looked for in the folder somebody stands in.
FILE = "tokenspool.toml"
_PREFIX = "TOKENSPOOL_"
#: Variables of ours that are no settings: a worker process is told by it that it has a parent.
_NO_SETTINGS = {"TOKENSPOOL_SUPERVISED"}
#: What tests are told by; never looked at here.
_OF_TESTS = "TOKENSPOOL_TEST_"
OPENAI_URL = "https://api.openai.com/v1"

MiB = 1024 * 1024
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LimitName = Literal["max_in_flight", "requests_per_minute", "tokens_per_minute"]
SecondsOrNone = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_log = logging.getLogger(__name__)


def _base_url(url: str) -> str:
    """Refuse what can be no base URL: jobs would never be found to be meant by it."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        msg = "it is not a base URL like http://127.0.0.1:8000/v1"
        raise ValueError(msg)
    return url


def _redis_url(url: str) -> str:
    """Refuse what names no Redis."""
    if urlsplit(url).scheme not in {"redis", "rediss", "unix"}:
        msg = "it is not the URL of a Redis, like redis://127.0.0.1:6379/0"
        raise ValueError(msg)
    return url


class EndpointSettings(BaseModel):
    """What is particular about one endpoint: an `[[endpoint]]` of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The base URL this is about, as jobs name it.
    url: Annotated[str, AfterValidator(_base_url)]
    #: How it goes on from a trailing assistant message; `none`: it does not. None: as is known.
    prefill: Prefill | Literal["none"] | None = None
    #: Does `[DONE]` without a finish reason prove the end? None: as is known.
    done_is_finish: bool | None = None
    #: The environment variable that holds its key; None: that of the settings.
    api_key_env: str | None = None
    #: The model that the limits below are for; None: each of its models by itself.
    model: str | None = None
    #: Requests at once, of all workers together; None: as many as there are streams.
    max_in_flight: Positive | None = None
    #: Requests a minute, of all workers together; None: what the endpoint says itself.
    requests_per_minute: Positive | None = None
    #: Tokens a minute, prompts and answers; None: what the endpoint says itself.
    tokens_per_minute: Positive | None = None

    @model_validator(mode="after")
    def _only_limits_of_a_model(self) -> Self:
        """Refuse habits of one model: they are the server's, and would be overlooked here."""
        habits = (self.prefill, self.done_is_finish, self.api_key_env)
        if self.model is not None and any(one is not None for one in habits):
            msg = "with a model it may only name limits; put the rest into one without a model"
            raise ValueError(msg)
        return self


class Settings(BaseSettings):
    """All that can be set, each with its unit and the reason for its default."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    #: Where jobs and their text are kept; None: `.tokenspool/spool.db`.
    database_url: str | None = None
    #: Where a fleet's hints go; None: no broker, workers poll.
    broker_url: str | None = None
    #: The name of the queue there; fleets that share a broker need one each.
    broker_queue: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")] = "tokenspool"
    #: The Redis in which a fleet keeps its limits together; None: the broker, if that is a Redis.
    limits_url: Annotated[str, AfterValidator(_redis_url)] | None = None
    #: Where requests go when a job does not say; `OPENAI_BASE_URL` is honoured.
    base_url: str = OPENAI_URL
    #: The model of jobs that name none.
    model: str | None = None
    #: The NAME of the environment variable that holds the key.
    api_key_env: str = "OPENAI_API_KEY"
    #: Streams at once: one connection and about 60 KB of memory each.
    streams: Positive = 64
    #: Seconds a socket gathers before it is read; `auto` follows the load (0.02 to 0.5).
    tick_s: Literal["auto"] | Seconds = "auto"
    #: Seconds between two commits; with a tick it is what a `kill -9` loses. `auto`: 0.05 to 0.5.
    beat_s: Literal["auto"] | Seconds = "auto"
    #: Seconds to a connection; longer is a network fault, not a slow model.
    connect_timeout_s: Seconds = 10.0
    #: Seconds to the first content: long prompts and queues of a busy server take minutes.
    first_byte_timeout_s: Seconds = 600.0
    #: Seconds without content; keep-alive comments do not count.
    idle_timeout_s: Seconds = 120.0
    #: Seconds one answer may take at most; 0: no limit, long answers are what this is for.
    total_timeout_s: SecondsOrNone = 0.0
    #: Failures of the job itself before it is given up.
    max_attempts: Positive = 5
    #: Answers in a row without a new byte before the job is given up.
    max_stalls: Positive = 5
    #: Deaths of its worker in a row before a job is given up as poison.
    max_crashes: Positive = 10
    #: How often an answer that ended at the provider's own limit is continued.
    max_continuations: Positive = 64
    #: Seconds `run` waits for an endpoint that cannot be reached.
    endpoint_patience_s: SecondsOrNone = 600.0
    #: Bytes received but not yet committed, over all streams of a process.
    budget_bytes: Positive = 64 * MiB
    #: Bytes of one event of a stream; a larger one is an attack or a fault.
    max_event_bytes: Positive = 8 * MiB
    #: Bytes of one job's text; beyond it the job fails as `too_large`.
    max_output_bytes: Positive = 1024 * MiB
    #: Bytes of one input line.
    max_line_bytes: Positive = 8 * MiB
    #: How long the journal keeps a job's text: `forever`, or until its file is published.
    keep: Literal["forever", "until-published"] = "forever"
    #: Endpoints with habits of their own.
    endpoint: tuple[EndpointSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Put the sources in the order of the contract."""
        del dotenv_settings, file_secret_settings
        openai = os.environ.get("OPENAI_BASE_URL", "").strip()
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, init_kwargs={"base_url": openai} if openai else {}),
            InitSettingsSource(settings_cls, init_kwargs=_file(Path(FILE), cls.model_fields)),
        )

    def profile(self, url: str) -> Profile:
        """Give how to treat the endpoint at `url`: what is set, else what is known of its host."""
        known, own = profile_for(url), self._own(url)
        prefill = known.prefill
        if own.prefill is not None:
            prefill = () if own.prefill == "none" else (Prefill(own.prefill),)
        done = known.done_is_finish if own.done_is_finish is None else own.done_is_finish
        return Profile(prefill=prefill, done_is_finish=done)

    def key_env(self, url: str) -> str:
        """Name the environment variable with the key of the endpoint at `url`."""
        return self._own(url).api_key_env or self.api_key_env

    def limit(self, name: LimitName, url: str, model: str) -> int | None:
        """Give a limit of a model at `url`: its own, else that of the URL; None: none is set."""
        limits = (getattr(self._own(url, of), name) for of in (model, None))
        return next((limit for limit in limits if limit is not None), None)

    def _own(self, url: str, model: str | None = None) -> EndpointSettings:
        for one in self.endpoint:
            if one.url.rstrip("/") == url.rstrip("/") and one.model == model:
                return one
        return EndpointSettings.model_construct(url=url)


def load(**flags: object) -> Settings:
    """Give the settings; `flags` are what the command line said, None where it said nothing.

    Raises `UsageError`, in one sentence, for an unknown key or a value that is not one. A
    `TOKENSPOOL_*` variable that is no setting is warned of.
    """
    ours = (name for name in os.environ if name.upper().startswith(_PREFIX))
    for name in sorted(ours):
        _warn_if_unknown(name)
    said = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**said)  # type: ignore[arg-type]
    except ValidationError as error:
        raise UsageError(_sentence(error)) from error
    except SettingsError as error:
        msg = f"a TOKENSPOOL_* variable is not valid: {error}"
        raise UsageError(msg) from error


@functools.cache
def _warn_if_unknown(name: str) -> None:
    """Warn, once in a process, of a variable that sets nothing; others may share our prefix."""
    known = [_PREFIX + field.upper() for field in Settings.model_fields]
    if name.upper() in {*known, *_NO_SETTINGS} or name.upper().startswith(_OF_TESTS):
        return
    near = difflib.get_close_matches(name.upper(), known, n=1)
    hint = f"did you mean {near[0]}?" if near else "see the settings reference"
    _log.warning("the variable %s sets nothing; %s", name, hint)


def _file(path: Path, fields: Iterable[str]) -> dict[str, Any]:
    """Read the settings file, if there is one, and refuse keys that it cannot have."""
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise UsageError(msg) from error
    try:
        found = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not TOML: {error}"
        raise UsageError(msg) from error
    _refuse_unknown(path, found, fields)
    entries = found.get("endpoint", [])
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        msg = f"{path}: endpoint is a list of tables; begin each with a line [[endpoint]]"
        raise UsageError(msg)
    for one in entries:
        _refuse_unknown(path, one, EndpointSettings.model_fields, place="[[endpoint]] ")
    return found


def _refuse_unknown(
    path: Path, found: Iterable[str], known: Iterable[str], *, place: str = ""
) -> None:
    names = sorted(known)
    for key in found:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names)}"
            msg = f"{path}: unknown key {place}{key!r}; {hint}"
            raise UsageError(msg)


def _sentence(error: ValidationError) -> str:
    """Say the first thing that is wrong; never the value of a URL, which may hold a password."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"][:3]) or "settings"
    shown = "" if "url" in name else f" (got {first['input']!r})"
    return f"{name}: {first['msg'].lower()}{shown}; see the settings reference"
