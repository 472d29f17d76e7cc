"""One step of a shard of unit rows, in DuckDB: see `unit_rows` for what it keeps.

Temporary tables:

    members   experiment, exposure_name, starts_at, ends_at, is_fresh
    exposed   first exposures of all units that new exposures touch
    moved     those of them whose totals must be made from all batches, with what was known
    made      their totals
    added     what new events add to rows that stay
    placed    the moved rows with their totals and the day of their file
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from experiments_dagster.config.metrics import Measure
from experiments_dagster.config.project import Project
from experiments_dagster.config.resolve import Experiment
from experiments_dagster.frames.partials import build_partials
from experiments_dagster.frames.row_plan import Cohort, RowPlan, State, member_identity
from experiments_dagster.storage.atomic import staged
from experiments_dagster.storage.duck import Duck, quote_name, quote_text
from experiments_dagster.storage.manifest import Manifest

DAY = dt.timedelta(days=1)

Files = Mapping[str, tuple[Sequence[Path], Sequence[Path]]]


class Advance:
    """From one state to the next; `run` gives the state that shall stand."""

    def __init__(
        self,
        duck: Duck,
        project: Project,
        manifest: Manifest,
        folder: Path,
        *,
        plan: RowPlan,
        state: State,
        members: Sequence[Experiment],
        cutoff: int,
    ) -> None:
        self.duck, self.folder, self.plan = duck, folder, plan
        self.state, self.cutoff = state, cutoff
        self.staging = manifest.layout.staging
        self.members = {experiment.slug: experiment for experiment in members}
        self.partials = {
            source: build_partials(
                project, manifest, source, up_to=cutoff, needed=_measures(members, source)
            )
            for source in self.plan.totals
        }
        exposures = manifest.tables(self.plan.exposure_source, up_to=cutoff)
        self.inputs = {table.path: table.sha256 for _, table in exposures}
        for partials in self.partials.values():
            self.inputs |= partials.inputs
        self.types = self._types()
        self.exposure_files = [(batch.sequence, manifest.verified(t)) for batch, t in exposures]

    def run(self) -> State:
        """Write the files that change and return the state that names them."""
        if self._cannot_go_on():
            self.state = State()
        identities = {slug: member_identity(e) for slug, e in self.members.items()}
        old = self.state.members
        fresh = {slug for slug, identity in identities.items() if old.get(slug) != identity}
        gone = {slug for slug in old if slug not in identities} | (fresh & set(old))
        if not fresh and not gone and self.state.cutoff == self.cutoff:
            return self.state
        self._list_members(fresh)
        self._find_exposed()
        self._find_moved(gone)
        self._make_totals()
        self._add_new_events(gone)
        cohorts = self.state.cohorts | self._write_changed(gone)
        for table in ("members", "exposed", "moved", "made", "added", "keys", "placed"):
            self.duck.execute(f"DROP TABLE {table}")
        return State(
            cutoff=self.cutoff,
            inputs=self.inputs,
            members=identities,
            types=self.types,
            cohorts={day: found for day, found in sorted(cohorts.items()) if found is not None},
        )

    def _cannot_go_on(self) -> bool:
        """Whether what stands was made of something else, or of more, than what is asked for."""
        unchanged = all(self.inputs.get(p) == sha for p, sha in self.state.inputs.items())
        columns = set(self.plan.columns) <= set(self.state.types)
        return self.state.cutoff > self.cutoff or not unchanged or not columns

    def _list_members(self, fresh: Iterable[str]) -> None:
        rows = [
            (e.slug, e.exposure_name, _naive(e.starts_at), _naive(e.ends_at), e.slug in set(fresh))
            for e in self.members.values()
        ]
        self.duck.connection.execute(
            """CREATE OR REPLACE TEMP TABLE members (experiment VARCHAR, exposure_name VARCHAR,
            starts_at TIMESTAMP, ends_at TIMESTAMP, is_fresh BOOLEAN)"""
        )
        self.duck.connection.executemany("INSERT INTO members VALUES (?, ?, ?, ?, ?)", rows)

    def _find_exposed(self) -> None:
        """First exposures of every unit of a fresh member, and of units with new exposures."""
        files = [path for _, path in self.exposure_files]
        new = [path for sequence, path in self.exposure_files if sequence > self.state.cutoff]
        mapped = set(self.duck.parquet(files).columns) if files else set()
        properties = [name for name in self.plan.properties if name in mapped]
        segments = "".join(
            f", {f'first.{quote_name(name)}' if name in properties else 'NULL::VARCHAR'} "
            f"AS {quote_name(f'segment_{name}')}"
            for name in self.plan.properties
        )
        touched = ""
        if new and self.state.cutoff:
            touched = f"OR (experiment, unit) IN (SELECT (experiment, unit) FROM {_rows_in(new)})"
        self.duck.execute(
            f"""CREATE OR REPLACE TEMP TABLE exposed AS
            SELECT experiment, unit, first.variant AS arm, exposed_at, n_exposures, n_arms{segments}
            FROM (
                SELECT experiment, unit, min(occurred_at) AS exposed_at, count(*) AS n_exposures,
                       1 + (min(variant) IS DISTINCT FROM max(variant))::BIGINT AS n_arms,
                       arg_min(struct_pack({_packed(("variant", *properties))}),
                               (occurred_at, event_id)) AS first
                FROM {_rows_in(files)} WHERE is_fresh {touched}
                GROUP BY experiment, unit)"""
        )

    def _known(self, days: Iterable[str] | None = None) -> str:
        """The rows that stand, as SQL; of some days of first exposure or of all."""
        cohorts = self.state.cohorts
        wanted = cohorts if days is None else [day for day in days if day in cohorts]
        files = [self.folder / cohorts[day].file for day in wanted]
        if not files:
            return "(SELECT * FROM exposed LIMIT 0)"
        return f"(SELECT * FROM {_files(files)})"

    def _find_moved(self, gone: set[str]) -> None:
        known = f"""SELECT experiment, unit, exposed_at FROM {self._known()}
            WHERE NOT list_contains({_list(gone)}, experiment)"""
        self.duck.execute(
            f"""CREATE OR REPLACE TEMP TABLE moved AS
            SELECT x.*, k.exposed_at AS was FROM exposed x
            LEFT JOIN ({known}) k USING (experiment, unit)
            WHERE k.exposed_at IS DISTINCT FROM x.exposed_at"""
        )

    def _make_totals(self) -> None:
        """Totals of the moved units over all batches."""
        keys = "SELECT experiment, unit, exposed_at FROM moved"
        self._total("made", keys, {s: (p.days, p.events) for s, p in self.partials.items()})

    def _add_new_events(self, gone: set[str]) -> None:
        """What the batches after the shard's cut-off add to rows that stay."""
        new: dict[str, tuple[Sequence[Path], Sequence[Path]]] = {}
        reached = set[str]()
        for source, partials in self.partials.items():
            after = [n > self.state.cutoff for n in partials.sequences]
            days = [path for path, is_new in zip(partials.days, after, strict=True) if is_new]
            events = [path for path, is_new in zip(partials.events, after, strict=True) if is_new]
            new[source] = (tuple(days), tuple(events))
            if days:
                reached |= self._reached(source, days)
        rows = f"""SELECT experiment, unit, exposed_at FROM {self._known(sorted(reached))} k
            ANTI JOIN moved USING (experiment, unit)
            WHERE NOT list_contains({_list(gone)}, experiment)"""
        self._total("added", rows, new if reached else {})

    def _reached(self, source: str, days: Sequence[Path]) -> set[str]:
        """Days of first exposure whose windows new events can fall into."""
        limits = self.duck.connection.execute(
            f"SELECT min(day_start), max(day_end) FROM {_files(days)}"
        ).fetchall()[0]
        if limits[0] is None:
            return set()
        totals = self.plan.totals[source]
        first = (limits[0] - max(t.end_day for t in totals) * DAY).date()
        last = (limits[1] - min(t.start_day for t in totals) * DAY).date()
        return {day for day in self.state.cohorts if str(first) <= day <= str(last)}

    def _total(self, table: str, keys: str, files: Files) -> None:
        """CREATE a table of totals by (experiment, unit); rows without any event are left out."""
        self.duck.execute(f"CREATE OR REPLACE TEMP TABLE keys AS {keys}")
        span = self.duck.connection.execute(
            "SELECT min(exposed_at), max(exposed_at) FROM keys"
        ).fetchall()[0]
        parts = []
        for source, (days, events) in files.items():
            if days and span[0] is not None:
                parts.append(self._source_totals(source, days, events, span))
        names = [total.name for totals in self.plan.totals.values() for total in totals]
        if not parts:
            nothing = ", ".join(f"NULL::BIGINT AS {quote_name(name)}" for name in names)
            empty = f"SELECT experiment, unit, {nothing} FROM keys LIMIT 0"
            self.duck.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS {empty}")
            return
        union = " UNION ALL BY NAME ".join(f"({part})" for part in parts)
        # A sum is as wide as numbers get; rows keep it in 8 bytes, and so does all on the way.
        sums = ", ".join(
            f"sum({quote_name(name)})::{self.types[name]} AS {quote_name(name)}" for name in names
        )
        present = {name for source in files for name in self._names(source) if files[source][0]}
        padding = "".join(f", NULL::BIGINT AS {quote_name(n)}" for n in names if n not in present)
        self.duck.execute(
            f"""CREATE OR REPLACE TEMP TABLE {table} AS
            SELECT experiment, unit, {sums} FROM (SELECT *{padding} FROM ({union}))
            GROUP BY experiment, unit"""
        )

    def _names(self, source: str) -> list[str]:
        return [total.name for total in self.plan.totals[source]]

    def _source_totals(
        self,
        source: str,
        days: Sequence[Path],
        events: Sequence[Path],
        span: tuple[dt.datetime, dt.datetime],
    ) -> str:
        """Totals of one source: whole days inside the window, single events of cut days."""
        totals = self.plan.totals[source]
        offsets = sorted({d for total in totals for d in (total.start_day, total.end_day)})
        limits = ", ".join(f"exposed_at + INTERVAL ({d}) DAY AS {_limit(d)}" for d in offsets)
        first, last = span[0] + offsets[0] * DAY, span[1] + offsets[-1] * DAY
        near = f"""day_start < {_instant(last)} AND day_end > {_instant(first)}"""
        cut = " OR ".join(f"(day_start < {_limit(d)} AND {_limit(d)} < day_end)" for d in offsets)
        whole: list[str] = []
        single: list[str] = []
        for total in totals:
            low, high = _limit(total.start_day), _limit(total.end_day)
            day = f"(day_start >= {low} AND day_end <= {high})"
            event = f"(occurred_at >= {low} AND occurred_at < {high} AND NOT {day})"
            for conditions, condition in ((whole, day), (single, event)):
                amount = f"CASE WHEN {condition} THEN {quote_name(total.measure)} END"
                kind = self.types[total.name]
                conditions.append(f"sum({amount})::{kind} AS {quote_name(total.name)}")
        keys = f"(SELECT experiment, unit, {limits} FROM keys)"
        return f"""
            SELECT experiment, unit, {", ".join(whole)} FROM {_files(days)} d
            JOIN {keys} USING (unit) WHERE {near} GROUP BY experiment, unit
            UNION ALL
            SELECT experiment, unit, {", ".join(single)} FROM {_files(events)} e
            JOIN {keys} USING (unit) WHERE {near} AND ({cut}) GROUP BY experiment, unit"""

    def _write_changed(self, gone: set[str]) -> dict[str, Cohort | None]:
        """Write the files of all days whose rows change; None where none is left."""
        self._key_index()
        changed = self.duck.query(
            """SELECT DISTINCT day FROM (
                SELECT strftime(exposed_at, '%Y-%m-%d') AS day FROM exposed
                UNION ALL SELECT strftime(was, '%Y-%m-%d') FROM moved WHERE was IS NOT NULL
                UNION ALL SELECT strftime(exposed_at, '%Y-%m-%d') FROM keys
                    SEMI JOIN added USING (experiment, unit)
            )"""
        )["day"].to_list()
        if gone:
            changed = sorted({*changed, *self.state.cohorts})
        return {day: self._write_day(day, gone) for day in sorted(changed)}

    def _key_index(self) -> None:
        """Totals of moved rows with their day, so that each file picks its own."""
        names = [total.name for totals in self.plan.totals.values() for total in totals]
        zero = ", ".join(f"coalesce(t.{quote_name(n)}, 0) AS {quote_name(n)}" for n in names)
        self.duck.execute(
            f"""CREATE OR REPLACE TEMP TABLE placed AS
            SELECT m.* EXCLUDE (was), {zero}, strftime(m.exposed_at, '%Y-%m-%d') AS day
            FROM moved m LEFT JOIN made t USING (experiment, unit)"""
        )

    def _write_day(self, day: str, gone: set[str]) -> Cohort | None:
        names = [total.name for totals in self.plan.totals.values() for total in totals]
        segments = (f"segment_{name}" for name in self.plan.properties)
        own = ("arm", "exposed_at", "n_exposures", "n_arms", *segments)
        updated = ", ".join(
            f"CASE WHEN x.unit IS NULL THEN k.{quote_name(n)} ELSE x.{quote_name(n)} END "
            f"AS {quote_name(n)}"
            for n in own
        )
        sums = ", ".join(
            f"k.{quote_name(n)} + coalesce(a.{quote_name(n)}, 0) AS {quote_name(n)}" for n in names
        )
        columns = ", ".join(quote_name(name) for name in self.plan.columns)
        placed = f"SELECT {columns} FROM placed WHERE day = {quote_text(day)}"
        rows = placed
        if day in self.state.cohorts:
            rows = f"""
                SELECT k.experiment, k.unit, {updated}, {sums} FROM {self._known([day])} k
                LEFT JOIN exposed x USING (experiment, unit)
                LEFT JOIN added a USING (experiment, unit)
                WHERE NOT list_contains({_list(gone)}, k.experiment)
                  AND NOT EXISTS (SELECT 1 FROM moved m
                                  WHERE (m.experiment, m.unit) = (k.experiment, k.unit))
                UNION ALL BY NAME {placed}"""
        typed = ", ".join(
            f"{quote_name(name)}::{kind} AS {quote_name(name)}" for name, kind in self.types.items()
        )
        # Never the same name twice: a look may be reading the file that was there before.
        target = self.folder / f"{day}.{self.cutoff:06d}-{uuid.uuid4().hex[:8]}.parquet"
        with staged(target, self.staging) as temporary:
            path = quote_text(str(temporary))
            self.duck.execute(
                f"COPY (SELECT {typed} FROM ({rows}) ORDER BY experiment, unit) TO {path} "
                "(FORMAT parquet, COMPRESSION lz4_raw)"
            )
        found = self.duck.connection.execute(f"SELECT count(*) FROM {_files([target])}").fetchall()
        n = found[0][0]
        if not n:
            target.unlink()
            return None
        stat = target.stat()
        return Cohort(file=target.name, size=stat.st_size, modified_ns=stat.st_mtime_ns, rows=n)

    def _types(self) -> dict[str, str]:
        """Columns and their types; totals are exact 8-byte numbers, or doubles."""
        known = {"exposed_at": "TIMESTAMP", "n_exposures": "BIGINT", "n_arms": "BIGINT"}
        for source, totals in self.plan.totals.items():
            known |= {total.name: self._type(source, total.measure) for total in totals}
        return {name: known.get(name, "VARCHAR") for name in self.plan.columns}

    def _type(self, source: str, measure: str) -> str:
        days = self.partials[source].days
        if not days:
            return "BIGINT"
        relation = self.duck.parquet(days[-1:])
        found = str(relation.types[relation.columns.index(measure)])
        if found.startswith("DECIMAL"):
            scale = found.rstrip(")").split(",")[1]
            return f"DECIMAL(18,{scale})"
        return "DOUBLE" if found in ("DOUBLE", "FLOAT") else "BIGINT"


def _measures(members: Iterable[Experiment], source: str) -> list[Measure]:
    """What the members' metrics add up of one source, each once."""
    parts = (part for member in members for metric in member.metrics for part in metric.parts)
    return list({part.key: part for part in parts if part.source == source}.values())


def _rows_in(exposures: Sequence[Path]) -> str:
    """Exposures of the members within their windows."""
    files = _files(exposures) if exposures else _NO_EXPOSURES
    return f"""(SELECT m.experiment, m.is_fresh, e.* EXCLUDE (experiment)
        FROM {files} e JOIN members m ON e.experiment = m.exposure_name
        WHERE e.occurred_at >= m.starts_at AND e.occurred_at < m.ends_at)"""


_NO_EXPOSURES = """(SELECT '' AS experiment, '' AS unit, '' AS variant, '' AS event_id,
    TIMESTAMP '2000-01-01' AS occurred_at LIMIT 0)"""


def _naive(instant: dt.datetime) -> dt.datetime:
    return instant.astimezone(dt.UTC).replace(tzinfo=None)


def _files(paths: Sequence[Path]) -> str:
    listed = ", ".join(quote_text(str(path)) for path in paths)
    return f"read_parquet([{listed}], union_by_name=true)"


def _list(texts: Iterable[str]) -> str:
    return "[" + ", ".join(quote_text(text) for text in sorted(texts)) + "]::VARCHAR[]"


def _packed(names: Iterable[str]) -> str:
    return ", ".join(f"{quote_name(name)} := {quote_name(name)}" for name in names)


def _limit(day: int) -> str:
    return f"limit_{day}" if day >= 0 else f"limit_minus_{-day}"


def _instant(at: dt.datetime) -> str:
    return f"TIMESTAMP '{at:%Y-%m-%d %H:%M:%S.%f}'"
