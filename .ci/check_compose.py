"""Check a compose file without Docker: what it says is known, every service is up, nothing leaks.

A container that answers is not yet a database that answers, so each service has a health check; a
password in the file or a published port would be one `git push` away from the world. A key that is
written wrong would be found by Docker alone, and a service that is root by nobody.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

#: What we use of the Compose Specification; add to it what you need and have looked up there.
TOP = {"name", "services", "volumes"}
KEYS = {
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "deploy",
    "env_file",
    "environment",
    "healthcheck",
    "image",
    "init",
    "read_only",
    "restart",
    "security_opt",
    "shm_size",
    "stop_grace_period",
    "tmpfs",
    "ulimits",
    "user",
    "volumes",
}
HEALTH = {"disable", "interval", "retries", "start_period", "test", "timeout"}
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
_DURATION = re.compile(r"(\d+(us|ms|s|m|h))+")
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN\b|_KEY\b")
#: A variable, or a URL whose password is one.
_FROM_OUTSIDE = re.compile(r"\$\{")


def problems(text: str) -> list[str]:
    """Give what is wrong with a compose file, one sentence each; empty means fine."""
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
        return ["it has no services"]
    volumes = set(document.get("volumes") or {})
    services = document["services"]
    found = [
        f"unknown key {key}" for key in document if key not in TOP and not key.startswith("x-")
    ]
    for name, service in services.items():
        if not isinstance(service, dict):
            found.append(f"{name}: a service is a mapping")
            continue
        problems_of = (
            *_of_service(service, volumes),
            *_of_hardening(service),
            *_of_order(service, services),
        )
        found += [f"{name}: {problem}" for problem in problems_of]
    return found


def _of_hardening(service: dict[str, Any]) -> Iterator[str]:
    """Give what a service may do that it does not need."""
    if service.get("read_only") is not True:
        yield "its root file system can be written: read_only: true"
    if service.get("cap_drop") != ["ALL"]:
        yield "it keeps capabilities: cap_drop: [ALL]"
    if "no-new-privileges:true" not in (service.get("security_opt") or []):
        yield "it may gain privileges: security_opt: [no-new-privileges:true]"
    # What we build ourselves has its user in the Dockerfile, which is checked too.
    user = str(service.get("user", "" if "build" not in service else "built"))
    if user.partition(":")[0] in {"", "0", "root"}:
        yield "it runs as root: name a user"


def _of_order(service: dict[str, Any], services: dict[str, Any]) -> Iterator[str]:
    """Give what is wrong with keys, durations and what it waits for."""
    yield from (f"unknown key {key}" for key in service if key not in KEYS)
    health = service.get("healthcheck") or {}
    yield from (f"unknown key healthcheck.{key}" for key in health if key not in HEALTH)
    durations = {
        key: health[key] for key in ("interval", "timeout", "start_period") if key in health
    }
    if "stop_grace_period" in service:
        durations["stop_grace_period"] = service["stop_grace_period"]
    for key, value in durations.items():
        if not _DURATION.fullmatch(str(value)):
            yield f"{key} is no duration: {value}"
    for other, how in (service.get("depends_on") or {}).items():
        if other not in services:
            yield f"it depends on {other}, which is not there"
        condition = how.get("condition") if isinstance(how, dict) else None
        if condition not in CONDITIONS:
            yield f"it depends on {other} under the condition {condition}, which there is not"
        elif condition == "service_healthy" and not _is_asked(services.get(other)):
            yield f"it waits until {other} is healthy, which nobody asks"


def _is_asked(service: object) -> bool:
    """Tell whether a service has a health check."""
    health = service.get("healthcheck") if isinstance(service, dict) else None
    return isinstance(health, dict) and bool(health.get("test"))


def _of_service(service: dict[str, object], volumes: set[str]) -> list[str]:
    """Give what is wrong with one service."""
    found = []
    if not ("image" in service or "build" in service):
        found.append("neither image nor build")
    image = str(service.get("image", "named:by-build"))
    if ":" not in image or image.endswith(":latest"):
        found.append("the image's version is not named")
    # What ends by itself is not asked whether it lives.
    health = service.get("healthcheck")
    ends = service.get("restart") == "no" and health == {"disable": True}
    if not (_is_asked(service) or ends):
        found.append("no health check")
    if service.get("ports"):
        found.append("publishes a port; let services talk on their own network")
    found += [
        f"{key} stands in the file; put it into the env file"
        for key, value in _environment(service)
        if value and not _FROM_OUTSIDE.search(value) and (_SECRET.search(key) or "://" in value)
    ]
    mounts = service.get("volumes") or []
    named = [str(mount).partition(":")[0] for mount in mounts] if isinstance(mounts, list) else []
    found += [
        f"volume {mount} is not declared"
        for mount in named
        if mount not in volumes and not mount.startswith((".", "/"))
    ]
    return found


def _environment(service: dict[str, object]) -> list[tuple[str, str]]:
    """Give the variables of a service, in whichever of its two forms they are written."""
    given = service.get("environment") or {}
    if isinstance(given, dict):
        return [(str(key), str(value or "")) for key, value in given.items()]
    lines = given if isinstance(given, list) else []
    return [(key, value) for key, _, value in (str(line).partition("=") for line in lines)]


def main() -> int:
    """Print the problems of every file that is named; exit 1 when there are any."""
    bad = 0
    for path in sys.argv[1:]:
        for problem in problems(Path(path).read_text(encoding="utf-8")):
            print(f"{path}: {problem}", file=sys.stderr)
            bad += 1
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
