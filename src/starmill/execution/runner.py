"""Runs a graph of quanta: submits what is ready, registers what is done, records what failed, goes on.

Completed quanta (same inputs, configuration and version) are not run again, so that a killed run goes on where
it was. Results are registered in groups: each group is one transaction of files and rows.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

import starmill
from starmill.errors import RepositoryError
from starmill.execution.events import EventSink, broadcast
from starmill.execution.executor import LOST, Executor
from starmill.execution.provenance import canonical, content_key, datasets_where, text_checksum
from starmill.execution.quantum_work import DONE, FAILED, NO_WORK, describe_error
from starmill.execution.source import RepositorySource, pipeline_dataset_types
from starmill.execution.summary import RunSummary
from starmill.execution.versions import versions
from starmill.pipelines.graph import Quantum, QuantumGraph
from starmill.repository import schema
from starmill.repository.collections import RUN, collection_row
from starmill.repository.dataset_ref import StoredDataset
from starmill.repository.layout import validate_collection_name
from starmill.repository.repository import Repository
from starmill.repository.transaction import DatasetConflictError

_HEARTBEAT = 30.0  # second: how often a session says that it lives while long quanta run


@dataclass(frozen=True)
class RunOptions:
    """How a run behaves.

    Attributes
    ----------
    fail_fast : bool
        Stop submitting after the first failure.
    retry_failed : bool
        Try again what an earlier run recorded as failed.
    replace : bool
        Run again what was made with other inputs, configuration or version, and replace it.
    force : bool
        Run everything again and replace it.
    attempts : int
        How often a quantum may be tried when its worker is lost.
    group_size : int
        Quanta of one transaction.
    group_seconds : float
        Longest time a finished quantum waits for its transaction.
    """

    fail_fast: bool = False
    retry_failed: bool = False
    replace: bool = False
    force: bool = False
    attempts: int = 3
    group_size: int = 64
    group_seconds: float = 0.2


@dataclass
class _Previous:
    """What an earlier run recorded of a quantum."""

    __slots__ = ("content_key", "error", "outputs", "status")

    status: str
    content_key: str
    outputs: str
    error: str | None


class Runner:
    """Executes one graph into one run collection.

    Parameters
    ----------
    repository : Repository
        Open for writing.
    graph : QuantumGraph
        What to do.
    executor : Executor
        Where to do it; it is not closed here.
    run : str
        Collection to write.
    options : RunOptions, optional
        Behaviour.
    sinks : sequence of callable
        Take events.
    """

    def __init__(
        self,
        repository: Repository,
        graph: QuantumGraph,
        executor: Executor,
        run: str,
        *,
        options: RunOptions | None = None,
        sinks: Sequence[EventSink] = (),
        session: str | None = None,
    ) -> None:
        self.repository = repository
        self.graph = graph
        self.executor = executor
        self.run_name = validate_collection_name(run)
        self.options = options or RunOptions()
        self.session = session or new_session_name()
        self.emit = broadcast(sinks, self.session)
        self.summary = RunSummary(self.session, run)
        self._source = RepositorySource(repository, graph.pipeline)
        self._kinds = {
            output.dataset: self._source.dataset_type(output.dataset)
            for node in graph.pipeline.nodes
            for output in node.outputs
        }
        self._configs: dict[tuple[str, Any], tuple[str, str]] = {}
        self._products: dict[int, dict[str, StoredDataset]] = {}
        self._documents: dict[str, str] = {}
        self._finished: list[tuple[Quantum, dict[str, Any], dict[str, Any]]] = []
        self._work: dict[int, dict[str, Any]] = {}
        self._started = time.time()
        self._last_commit = time.monotonic()

    # ---- the loop ------------------------------------------------------------------------------------------

    def run(self) -> RunSummary:
        """Run everything that is not done yet and return the summary."""
        begin = time.monotonic()
        self._prepare()
        state = "interrupted"
        try:
            self._loop()
            state = "finished"
        finally:
            self.summary.interrupted = state != "finished"
            self.summary.seconds = time.monotonic() - begin
            self._flush(state)
            self.emit("run_finished", state=state, counts=self.summary.counts, seconds=self.summary.seconds)
        return self.summary

    def _loop(self) -> None:
        ready = self._ready
        while ready or self.executor.running or self._finished or self._retries:
            self._submit_ready()
            if self.executor.running:
                for answer in self.executor.wait(0.1):
                    self._take(answer)
            if self._flush_is_due() or time.monotonic() - self._last_commit > _HEARTBEAT:
                self._flush("running")
            if self._stopped and not self.executor.running:
                ready.clear()
                self._retries.clear()

    def _submit_ready(self) -> None:
        while (self._ready or self._retries) and not self._stopped and self.executor.free > 0:
            if self._retries:
                self.executor.submit(self._retries.popleft())
                continue
            quantum = self.graph.quanta[self._ready.popleft()]
            message = self._message(quantum)
            if message is not None:
                self.executor.submit(message)

    def _flush_is_due(self) -> bool:
        if not self._finished:
            return False
        waited = time.monotonic() - self._first_finished
        idle = not self._ready and self.executor.running == 0
        return idle or len(self._finished) >= self.options.group_size or waited > self.options.group_seconds

    def _prepare(self) -> None:
        for node in self.graph.pipeline.nodes:
            self.summary.counts[node.label] = {"total": 0}
        for quantum in self.graph.quanta:
            self.summary.counts[quantum.node.label]["total"] += 1
        pipeline_text = canonical(self.graph.pipeline.to_dict())
        self._pipeline_checksum = text_checksum(pipeline_text)
        self._versions_checksum = text_checksum(canonical(versions()))
        own = pipeline_dataset_types(self.graph.pipeline)
        self.repository.register_dataset_types(own.values())
        self.repository.commit(
            {
                "collections": [collection_row(self.run_name, RUN)],
                "documents": {
                    self._pipeline_checksum: pipeline_text,
                    self._versions_checksum: canonical(versions()),
                },
                "sessions": [self._session_row("running")],
            }
        )
        self._previous = self._load_previous()
        self._registered: dict[str, StoredDataset] | None = None
        self._children = self.graph.children()
        self._waiting = [len(quantum.parents) for quantum in self.graph.quanta]
        self._readers = [len(children) for children in self._children]
        self._ready = deque(index for index, count in enumerate(self._waiting) if count == 0)
        self._retries: deque[dict[str, Any]] = deque()
        self._stopped = False
        self._first_finished = 0.0
        self.emit(
            "run_started", run=self.run_name, pipeline=self.graph.pipeline.name, counts=self.summary.counts
        )

    def _load_previous(self) -> dict[tuple[str, str], _Previous]:
        table, collection = schema.quantum.c, schema.collection.c
        number = sa.select(collection.id).where(collection.name == self.run_name).scalar_subquery()
        rows = self.repository.registry.fetch(
            sa.select(
                table.label, table.data_key, table.status, table.content_key, table.outputs, table.error
            ).where(table.run_id == number)
        )
        return {
            (row.label, row.data_key): _Previous(row.status, row.content_key, row.outputs, row.error)
            for row in rows
        }

    # ---- one quantum ---------------------------------------------------------------------------------------

    def _message(self, quantum: Quantum) -> dict[str, Any] | None:
        """Return the message for a worker; None when the quantum is settled without one."""
        inputs, missing = self._resolve(quantum)
        if missing:
            self._settle(quantum, "blocked")
            return None
        node = quantum.node
        config, checksum = self._config(quantum)
        key = content_key(node.task, checksum, inputs, [output.dataset for output in node.outputs])
        work = {"content_key": key, "config": checksum, "inputs": inputs, "replace": self.options.force}
        if self._is_settled_by_previous(quantum, work):
            return None
        shape = {
            "many": [spec.keyword for spec in node.inputs if spec.many],
            "lazy": [spec.keyword for spec in node.inputs if spec.many and spec.lazy],
            "outputs": [
                [output.keyword, self._kinds[output.dataset].storage, output.optional]
                for output in node.outputs
            ],
        }
        work["shape"] = json.dumps(shape)
        self._work[quantum.index] = work
        self.emit("quantum_started", label=node.label, data_id=quantum.data_key)
        return {
            "id": quantum.index,
            "attempt": 1,
            "label": node.label,
            "data_key": quantum.data_key,
            "store": self.repository.url,
            "writer": self.repository.journal.writer,
            "task": node.task,
            "config": config,
            "inputs": {keyword: [_file(ref) for ref in refs] for keyword, refs in inputs.items()},
            **shape,
            "provenance": self._file_provenance(quantum, work, config),
        }

    def _resolve(self, quantum: Quantum) -> tuple[dict[str, list[StoredDataset]], bool]:
        """Return the data sets that the quantum reads, and whether one that it needs is missing."""
        specs = {spec.keyword: spec for spec in quantum.node.inputs}
        inputs: dict[str, list[StoredDataset]] = {}
        for keyword, items, many in quantum.inputs:
            refs = []
            for item in items:
                ref = self._products.get(item[0], {}).get(item[1]) if isinstance(item, tuple) else item
                if ref is not None:
                    refs.append(ref)
            spec = specs[keyword]
            enough = len(refs) >= spec.minimum if many else len(refs) == len(items)
            if refs and enough:
                inputs[keyword] = refs
            elif not spec.optional:
                return {}, True
        return inputs, False

    def _config(self, quantum: Quantum) -> tuple[str, str]:
        """Return the configuration of a quantum as JSON text, and its checksum."""
        instrument = quantum.known.get("instrument")
        key = (quantum.node.label, instrument)
        if key not in self._configs:
            text = json.dumps(quantum.node.task_config(instrument).to_dict(), sort_keys=True)
            checksum = text_checksum(text)
            self._configs[key] = (text, checksum)
            self._documents[checksum] = text
        return self._configs[key]

    def _file_provenance(self, quantum: Quantum, work: dict[str, Any], config: str) -> dict[str, Any]:
        """Plain values kept inside product files; nothing that differs from one execution to the next."""
        return {
            "task": quantum.node.task,
            "label": quantum.node.label,
            "data_id": quantum.data_key,
            "config": json.loads(config),
            "config_checksum": work["config"],
            "starmill": starmill.__version__,
            "inputs": [
                {
                    "keyword": keyword,
                    "type": ref.dataset_type,
                    "data_id": ref.data_id.key,
                    "checksum": ref.checksum,
                }
                for keyword, refs in work["inputs"].items()
                for ref in refs
            ],
        }

    def _is_settled_by_previous(self, quantum: Quantum, work: dict[str, Any]) -> bool:
        """Settle a quantum that an earlier run has done, or that failed there for a reason that still holds."""
        previous = self._previous.get((quantum.node.label, quantum.data_key))
        if previous is None or self.options.force:
            return False
        same = previous.content_key == work["content_key"]
        if previous.status == DONE and same:
            products = self._earlier_products(previous)
            if products is not None:
                self._products[quantum.index] = products
                self._settle(quantum, "cached")
                return True
            work["replace"] = True
            return False
        if previous.status == DONE and not self.options.replace:
            error = DatasetConflictError(
                f"run '{self.run_name}' holds this product made from other inputs, with another configuration or"
                " version; write to another run (-o), or make it again (--replace)"
            )
            self._record_failure(quantum, describe_error(error) | {"traceback": ""})
            return True
        work["replace"] = previous.status == DONE
        if previous.status == NO_WORK and same:
            self._settle(quantum, "no_work")
            return True
        if previous.status == FAILED and same and not self.options.retry_failed:
            error_values = json.loads(previous.error or "{}")
            self._add_error(quantum, error_values)
            self._settle(quantum, "failed_earlier")
            return True
        return False

    def _earlier_products(self, previous: _Previous) -> dict[str, StoredDataset] | None:
        """Return the registered outputs of a completed quantum; None when one is gone."""
        if self._registered is None:
            collection = schema.collection.c
            number = sa.select(collection.id).where(collection.name == self.run_name).scalar_subquery()
            refs = datasets_where(self.repository, schema.dataset.c.run_id == number)
            self._registered = {ref.id: ref for ref in refs}
        products = {}
        for output in json.loads(previous.outputs):
            ref = self._registered.get(output["id"])
            if ref is None or ref.checksum != output["checksum"] or not self.repository.has_file(ref):
                return None
            products[output["keyword"]] = ref
        return products

    def _take(self, answer: dict[str, Any]) -> None:
        """Handle one answer of the executor."""
        quantum = self.graph.quanta[answer["id"]]
        work = self._work.get(quantum.index)
        if work is None or answer.get("attempt", 1) != work.get("attempt", 1):
            # a second answer for work that is settled: its worker was believed lost
            for output in answer.get("outputs", {}).values():
                self.repository.store.discard(output["token"])
            return
        if answer["status"] == LOST and work.get("attempt", 1) < self.options.attempts:
            work["attempt"] = work.get("attempt", 1) + 1
            self.emit(
                "quantum_lost", label=quantum.node.label, data_id=quantum.data_key, error=answer["error"]
            )
            del self._work[quantum.index]
            message = self._message(quantum)
            if message is not None:
                message["attempt"] = self._work[quantum.index]["attempt"] = work["attempt"]
                self._retries.append(message)
            return
        del self._work[quantum.index]
        if not self._finished:
            self._first_finished = time.monotonic()
        if answer["status"] == LOST:
            answer = {**answer, "status": FAILED}
        if answer["status"] == FAILED and self.options.fail_fast:
            self._stopped = True
        self._finished.append((quantum, work, answer))

    # ---- registering ---------------------------------------------------------------------------------------

    def _flush(self, state: str) -> None:
        """Register everything that is finished, in one transaction; on a conflict one by one."""
        group, self._finished = self._finished, []
        try:
            self._commit(group, state)
        except DatasetConflictError:
            for item in group:
                try:
                    self._commit([item], state)
                except DatasetConflictError as error:
                    quantum, work, answer = item
                    answer = {**answer, "status": FAILED, "outputs": {}, "error": describe_error(error)}
                    self._commit([(quantum, work, answer)], state)

    def _commit(self, group: list[tuple[Quantum, dict[str, Any], dict[str, Any]]], state: str) -> None:
        datasets, moves, quanta = [], [], []
        by_quantum: dict[int, dict[str, dict[str, Any]]] = {}
        for quantum, work, answer in group:
            rows = self._dataset_rows(quantum, work, answer)
            datasets += list(rows.values())
            moves += [(answer["outputs"][keyword]["token"], row["path"]) for keyword, row in rows.items()]
            quanta.append(self._quantum_row(quantum, work, answer, rows))
            by_quantum[quantum.index] = rows
        counts_after = [self._session_row(state)]
        payload = {
            "documents": self._documents,
            "quanta": quanta,
            "datasets": datasets,
            "sessions": counts_after,
        }
        self.repository.commit({name: part for name, part in payload.items() if part}, moves)
        self._documents = {}
        self._last_commit = time.monotonic()
        for index, rows in by_quantum.items():  # after the commit, which may have given other file names
            self._products[index] = {
                keyword: self.repository.ref_from_row(self._kinds[row["type"]], row)
                for keyword, row in rows.items()
            }
        for quantum, _, answer in group:
            self._report(quantum, answer)

    def _report(self, quantum: Quantum, answer: dict[str, Any]) -> None:
        self.summary.cpu_seconds += answer.get("cpu_seconds", 0.0)
        self.summary.max_rss = max(self.summary.max_rss, answer.get("max_rss", 0))
        self.emit(
            "quantum_finished",
            label=quantum.node.label,
            data_id=quantum.data_key,
            status=answer["status"],
            seconds=round(answer.get("seconds", 0.0), 6),
            cpu_seconds=round(answer.get("cpu_seconds", 0.0), 6),
            max_rss=answer.get("max_rss", 0),
            **({"error": answer["error"]} if answer["error"] else {}),
        )
        if answer["status"] == FAILED:
            self._add_error(quantum, answer["error"])
            self._settle(quantum, "failed")
        else:
            self._settle(quantum, "no_work" if answer["status"] == NO_WORK else "done")

    def _dataset_rows(
        self, quantum: Quantum, work: dict[str, Any], answer: dict[str, Any]
    ) -> dict[str, dict[str, Any]]:
        rows = {}
        for output in quantum.node.outputs:
            written = answer.get("outputs", {}).get(output.keyword)
            if written is None:
                continue
            kind = self._kinds[output.dataset]
            row = self.repository.dataset_row(
                kind, self.run_name, quantum.known, written["checksum"], written["size"], written["extension"]
            )
            rows[output.keyword] = row | {
                "quantum_id": self._identifier(quantum),
                "replace": bool(work["replace"] or self.options.replace),
                "corners": written.get("corners"),
            }
        return rows

    def _identifier(self, quantum: Quantum) -> str:
        return text_checksum(f"{self.run_name}\0{quantum.node.label}\0{quantum.data_key}")

    def _quantum_row(
        self, quantum: Quantum, work: dict[str, Any], answer: dict[str, Any], rows: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        inputs = [
            {"keyword": keyword, "id": ref.id, "type": ref.dataset_type, "checksum": ref.checksum}
            for keyword, refs in work["inputs"].items()
            for ref in refs
        ]
        outputs = [
            {"keyword": keyword, "id": row["id"], "type": row["type"], "checksum": row["checksum"]}
            for keyword, row in rows.items()
        ]
        return {
            "id": self._identifier(quantum),
            "run": self.run_name,
            "label": quantum.node.label,
            "task": quantum.node.task,
            "data_key": quantum.data_key,
            "content_key": work["content_key"],
            "status": answer["status"],
            "config": work["config"],
            "versions": self._versions_checksum,
            "inputs": json.dumps(inputs),
            "outputs": json.dumps(outputs),
            "shape": work["shape"],
            "attempts": work.get("attempt", 1),
            "finished": time.time(),
            "seconds": answer.get("seconds", 0.0),
            "cpu_seconds": answer.get("cpu_seconds", 0.0),
            "max_rss": answer.get("max_rss", 0),
            "error": json.dumps(answer["error"]) if answer["error"] else None,
        }

    def _session_row(self, state: str) -> dict[str, Any]:
        counts = {label: dict(states) for label, states in self.summary.counts.items()}
        for index in self._work if state == "running" else ():
            label = self.graph.quanta[index].node.label
            counts[label]["running"] = counts[label].get("running", 0) + 1
        return {
            "id": self.session,
            "run": self.run_name,
            "pipeline": self._pipeline_checksum,
            "state": state,
            "started": self._started,
            "updated": time.time(),
            "counts": counts,
        }

    def _record_failure(self, quantum: Quantum, error: dict[str, Any]) -> None:
        self._add_error(quantum, error)
        self._settle(quantum, "failed")

    def _add_error(self, quantum: Quantum, error: dict[str, Any]) -> None:
        self.summary.errors.append({"label": quantum.node.label, "data_id": quantum.data_key, **error})

    def _settle(self, quantum: Quantum, state: str) -> None:
        """Count a quantum as settled and release those that waited for it."""
        counts = self.summary.counts[quantum.node.label]
        counts[state] = counts.get(state, 0) + 1
        if state in {"cached", "blocked", "failed_earlier"}:
            self.emit("quantum_settled", label=quantum.node.label, data_id=quantum.data_key, status=state)
        for parent in quantum.parents:
            self._readers[parent] -= 1
            if self._readers[parent] == 0:
                self._products.pop(parent, None)  # nobody reads them any more
        if not self._children[quantum.index]:
            self._products.pop(quantum.index, None)
        for child in self._children[quantum.index]:
            self._waiting[child] -= 1
            if self._waiting[child] == 0:
                self._ready.appendleft(child)  # one frame to its end: its files are still in memory


def new_session_name() -> str:
    """Return a fresh session name: time and four random bytes."""
    return time.strftime("%Y%m%dT%H%M%S", time.gmtime()) + "-" + secrets.token_hex(4)


def _file(ref: StoredDataset) -> dict[str, Any]:
    return {
        "storage": ref.storage,
        "path": ref.path,
        "link": ref.link,
        "data_id": ref.data_id.to_dict(),
        "checksum": ref.checksum,
    }


def plan_error(graph: QuantumGraph) -> RepositoryError | None:
    """Return an error that explains an empty graph; None when there is something to do."""
    if len(graph):
        return None
    return RepositoryError("nothing to do:\n" + graph.explain())
