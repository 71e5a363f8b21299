"""From a request to a finished run: opens the repository, plans, starts the executor, runs, ends everything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starmill.execution.events import EventSink, EventWriter, events_path
from starmill.execution.executor import Executor
from starmill.execution.local import InProcessExecutor
from starmill.execution.pool import PoolExecutor, WorkerSettings
from starmill.execution.runner import Runner, RunOptions, new_session_name
from starmill.execution.source import RepositorySource
from starmill.execution.summary import RunSummary
from starmill.pipelines.definition import Pipeline
from starmill.pipelines.graph import QuantumGraph, build_graph
from starmill.repository.repository import Repository


@dataclass(frozen=True)
class PipelineRequest:
    """What a user asks for.

    Attributes
    ----------
    repository : str
        Folder or URL.
    pipeline : Pipeline
        Configured.
    inputs : tuple of str
        Collections to read; all when empty.
    output : str
        Run to write.
    where : str
        Data query.
    workers, threads : int
        Processes; threads of each. One process means: the process of the caller.
    dask : str
        Address of a scheduler, file of a cluster, or ``local``; empty for none.
    timeout : float or None
        Longest time of one quantum, second.
    memory : int or None
        Limit of all workers together, byte.
    modules : tuple of str
        Python modules with further tasks.
    paths : tuple of str
        Where workers look for them besides the usual places.
    fail_fast, retry_failed, replace, force : bool
        As in `RunOptions`.
    """

    repository: str
    pipeline: Pipeline
    inputs: tuple[str, ...] = ()
    output: str = ""
    where: str = ""
    workers: int = 1
    threads: int = 1
    dask: str = ""
    timeout: float | None = None
    memory: int | None = None
    modules: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    fail_fast: bool = False
    retry_failed: bool = False
    replace: bool = False
    force: bool = False


@dataclass(frozen=True)
class Plan:
    """An open repository and the graph of a request."""

    request: PipelineRequest
    repository: Repository
    graph: QuantumGraph


@contextmanager
def plan(request: PipelineRequest) -> Iterator[Plan]:
    """Open the repository of a request and plan it; the repository is closed at the end of the block."""
    output = request.output or request.pipeline.name
    with Repository(request.repository, inputs=list(request.inputs) or None, output=output) as repository:
        graph = build_graph(request.pipeline, RepositorySource(repository, request.pipeline), request.where)
        yield Plan(request, repository, graph)


def run_plan(prepared: Plan, *, sinks: Sequence[EventSink] = ()) -> RunSummary:
    """Run a plan and return the summary; events go to `sinks` and to a file in the repository."""
    request = prepared.request
    session = new_session_name()
    record = EventWriter(events_path(prepared.repository.root, session))
    options = RunOptions(
        fail_fast=request.fail_fast,
        retry_failed=request.retry_failed,
        replace=request.replace,
        force=request.force,
    )
    executor = make_executor(request, len(prepared.graph))
    try:
        runner = Runner(
            prepared.repository,
            prepared.graph,
            executor,
            request.output or request.pipeline.name,
            options=options,
            sinks=[*sinks, record],
            session=session,
        )
        return runner.run()
    finally:
        executor.close()
        record.close()


def run_pipeline(request: PipelineRequest, *, sinks: Sequence[EventSink] = ()) -> RunSummary:
    """Plan and run a request in one call.

    Parameters
    ----------
    request : PipelineRequest
        What to do.
    sinks : sequence of callable
        Take events.

    Returns
    -------
    summary : RunSummary
        Counts, errors and cost.
    """
    with plan(request) as prepared:
        return run_plan(prepared, sinks=sinks)


def make_executor(request: PipelineRequest, n_quanta: int) -> Executor:
    """Start the executor that a request asks for."""
    from starmill.pipelines.task_names import import_task_modules

    workers = max(1, min(request.workers, n_quanta))
    settings: dict[str, Any] = {
        "modules": request.modules,
        "paths": request.paths,
        "memory": None if request.memory is None else request.memory // workers,
        "timeout": request.timeout,
        "threads": request.threads,
    }
    if request.dask:
        from starmill.execution.distributed import DaskExecutor

        return DaskExecutor(request.dask, WorkerSettings(**settings), workers=request.workers)
    if request.workers > 1 or request.timeout or request.memory:
        return PoolExecutor(workers, WorkerSettings(**settings))
    import_task_modules(request.modules)
    return InProcessExecutor()
