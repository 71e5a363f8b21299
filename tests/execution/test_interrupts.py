"""A run that is asked to end registers what is finished, whoever asks."""

from __future__ import annotations

import os
import signal

import pytest

from starmill.execution.interrupts import noticed_interrupts, terminated_like_interrupted
from starmill.execution.session import run_pipeline
from starmill.execution.status import sessions
from starmill.repository import Repository
from starmill.repository.verify import verify


def test_sigterm_ends_a_run_like_an_interrupt(make_numbers, request_for):
    root = make_numbers(60)
    seen = []

    def end(event):
        seen.append(event)
        if len(seen) == 40:
            os.kill(os.getpid(), signal.SIGTERM)

    with terminated_like_interrupted(), pytest.raises(KeyboardInterrupt):
        run_pipeline(request_for(root), sinks=[end])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with Repository(root) as repository:
        assert verify(repository).is_clean
        assert sessions(repository)[0]["state"] == "interrupted"
    summary = run_pipeline(request_for(root))
    assert summary.exit_code == 0
    assert summary.total("cached") > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_becomes_another_error_is_noticed(number):
    with terminated_like_interrupted(), noticed_interrupts() as interrupts:
        with pytest.raises(SystemError):
            _compiled_code(number)
        assert interrupts == [number]


def _compiled_code(number):
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt as error:
        raise SystemError("returned a result with an exception set") from error
