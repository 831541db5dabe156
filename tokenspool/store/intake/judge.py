"""Judges lines against the jobs that are there and against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tokenspool.inputs.spec import BadLine, JobSpec
from tokenspool.store.intake import reasons, rows
from tokenspool.store.intake.disk import Disk
from tokenspool.store.intake.options import JobOptions
from tokenspool.store.intake.place import Place


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What became of the lines of a chunk that are no new jobs."""

    same: int = 0
    #: Jobs that are there and the lines whose options they are to get.
    renewed: list[tuple[int, JobSpec]] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)

    def refuse(self, spec: JobSpec, reason: str) -> None:
        """Count a line as bad."""
        self.bad.append(BadLine(file=spec.file, line=spec.line, reason=reason))


class Judge:
    """Knows the places where a job may be there already."""

    def __init__(self, places: Sequence[Place], options: JobOptions) -> None:
        """Look into these places; the first is the one that new jobs go into."""
        self._places = places
        self._disk = Disk(places[0].root)
        self.options = options

    def chunk(
        self, lines: Sequence[JobSpec | BadLine], *, own_intake: int | None
    ) -> tuple[list[JobSpec], Verdict]:
        """Give the new jobs among these lines, and what became of the others."""
        verdict = Verdict(bad=[line for line in lines if isinstance(line, BadLine)])
        fresh = [line for line in lines if isinstance(line, JobSpec)]
        for place in self._places:
            own = own_intake if place is self._places[0] else None
            fresh = self._without_known(place, fresh, verdict, own_intake=own)
        fresh = self._without_overwriting(_without_twins(fresh, verdict), verdict)
        if len(verdict.bad) > 1:
            order = {(line.file, line.line): at for at, line in enumerate(lines)}
            verdict.bad.sort(key=lambda line: order[line.file, line.line])
        return fresh, verdict

    def _without_known(
        self, place: Place, specs: list[JobSpec], verdict: Verdict, *, own_intake: int | None
    ) -> list[JobSpec]:
        there, taken = place.existing(specs)
        if not there and not taken:
            return specs
        fresh = []
        for spec in specs:
            if job := there.get(spec.custom_id):
                if reason := self._against(place, spec, job):
                    verdict.refuse(spec, reason)
                elif job.intake_id != own_intake and self._is_renewed(place, spec, job):
                    verdict.renewed.append((job.id, spec))
                else:
                    verdict.same += 1
            elif other := taken.get(spec.name_key):
                verdict.refuse(spec, reasons.taken_by(spec, other))
            else:
                fresh.append(spec)
        return fresh

    def _without_overwriting(self, specs: list[JobSpec], verdict: Verdict) -> list[JobSpec]:
        """Refuse new jobs whose output is there: no job of this database has written it."""
        taken = self._disk.taken(specs)
        for spec in specs if taken else ():
            if path := taken.get(spec.custom_id):
                verdict.refuse(spec, reasons.overwrites(spec, path))
        return [spec for spec in specs if spec.custom_id not in taken] if taken else specs

    def _against(self, place: Place, spec: JobSpec, job: rows.Existing) -> str | None:
        """Say what keeps a line from being the job of its custom_id."""
        if job.content != spec.content:
            body, line = place.body_of(job.id), reasons.line_of(job.extra)
            return reasons.differs(spec, body=body, line=line)
        return place.moved(spec, job)

    def _is_renewed(self, place: Place, spec: JobSpec, job: rows.Existing) -> bool:
        endpoint_id = place.endpoint_id(spec.model, self.options)
        return reasons.is_renewed(spec, job, self.options, endpoint_id=endpoint_id)


def _without_twins(specs: list[JobSpec], verdict: Verdict) -> list[JobSpec]:
    """Settle lines that mean the same job or the same output as an earlier one of the chunk."""
    by_id: dict[str, JobSpec] = {}
    by_name: dict[str, JobSpec] = {}
    for spec in specs:
        twin = by_id.get(spec.custom_id)
        other = by_name.get(spec.name_key)
        if twin is not None:
            if twin.content != spec.content:
                verdict.refuse(spec, reasons.differs(spec, body=twin.body, line=twin.place))
            elif twin.name != spec.name:
                verdict.refuse(spec, reasons.elsewhere(spec, name=twin.name))
            else:
                verdict.same += 1
        elif other is not None:
            verdict.refuse(spec, reasons.taken(spec, other.custom_id, other.name, other.place))
        else:
            by_id[spec.custom_id] = by_name[spec.name_key] = spec
    return list(by_id.values())
