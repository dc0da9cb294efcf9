"""The study's graph for real, at a tiny preset: `python tests/study.py`. Killed five times with everything it has started, it ends in the table of an undisturbed one;
nothing finished is done again; a training that fails stops its table only; two pretended GPUs are shared out one each. Some five minutes on two cores."""

import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

from graph import devices, said, start

from cxrlt_nb.runs import read_result

TINY, KILLS = 'images=300 held_out=150 epochs=12 size=32 threads=1', 5


def study(home, *more, jobs=2, asked='bce', **config):
    return start(home, 'local', '--cores', jobs, *more, asked=asked, set=TINY, **config)


def finish(home, *more, fails=False, **config):
    return said(study(home, *more, **config), home, fails)


def members(session):
    "Processes of a session, kernels included, which are sessions of their own but know their parent"
    stat = {}
    for o in Path('/proc').glob('[0-9]*/stat'):
        try:
            name = o.read_text().rsplit(')', 1)[1].split()
            stat[int(o.parent.name)] = int(name[1]), int(name[3])
        except OSError:
            pass
    found = {k for k, (_, s) in stat.items() if s == session}
    while more := {k for k, (parent, _) in stat.items() if parent in found} - found:
        found |= more
    return found


def kill(p):
    "Everything that `p` has started, at once"
    for o in members(p.pid):
        try:
            os.kill(o, signal.SIGKILL)
        except ProcessLookupError:
            pass
    p.wait()


def records(home):
    return {o.parent.name: o.stat().st_mtime_ns for o in (home / 'runs/extended').glob('*/record.json')}


def history(home):
    return {
        o.parent.name: [line.rsplit(',', 1)[0] for line in o.read_text().splitlines()]
        for o in (home / 'runs/extended').glob('*/history.csv')
    }  # without images/s


def numbers(home):
    return read_result(home / 'results/extended_bce.csv')[0].drop(columns='images_per_s')


def undisturbed(home):
    start = time.time()
    finish(home)
    usual, before = time.time() - start, records(home)
    assert 'Nothing to be done' in finish(home) and records(home) == before
    done = finish(home, '--dry-run', asked='loss')
    assert len(re.findall(r'^Job \d+: train ', done, re.M)) == 9 and 'train bce' not in done, (
        done
    )  # asl and two of focal; the others are there
    again = finish(home, '--dry-run', '--forceall')
    assert len(re.findall(r'train \S+ \(0 min \d+ s last time\)', again)) == 6, again
    return usual


def killed(home, usual, rng):
    for k in range(KILLS):
        p, after, before = study(home), rng.uniform(0.12, 0.3) * usual, records(home)
        time.sleep(after)
        done = p.poll() is not None
        kill(p)
        left = sum((o / 'checkpoint.pt').exists() for o in (home / 'runs/extended').glob('*'))
        print(
            f'kill {k + 1}: after {after:.0f} s{" (finished)" if done else ""}, {len(records(home))} of 6 trainings finished, {left} half-way',
            flush=True,
        )
        assert all(records(home)[o] == t for o, t in before.items()), 'a finished training was done again'
        if done:
            return
    finish(home)


def fails(home, copy):
    "One training's folder holds another run: its notebook refuses it"
    shutil.copytree(copy, home, symlinks=True)
    one = next(home.glob('runs/extended/bce-seed1-*'))
    (one / 'record.json').unlink()
    shutil.rmtree(next(home.glob('runs/extended/bce-seed2-*')))
    ident = json.loads((one / 'parameters.json').read_text())
    ident['parameters']['lr'] = 7.0
    (one / 'parameters.json').write_text(json.dumps(ident))
    shutil.rmtree(home / 'results')
    out = finish(home, jobs=1, fails=True)
    message = next((o for o in out.splitlines() if '05_train.ipynb failed in code cell' in o), out)
    print(message)
    assert one.name in message and 'holds another run: lr is 7.0 there' in message
    assert next(home.glob('runs/extended/bce-seed2-*/record.json')) and not (home / 'results').exists(), (
        'the rest was to go on, the table not to be made'
    )


def shared(home):
    "Two pretended GPUs, three jobs at once: what each training's process was given"
    p, looks = study(home, jobs=3, devices='0,1'), []
    while p.poll() is None:
        looks.append(devices(members(p.pid)))
        time.sleep(0.2)
    said(p, home)
    assert all(sorted(o) in ([], ['0'], ['1'], ['0', '1']) for o in looks) and {k for o in looks for k in o} == {
        '0',
        '1',
    }, looks


def main():
    with tempfile.TemporaryDirectory() as tmp:
        a, b, c, d = (Path(tmp) / o for o in 'abcd')
        usual = undisturbed(a)
        print(f'undisturbed: {usual:.0f} s', flush=True)
        for o in (b, d):
            shutil.copytree(a / 'data', o / 'data')  # the same phantom and cache
        killed(b, usual, random.Random(0))
        assert numbers(b).equals(numbers(a)) and history(b) == history(a), 'another table after the kills'
        print('the same table and histories after the kills', flush=True)
        fails(c, a)
        shared(d)
        assert numbers(d).equals(numbers(a))
        print('two devices, one training each')
    print('4 passed, 0 failed')


if __name__ == '__main__':
    main()
