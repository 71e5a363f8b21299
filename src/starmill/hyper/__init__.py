"""Compact-source photometry with the configuration files and tables of hyper-py."""

from starmill.hyper.session import run_hyper, start_hyper

__all__ = ["run_hyper", "start_hyper"]
