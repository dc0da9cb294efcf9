"How many cases a generated test tries, and how long each may take."

import os
import signal
from contextlib import contextmanager

BUSY, WAITING = 30, 300  # seconds of computing, and of all: a busy machine is no fault of the program


def cases(usual):
    "How many cases to try: `make test-faults CASES=300`, else the usual number"
    return int(os.environ.get('CASES') or usual)


@contextmanager
def limited():
    "An error if the body takes too long"

    def end(*_):
        raise AssertionError(f'HANGS: not ended after {BUSY} s of computing, or {WAITING} s')

    before = {o: signal.signal(o, end) for o in (signal.SIGALRM, signal.SIGPROF)}
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    signal.setitimer(signal.ITIMER_PROF, BUSY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
