"""A job type with its signature and its options, from which payloads are made.

Rules: wrong options fail where they are given, wrong arguments where the job is pushed. Nothing is
sent from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from ..exceptions import FaktoryPayloadError
from ..proto import new_jid
from ..wire.validate import brief
from . import options as job_options
from .schedule import OnePush
from .signature import Signature

_NOT_CHECKED: Final[tuple[int, dict[str, Any], list[str]]] = (-1, {}, [])


class DeclaredJob(Protocol):
    """A declared job: a function with `@job`, a class below `Job`, or what `external` returned."""

    def perform_bulk(self, rows: Iterable[Sequence[object]]) -> list[str]:
        """Push a job for each row of arguments."""


class JobSpec:
    """A job type with its signature and its options."""

    def __init__(
        self,
        jobtype: str,
        signature: Signature,
        options: Mapping[str, Any],
        once: OnePush | None = None,
    ) -> None:
        self._jobtype = jobtype
        self._signature = signature
        self._options = options
        self._once = once
        # Of the default options in this version: the fields, and the Enterprise options among them.
        self._checked = _NOT_CHECKED
        try:
            job_options.to_fields(options, jobtype)
        except FaktoryPayloadError as error:
            raise FaktoryPayloadError(f"the job {jobtype!r}: {error}") from None

    def __repr__(self) -> str:
        options = "".join(f" {name}={brief(value)}" for name, value in self.options.items())
        return f"<faktory job {self._jobtype}{options}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_checked": _NOT_CHECKED}  # made of this process's default options

    @property
    def jobtype(self) -> str:
        """The job's type on the server."""
        return self._jobtype

    @property
    def options(self) -> dict[str, Any]:
        """The options of the declaration and of `set`."""
        once = {} if self._once is None else self._once.options()
        return job_options.merge(self._options, once)

    @property
    def queue(self) -> str:
        """The queue that it goes to: its own, or that of the default options as they are now."""
        return str(self._fields().get("queue", "default"))

    def payload(
        self, args: Sequence[object], kwargs: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Return the wire dict of a job with these arguments, with a jid of its own."""
        try:
            bound = self._signature.bind(args, kwargs or {})
        except TypeError as error:
            raise TypeError(f"{self._jobtype}: {error}") from None
        if self._signature.typed:
            bound = self._signature.to_wire(bound)
        return self.payload_of(bound)

    def payload_of(self, bound: list[Any]) -> dict[str, Any]:
        """Return the wire dict of a job whose arguments are bound already, and plain JSON."""
        made = {"jid": new_jid(), "jobtype": self._jobtype, "args": bound, **self._fields()}
        if "custom" in made:
            made["custom"] = job_options.copy_of(made["custom"])
        if self._once is not None:
            self._once.apply(made)
        return made

    def typed_args(self, args: Sequence[object]) -> Sequence[object]:
        """Return arguments from the wire as the job's function gets them.

        FaktoryPayloadError, with the path, for one that is not of its type.
        """
        return self._signature.from_wire(args) if self._signature.typed else args

    def _fields(self) -> dict[str, Any]:
        """Return the wire fields that the options make, checked as those of a whole job."""
        defaults = job_options.default_job_options
        version = defaults.version
        if self._checked[0] != version:
            options = job_options.merge(defaults, self._options)
            fields = job_options.to_fields(options, self._jobtype)
            self._checked = version, fields, list(job_options.enterprise(options))
        return self._checked[1]

    def _rows_to_wire(self, rows: Sequence[Sequence[object]]) -> list[Sequence[object]]:
        """Return rows as plain JSON; `_check_rows` finds what is not a row."""
        made: list[Sequence[object]] = []
        for index, row in enumerate(rows):
            if not isinstance(row, (list, tuple)):
                made.append(row)
                continue
            try:
                made.append(self._signature.to_wire(row))
            except FaktoryPayloadError as error:
                raise FaktoryPayloadError(f"rows[{index}]: {error}") from error.__cause__
        return made

    def _check_rows(self, rows: Sequence[Sequence[object]]) -> None:
        """Raise, with its number, for a row that is not one or that the job would not take."""
        for index, row in enumerate(rows):
            if not isinstance(row, (list, tuple)):
                raise FaktoryPayloadError(
                    f"rows[{index}] is of type {type(row).__name__}; a row is a tuple. "
                    "For a single argument: (value,)."
                )
            if not self._signature.fits(len(row)):
                try:
                    self.payload(row)
                except TypeError as error:
                    raise TypeError(f"rows[{index}]: {error}") from None


def spec_of(job: object) -> JobSpec | None:
    """Return the spec of a declared job; None for anything else."""
    spec = job if isinstance(job, JobSpec) else getattr(job, "_push", None)
    return spec if isinstance(spec, JobSpec) else None
