"""Check a compose file without Docker: every service proves that it is up, and nothing leaks.

A container that answers is not yet a database that answers, so each service has a health check; a
password in the file or a published port would be one `git push` away from the world.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml


def problems(text: str) -> list[str]:
    """Give what is wrong with a compose file, one sentence each; empty means fine."""
    document = yaml.safe_load(text)
    if not isinstance(document, dict) or not isinstance(document.get("services"), dict):
        return ["it has no services"]
    volumes = set(document.get("volumes") or {})
    found: list[str] = []
    for name, service in document["services"].items():
        if not isinstance(service, dict):
            found.append(f"{name}: a service is a mapping")
            continue
        found += [f"{name}: {problem}" for problem in _of_service(service, volumes)]
    return found


def _of_service(service: dict[str, object], volumes: set[str]) -> list[str]:
    """Give what is wrong with one service."""
    found = []
    if not ("image" in service or "build" in service):
        found.append("neither image nor build")
    image = str(service.get("image", "named:by-build"))
    if ":" not in image or image.endswith(":latest"):
        found.append("the image's version is not named")
    health = service.get("healthcheck")
    if not (isinstance(health, dict) and health.get("test")):
        found.append("no health check")
    if service.get("ports"):
        found.append("publishes a port; let services talk on their own network")
    found += [
        f"{key} stands in the file; put it into the env file"
        for key, value in _environment(service)
        if "PASSWORD" in key and value and not value.startswith("${")
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
