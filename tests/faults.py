"""Damage each file of a run and of a cache, fill the disk at each write: `make test-faults`, or with CASES=300.

A finished run of a tiny model, and one that was interrupted after its first epoch. Their files are cut, filled with
zeros, changed in some bits, removed, or replaced by a folder. The next command must end with the bytes of an
undisturbed run, or with one message that names the file, without hanging. Then a small disk is filled just before a
file is written: nothing that was there may be lost, the message names the file, and with more room the same command
ends in the bytes of an undisturbed one (needs root, for a tmpfs).
"""

import fnmatch
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
from functools import partial
from pathlib import Path
from unittest.mock import patch

import matplotlib
import nbformat
import pandas as pd
from checkout import ROOT
from limits import cases, limited

from cxrlt_nb import cli, files
from cxrlt_nb.cache import ImageCache, build_cache
from cxrlt_nb.datasets import read_cxrlt
from cxrlt_nb.evaluate import write_evaluation
from cxrlt_nb.models import write_pretrained
from cxrlt_nb.phantom.release import write_phantom
from cxrlt_nb.predict import mirror_predictions, open_model, run_table
from cxrlt_nb.runs import open_run, write_result

os.environ |= dict(IN_TEST='1', OMP_NUM_THREADS='1')
matplotlib.use('Agg')
warnings.simplefilter('ignore')

FILES = {
    'finished': 'record.json parameters.json metrics.json history.csv weights.safetensors operating_points.json '
    'predictions/test.parquet predictions/validation-mirror.parquet',
    'interrupted': 'parameters.json checkpoint.pt history.csv seconds.json',
    'cache': 'cache.json intact.json part-000001 part-000003',
}
WAYS = ('cut', 'zeroed', 'flipped', 'removed', 'folder', 'overwritten')
#: What a training writes, in this order.
WRITTEN = (
    'parameters.json seconds.json checkpoint.pt history.csv weights.safetensors validation.parquet development.parquet '
    'test.parquet targets.parquet metrics.json validation-mirror.parquet operating_points.json record.json'
).split()


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
        with limited(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
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
    return attempt(lambda: cxrlt('train', '--out', out, '--epochs', '2', '--threads', '1'))


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
        file.write_bytes(content[: rng.randrange(len(content))])
    elif how == 'zeroed':
        start = rng.choice([0, rng.randrange(len(content))])
        file.write_bytes(content[:start] + bytes(len(content) - start))
    elif how == 'overwritten':
        at, new = rng.randrange(len(content)), rng.randbytes(rng.randint(1, 40))
        file.write_bytes(content[:at] + new + content[at + len(new) * rng.randint(0, 1) :])
    elif how == 'flipped':
        changed = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 3])):
            changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(changed)
    elif how == 'folder':
        file.mkdir()


def attempt(act):
    "What an action raised, or None"
    try:
        with limited(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            act()
    except Exception as e:
        e.__traceback__ = None
        return e
    return None


def cxrlt(*arguments):
    "A command; `RuntimeError` with its standard error if it fails"
    said = io.StringIO()
    with redirect_stdout(io.StringIO()), redirect_stderr(said):
        code = cli.main([str(o) for o in arguments])
    if code:
        raise RuntimeError(said.getvalue())


def contents(folder):
    "Hash of each file below a folder that is the same in each run; lock files have none"
    hashes = {}
    for file in sorted(
        o for o in folder.rglob('*') if o.is_file() and o.name not in ('lock', 'ballast', 'intact.json')
    ):
        hashes[file.relative_to(folder).as_posix()] = hashlib.sha256(file.read_bytes()).hexdigest()
    return hashes


def clear_message(error, file):
    "What a failed command said, and whether that is one message that names the file"
    text = ' '.join(str(error).split())
    clear = isinstance(error, (OSError, RuntimeError, ValueError)) and file in text and 'Traceback' not in text
    return f'{"" if clear else "UNCLEAR: "}{type(error).__name__}: {text[:150]}', clear


def verdict(error, same, file):
    "How a command ended, and whether that is allowed"
    if error is None:
        return 'the same bytes' if same else 'OTHER BYTES', same
    return clear_message(error, file)


class Trial:
    "A state with a damaged file, and the command that comes next"

    def __init__(self, tmp, templates, expected):
        self.tmp, self.templates, self.expected, self.out = tmp, templates, expected, tmp / 'run'
        images = sorted((tmp / 'home/data').glob('phantom-*/files/**/*.jpg'))[:8]
        self.images = tmp / 'images.csv'
        table = pd.DataFrame(dict(image_id=[o.stem for o in images], path=[str(o) for o in images]))
        table.to_csv(self.images, index=False)
        self.df = table
        build_cache(table, templates['cache'], 32, part=3)
        self.whole = self.pixels(templates['cache'])
        cxrlt('predict', templates['finished'], self.images, tmp / 'p.csv', '--calibrate', 'validation')
        self.predicted = (tmp / 'p.csv').read_bytes()

    def pixels(self, folder):
        cache = ImageCache(folder)
        return cache.read(cache.rows(self.df.image_id)).tobytes()

    def prepare(self, state, name, how, rng):
        "Damage a file of a copy of a state; the file"
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.templates[state], self.out)
        file = next(self.out.glob(f'{name}*'))
        damage(file, how, rng)
        return file

    def trained(self):
        error = (command if (self.out / 'record.json').exists() else train)(self.out)
        return error, results(self.out) == self.expected

    def predict(self):
        error = attempt(
            lambda: cxrlt('predict', self.out, self.images, self.tmp / 'again.csv', '--calibrate', 'validation')
        )
        found = (self.tmp / 'again.csv').read_bytes() if error is None else None
        for name in ('again.csv', 'again.json'):
            (self.tmp / name).unlink(missing_ok=True)
        return error, found == self.predicted

    def cached(self):
        "A damaged cache: opening it, and building it again"
        seen = []
        refused = attempt(lambda: seen.append(self.pixels(self.out)))  # also if images are missing
        same = refused is not None or seen == [self.whole]
        error = attempt(lambda: build_cache(self.df, self.out, 32, part=3))
        return error, same and (error is not None or self.pixels(self.out) == self.whole)

    def run(self, state, name, how, rng):
        "One case: what happened, and whether that is allowed"
        file = self.prepare(state, name, how, rng)
        act, what = self.trained, 'train'
        if state == 'cache':
            act, what = self.cached, 'build'
        elif state == 'finished' and rng.random() < 0.3:
            act, what = self.predict, 'predict'
        error, same = act()
        said, good = verdict(error, same, file.name)
        return f'{state}, {name} {how}, {what}: {said}', good


def chosen(n, rng):
    "So many cases: each file damaged in each way, the long ones rarer; then more of them, at random"
    every = {s: [(s, o, how) for o in names.split() for how in WAYS] for s, names in FILES.items()}
    share = dict(finished=0.6, interrupted=0.2, cache=0.2)
    found = []
    for state, of in every.items():
        k = round(n * share[state])
        found += of if k >= len(of) else rng.sample(of, k)
        found += rng.choices(of, k=max(0, k - len(of)))
    return found


@contextmanager
def small_disk(place, megabytes=50):
    "A disk of some size"
    place.mkdir()
    size = f'size={int(megabytes * 1000)}k'
    subprocess.run(['mount', '-t', 'tmpfs', '-o', size, 'tmpfs', place], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(['umount', place], check=True)


@contextmanager
def full_before(place, pattern, leave=0):
    "Fill the disk just before a file with such a name is written; `leave` bytes stay free"
    real, reached = files._check_space, []

    def check(path, size, needs):
        if not reached and fnmatch.fnmatch(path.name, pattern):
            reached.append(path.name)
            fill(place / 'ballast', leave)
        return real(path, size, needs)

    with patch('cxrlt_nb.files._check_space', check):
        yield reached
    (place / 'ballast').unlink(missing_ok=True)


def fill(ballast, leave):
    "Fill the disk of a file, up to some bytes"
    size = shutil.disk_usage(ballast.parent).free - leave
    with open(ballast, 'wb') as out:
        os.posix_fallocate(out.fileno(), 0, size)


def moments(points, whole):
    "Each file: its name, the names that are written together with it, and the bytes that those before it need"
    for group in points:
        leave, names = 0, group.split('+')
        for name in names:
            if cases(0) or name == names[-1]:  # without CASES, only the last file of several is tried
                yield name, names, leave
            leave += -(-(whole / name).stat().st_size // 4096) * 4096 if len(names) > 1 else 0


def full_disks(place, title, act, points, whole):
    "Run an action with a disk that is full before one file, then before the next, and at last with room"
    for name, together, leave in moments(points, whole):
        before = contents(place)
        with full_before(place, together[0], leave) as reached:
            error = attempt(act)
        said, good = clear_message(error, 'the disk is full: ')
        good &= bool(reached) and any(o in said for o in (*together, *reached))
        after = contents(place)
        lost = [o for o in before if o not in after] + [o for o in after if o.endswith('.tmp')]
        yield f'{title}, full before {name}: {said}{f"; LOST {lost}" if lost else ""}', good and not lost
    error = attempt(act)
    found, expected = contents(place), contents(whole) if whole else {}
    other = [o for o, digest in expected.items() if found.get(o) != digest]
    yield f'{title} with more room: {error or "the same bytes"} {other or ""}', error is None and not other


def raises(function, *arguments):
    "An action of a function that returns what it raised"

    def act():
        if error := function(*arguments):
            raise error

    return act


class Writers:
    "Commands that write files: name → files in their order; each is called with a folder"

    def __init__(self, tmp, trial, root):
        self.run, self.images, self.root = trial.templates['finished'], trial.images, root
        self.other = tmp / 'other-run'
        shutil.copytree(self.run, self.other)
        self.test = root / 'test.csv'
        self.predictions = tmp / 'test.parquet'
        shutil.copy(self.run / 'predictions/test.parquet', self.predictions)
        ids = pd.read_parquet(self.predictions).index
        self.sample = tmp / 'sample.csv'
        pd.DataFrame(dict(dicom_id=ids)).to_csv(self.sample, index=False)
        self.labels = tmp / 'labels.csv'
        read_cxrlt(root).df.set_index('image_id').loc[ids].drop(columns='path').to_csv(self.labels)
        self.shift = tmp / 'shifted.csv'
        self.few, few = tmp / 'few.csv', pd.read_parquet(self.predictions)
        few = few[['Cardiomegaly', 'Support Devices']]
        few.to_csv(self.few)
        (few**2).to_csv(self.shift)
        self.points, points = tmp / 'points.json', files.read_json(self.run / 'operating_points.json')
        for of in [*points['tta'].values(), *points['single'].values()]:  # too few images to learn one
            of['rules'] = dict(f1=dict(threshold=0.5))
        files.write_json(self.points, points)

    def cache(self, o):
        build_cache(read_cxrlt(self.root).df[:20], o / 'cache', 32, part=9)

    def predict(self, o):
        cxrlt('predict', self.run, self.images, o / 'p.parquet', '--thresholds', self.points, '--page', o / 'p.html')

    def evaluate(self, o):
        write_evaluation(self.few, self.labels, o, by=['view'], against=self.shift, n=20)

    def thresholds(self, o):
        cxrlt('thresholds', self.run, o / 'points.json', '--rules', 'f1')

    def compare(self, o):
        cxrlt('compare', self.run, self.other, '--n', '20', '--out', o)

    def submit(self, o):
        cxrlt('submit', self.predictions, self.sample, o / 's.zip')

    def result(self, o):
        write_result(o / 'table.csv', pd.DataFrame(dict(a=[1.0])), [open_run(self.run)])

    def weights(self, o):
        write_pretrained('tf_efficientnet_lite0', o / 'lite0.safetensors')

    def phantom(self, o):
        write_phantom(o / 'phantom', workers=1, train=8, development=2, test=4, size=32)

    def mirrors(self, o):
        if not (o / 'run').exists():
            shutil.copytree(self.run, o / 'run')
        run = open_model(o / 'run')
        mirror_predictions(run, run_table(run))


#: Writer → names of the files it writes, in this order.
POINTS = dict(
    cache='cache.json part-* intact.json',
    predict='p.parquet+p.decisions.parquet+p.json p.html',
    evaluate='evaluation.json+metrics.csv+groups.csv+comparison.csv+reliability.csv',
    thresholds='points.json',
    compare='comparison.csv',
    submit='s.zip',
    result='table.csv',
    weights='lite0.safetensors',
    phantom='*.jpg train.csv phantom.json',
    mirrors='development-mirror.parquet test-mirror.parquet record.json',
)


def disks(tmp, trial, expected):
    "Each writer, and a training, on a disk that is full before each of their files"
    writers = Writers(tmp, trial, next((tmp / 'home/data').glob('phantom-*')))
    for name, points in POINTS.items():
        if name == 'compare' and not cases(0):
            continue
        act, whole = getattr(writers, name), tmp / f'whole-{name}'
        whole.mkdir()
        act(whole)
        if name == 'predict':
            act(whole)  # now all is imported, which its record says
        with small_disk(tmp / f'disk-{name}') as place:
            yield from full_disks(place, name, partial(act, place), points.split(), whole)
    with small_disk(tmp / 'disk-training') as place:
        out = place / 'run'
        yield from full_disks(place, 'train', raises(train, out), WRITTEN if cases(0) else WRITTEN[2::2], None)
        yield f'train: {len(expected)} results', results(out) == expected


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
        shutil.rmtree(out)
        assert train(out) is None
        shutil.copytree(out, templates['finished'])
        expected, trial = results(out), Trial(tmp, templates, results(out))
        before = {o for o in tmp.rglob('*') if not o.is_relative_to(out) and not o.is_relative_to(tmp / 'home')}

        def every():
            for case in chosen(cases(20), rng):
                yield trial.run(*case, rng)
            after = {o for o in tmp.rglob('*') if not o.is_relative_to(out) and not o.is_relative_to(tmp / 'home')}
            yield f'outside of the folders: {sorted(after ^ before) or "as before"}', after == before
            try:
                with small_disk(tmp / 'try', 1):
                    pass
            except (OSError, subprocess.CalledProcessError):
                print('no tmpfs can be mounted here, so no disk is filled')
                return
            yield from disks(tmp, trial, expected)

        for text, good in every():
            print(
                f'{time.perf_counter() - begin:4.0f} s  ' + ('' if good else 'FAILED  ') + text.replace(str(tmp), ''),
                flush=True,
            )
            outcomes.append(good)
    print(f'{sum(outcomes)} passed, {len(outcomes) - sum(outcomes)} failed')
    return not all(outcomes)


if __name__ == '__main__':
    sys.exit(main())
