"""Which jobs there are, by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dougong.errors import NotFound
from dougong.jobs.declare import Job

__all__ = ["AnyJob", "Catalog"]

AnyJob = Job[..., object]


class Catalog:
    """Declared jobs by name. Raises `TypeError` for two of one name, and for what no worker could run."""

    def __init__(self, jobs: Iterable[AnyJob]) -> None:
        self._jobs: dict[str, AnyJob] = {}
        for job in jobs:
            other = self._jobs.setdefault(job.name, job)
            if other is not job:
                raise TypeError(
                    f"two jobs are named {job.name}: in {other.__module__} and {job.__module__}; give one a `name=`"
                )
            if job.kind == "process" and job.needs:
                raise TypeError(
                    f"job {job.name} runs in a process of its own, where {', '.join(job.needs)} cannot be put in: "
                    f"make it there, or run the job in a thread"
                )

    def get(self, name: str) -> AnyJob | None:
        return self._jobs.get(name)

    def __getitem__(self, name: str) -> AnyJob:
        """Raises `NotFound` (`unknown_job`)."""
        job = self._jobs.get(name)
        if job is None:
            known = ", ".join(sorted(self._jobs)) or "none"
            raise NotFound(f"there is no job {name[:100]!r}; known are: {known}", code="unknown_job")
        return job

    def __iter__(self) -> Iterator[AnyJob]:
        return iter(self._jobs.values())

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, name: object) -> bool:
        return name in self._jobs

    @property
    def queues(self) -> tuple[str, ...]:
        """Queues that the jobs name, by name."""
        return tuple(sorted({job.queue for job in self}))

    @property
    def needs(self) -> set[type]:
        """What they ask for, by type."""
        return {kind for job in self for kind in job.needs.values()}
