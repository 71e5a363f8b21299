"""Pipelines: which tasks run on which data, and the graph of all their single runs."""

from starmill.pipelines.definition import (
    Pipeline,
    TaskNode,
    load_pipeline,
    parse_pipeline,
    standard_pipelines,
)
from starmill.pipelines.graph import QuantumGraph, build_graph

__all__ = [
    "Pipeline",
    "QuantumGraph",
    "TaskNode",
    "build_graph",
    "load_pipeline",
    "parse_pipeline",
    "standard_pipelines",
]
