"""Damage each file of a run, fill the disk, and start the next command: `make test-faults`.

Two runs of a tiny model are prepared: a finished one, and one that was interrupted after its first epoch. Each file is
cut in half, filled with zeros, changed in one bit, removed, or replaced by a folder. The next command must end with the
bytes of an undisturbed run, or with one message that names the file. The same holds on disks of several sizes that are
too small: after there is more room, the run must be completed with the same bytes (needs root, for a tmpfs).
"""

import gc
import hashlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import matplotlib
import nbformat
from checkout import ROOT

from cxrlt_nb import cli

os.environ |= dict(IN_TEST='1', OMP_NUM_THREADS='1')
matplotlib.use('Agg')
warnings.simplefilter('ignore')

FILES = {
    'finished': 'record.json parameters.json metrics.json history.csv weights.safetensors predictions/test.parquet',
    'interrupted': 'parameters.json checkpoint.pt history.csv seconds.json',
}
# MB for a new run, where the first checkpoint does not fit, or the second; MB more than a run that has only been
# trained, where the weights do not fit, or the predictions
DISKS = [('new', 1.0), ('new', 2.0), ('trained', 0.2), ('trained', 0.48)]


class Interrupted(Exception):
    pass


def cells():
    "The code of the training notebook: up to the parameters, and the rest"
    code = [o for o in nbformat.read(ROOT / 'nbs/05_train.ipynb', 4).cells if o.cell_type == 'code']
    at = next(k for k, o in enumerate(code) if 'parameters' in o.metadata.get('tags', [])) + 1
    return ['\n'.join(o.source for o in part) for part in (code[:at], code[at:])]


def train(out):
    "Run the training notebook's code in this process; what it raised, or None"
    names, (head, rest) = {'__name__': '__main__'}, cells()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            exec(compile(head, 'head', 'exec'), names)
            names |= dict(out=str(out), epochs=2, threads=1)
            exec(compile(rest, '05_train', 'exec'), names)
    except Exception as e:
        error = e
        error.__traceback__ = None
    else:
        error = None
    if 'run' in names:
        names['run'].lock.release()
    names.clear()
    matplotlib.pyplot.close('all')
    gc.collect()
    return error


def command(out):
    "`cxrlt train` for a folder that looks finished; what it said if it failed, or None"
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        code = cli.main(['train', '--out', str(out), '--epochs', '2', '--threads', '1'])
    return RuntimeError(said.getvalue()) if code else None


def results(out):
    "A hash of each result of a run"
    files = [*sorted((out / 'predictions').glob('*.parquet')), out / 'metrics.json']
    hashes = {o.name: hashlib.sha256(o.read_bytes()).hexdigest() for o in files if o.is_file()}
    return hashes | dict(finished=(out / 'record.json').is_file())


def damage(file, how, rng):
    "Damage a file"
    content = file.read_bytes()
    file.unlink()
    if how == 'cut':
        file.write_bytes(content[: len(content) // 2])
    elif how == 'zeroed':
        file.write_bytes(bytes(len(content)))
    elif how == 'flipped':
        changed = bytearray(content)
        changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
    elif how == 'folder':
        file.mkdir()


def verdict(error, out, expected, file):
    "How a command ended, and whether that is allowed"
    if error is None:
        same = results(out) == expected
        return 'the same bytes' if same else 'OTHER BYTES', same
    text = ' '.join(str(error).split())
    clear = isinstance(error, (OSError, RuntimeError, ValueError)) and file in text and 'Traceback' not in text
    return f'{"" if clear else "UNCLEAR: "}{type(error).__name__}: {text[:150]}', clear


def damaged_runs(tmp, templates, expected, rng):
    "Each file of each state, damaged in each way"
    out = tmp / 'run'
    for state, names in FILES.items():
        for name in names.split():
            for how in ('cut', 'zeroed', 'flipped', 'removed', 'folder'):
                shutil.rmtree(out)
                shutil.copytree(templates[state], out)
                damage(out / name, how, rng)
                looks_finished = (out / 'record.json').exists()
                error = (command if looks_finished else train)(out)
                said, good = verdict(error, out, expected, Path(name).name)
                yield f'{state}, {name} {how}: {said}', good


@contextmanager
def small_disk(place, megabytes):
    "A disk of some size"
    place.mkdir()
    size = f'size={int(megabytes * 1000)}k'
    subprocess.run(['mount', '-t', 'tmpfs', '-o', size, 'tmpfs', place], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(['umount', place], check=True)


def full_disks(tmp, templates, expected):
    "Runs on disks that are too small, and again after they have grown"
    for state, megabytes in DISKS:
        place, template = tmp / f'{state}{megabytes}', templates.get(state)
        used = sum(o.stat().st_size for o in template.rglob('*')) / 1e6 if template else 0
        with small_disk(place, used + megabytes):
            if template:
                shutil.copytree(template, place / 'run')
            said, good = verdict(train(place / 'run'), place / 'run', expected, 'disk is full')
            subprocess.run(['mount', '-o', 'remount,size=50m', place], check=True)
            again, healed = verdict(train(place / 'run'), place / 'run', expected, '-')
        yield f'{state} run, disk with {megabytes} MB: {said}; with more room: {again}', good and healed


def main():
    rng, outcomes, begin = random.Random(0), [], time.perf_counter()
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        os.environ['CXRLT_HOME'] = str(tmp / 'home')
        out, templates = tmp / 'run', {o: tmp / o for o in FILES}
        with patch('cxrlt_nb.learner._history_line', side_effect=Interrupted('after the first epoch')):
            error = train(out)
            assert isinstance(error, Interrupted), repr(error)
        shutil.copytree(out, templates['interrupted'])
        with patch('cxrlt_nb.learner._history_line', side_effect=['', Interrupted('after the last epoch')]):
            shutil.rmtree(out)
            assert isinstance(train(out), Interrupted)
        templates['trained'] = shutil.copytree(out, tmp / 'trained')
        shutil.rmtree(out)
        assert train(out) is None
        shutil.copytree(out, templates['finished'])
        expected = results(out)
        cases = [damaged_runs(tmp, templates, expected, rng)]
        try:
            with small_disk(tmp / 'try', 1):
                cases.append(full_disks(tmp, templates, expected))
        except (OSError, subprocess.CalledProcessError):
            print('no tmpfs can be mounted here, so no disk is filled')
        for text, good in (o for case in cases for o in case):
            print(
                f'{time.perf_counter() - begin:4.0f} s  ' + ('' if good else 'FAILED  ') + text.replace(str(tmp), ''),
                flush=True,
            )
            outcomes.append(good)
    print(f'{sum(outcomes)} passed, {len(outcomes) - sum(outcomes)} failed')
    return not all(outcomes)


if __name__ == '__main__':
    sys.exit(main())
