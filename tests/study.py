"""A real study at a small preset: `python tests/study.py`, about four minutes on two cores.

Interrupted five times together with everything it has started, it ends in the same table as an undisturbed one, and
repeats nothing that is finished. A training that fails stops only its own table. The undisturbed one has two pretended
GPUs, which get one training each.
"""

import json
import os
import random
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

import pandas as pd
from graph import devices, start, wait

from cxrlt_nb.runs import read_result

SMALL, INTERRUPTIONS = 'images=300 held_out=150 epochs=12 size=32 threads=1', 5
TABLE = 'runs/extended/extended_bce.csv'


def study(home, *options, jobs=2, group='bce', **config):
    return start(home, 'local', '--cores', jobs, *options, group=group, set=SMALL, **config)


def finish(home, *options, fails=False, **config):
    return wait(study(home, *options, **config), home, fails)


def processes():
    "Parent and session of every process"
    found = {}
    for file in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = file.read_text().rsplit(')', 1)[1].split()
        except OSError:
            continue  # it has ended
        found[int(file.parent.name)] = int(fields[1]), int(fields[3])
    return found


def members(session):
    "Processes of a session and their children; kernels have sessions of their own"
    every = processes()
    found = {pid for pid, (_, its_session) in every.items() if its_session == session}
    while True:
        children = {pid for pid, (parent, _) in every.items() if parent in found} - found
        if not children:
            return found
        found |= children


def interrupt(process):
    "Kill everything that a process has started, at once"
    for pid in members(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def records(home):
    "When each finished training wrote its record"
    return {file.parent.name: file.stat().st_mtime_ns for file in (home / 'runs/extended').glob('*/record.json')}


def histories(home):
    "The history of each training without its speed"
    files = (home / 'runs/extended').glob('*/history.csv')
    return {file.parent.name: pd.read_csv(file).drop(columns='images_per_s').to_csv() for file in files}


def numbers(home):
    return read_result(home / TABLE)[0].drop(columns='images_per_s')


def check_undisturbed(home):
    "Run it on two pretended GPUs, run it again, and list what more would be done; seconds of the first run"
    begin = time.time()
    check_devices(home)
    seconds, before = time.time() - begin, records(home)
    assert 'Nothing to be done' in finish(home) and records(home) == before
    more = finish(home, '--dry-run', group='loss', forecast='2')
    assert 'with 2 at once' in more, more
    trainings = re.findall(r'^Job \d+: train ', more, re.M)
    assert len(trainings) == 9 and 'train bce' not in more, more  # asl and two of focal, three seeds each
    again = finish(home, '--dry-run', '--forceall')
    assert len(re.findall(r'train \S+ \(0 min \d+ s last time\)', again)) == 6, again
    return seconds


def check_interrupted(home, seconds, rng):
    "Interrupt it several times at random; no finished training is repeated"
    for k in range(INTERRUPTIONS):
        before, process = records(home), study(home)
        after = rng.uniform(0.12, 0.3) * seconds
        time.sleep(after)
        done = process.poll() is not None
        interrupt(process)
        half = sum((folder / 'checkpoint.pt').exists() for folder in (home / 'runs/extended').glob('*'))
        now = records(home)
        print(
            f'interrupted after {after:.0f} s ({k + 1}): {len(now)} of 6 trainings finished, {half} begun', flush=True
        )
        assert all(now[name] == t for name, t in before.items()), 'a finished training was repeated'
        if done:
            return
    finish(home)


def check_failure(home, copy):
    "If the folder of one training contains another run, its notebook refuses; the others go on"
    shutil.copytree(copy, home, symlinks=True)
    one = next(home.glob('runs/extended/bce-seed1-*'))
    (one / 'record.json').unlink()
    shutil.rmtree(next(home.glob('runs/extended/bce-seed2-*')))
    identity = json.loads((one / 'parameters.json').read_text())
    identity['parameters']['lr'] = 7.0
    (one / 'parameters.json').write_text(json.dumps(identity))
    (home / TABLE).unlink()
    log = finish(home, jobs=1, fails=True)
    message = next((line for line in log.splitlines() if '05_train.ipynb failed in code cell' in line), log)
    print(message)
    assert one.name in message and 'lr is 7.0 there' in message
    assert next(home.glob('runs/extended/bce-seed2-*/record.json')), 'the other training must go on'
    assert not (home / TABLE).exists(), 'the table must wait'


def check_devices(home):
    "Two pretended GPUs and three jobs at once: no GPU is shared"
    process, looks = study(home, jobs=3, devices='0,1'), []
    while process.poll() is None:
        looks.append(devices(members(process.pid)))
        time.sleep(0.2)
    wait(process, home)
    assert all(sorted(look) in ([], ['0'], ['1'], ['0', '1']) for look in looks), looks
    assert {device for look in looks for device in look} == {'0', '1'}, looks


def main():
    with tempfile.TemporaryDirectory() as tmp:
        a, b, c = (Path(tmp) / name for name in 'abc')
        seconds = check_undisturbed(a)
        print(f'undisturbed, one training on each of two devices: {seconds:.0f} s', flush=True)
        shutil.copytree(a / 'data', b / 'data')  # the same phantom and cache
        check_interrupted(b, seconds, random.Random(0))
        assert numbers(b).equals(numbers(a)), 'another table after the interruptions'
        assert histories(b) == histories(a), 'other histories after the interruptions'
        print('the same table and histories after the interruptions', flush=True)
        check_failure(c, a)
    print('4 passed, 0 failed')


if __name__ == '__main__':
    main()
