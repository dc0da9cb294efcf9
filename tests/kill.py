"""kill -9 at twelve random moments: five while a cache is built, five within a second of the end of an epoch of training, two in a training by two processes.

Each is then started again, and must end with what an uninterrupted one has: the same images to the byte, the same history, metrics and predictions.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from checkout import ROOT

from cxrlt_nb.cache import ImageCache

BIN, KILLS, EPOCHS = Path(sys.executable).parent, 5, 8
ARGS = ['-p', 'size', '48', '-p', 'images', '600', '-p', 'held_out', '150', '-p', 'epochs', str(EPOCHS)]
CACHE = """
import sys
from cxrlt_nb.cache import build_cache
from cxrlt_nb.datasets import read_cxrlt
df = read_cxrlt(sys.argv[1]).df
print('begin', flush=True)
build_cache(df, sys.argv[2], 320, part=8)
"""


def kill(p):
    "kill -9 the session of `p`, and the kernels that it leaves behind"
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            orphan, command = (
                stat.read_text().rsplit(')', 1)[1].split()[1] == '1',
                (stat.parent / 'cmdline').read_text(),
            )
        except OSError:
            continue
        if orphan and 'ipykernel_launcher' in command and str(BIN) in command:
            os.kill(int(stat.parent.name), signal.SIGKILL)


def caching(root, folder):
    "A process that has begun to build a cache"
    p = subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', CACHE, root, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert p.stdout.readline() == 'begin\n'
    return p


def images(folder):
    "Every image id of a cache and a hash of its JPEG"
    c = ImageCache(folder)
    jpeg = lambda part, row: c.parts[part][1][c.parts[part][0][row] : c.parts[part][0][row + 1]]
    return {i: hashlib.sha256(jpeg(m.part, m.row)).hexdigest() for i, m in c.meta.iterrows()}


def read(file):
    try:
        return file.read_text()
    except OSError:
        return ''


def started(home):
    "Processes that share a training"
    return [
        o
        for o in Path('/proc').glob('[0-9]*')
        if 'spawn_main' in read(o / 'cmdline') and f'CXRLT_HOME={home}' in read(o / 'environ')
    ]


def training(home, out, *more):
    "A process that trains"
    env = dict(os.environ, CXRLT_HOME=str(home), IN_TEST='1', JUPYTER_PREFER_ENV_PATH='1')
    return subprocess.Popen(
        [BIN / 'papermill', ROOT / 'nbs/05_train.ipynb', home / 'x.ipynb', *ARGS, *more, '-p', 'out', str(out)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def epochs(out):
    "Finished epochs of a run"
    return len(pd.read_csv(out / 'history.csv')) if (out / 'history.csv').exists() else 0


def finish(home, out, *more):
    "Run to the end; its numbers"
    p = training(home, out, *more)
    err = p.communicate()[1]
    assert p.returncode == 0, err[-3000:]
    history = pd.read_csv(out / 'history.csv').drop(columns='images_per_s')
    return (
        history.to_json(double_precision=15),
        (out / 'metrics.json').read_text(),
        pd.read_parquet(out / 'predictions/test.parquet').to_json(double_precision=15),
    )


def kill_caches(tmp, root, rng):
    p = caching(root, tmp / 'whole')
    begin = time.time()
    p.wait()
    usual = time.time() - begin
    whole = images(tmp / 'whole')
    for k in range(KILLS):
        folder, after = tmp / f'cache{k}', rng.uniform(0.05, 0.6) * usual
        p = caching(root, folder)
        time.sleep(after)
        kill(p)
        there = len(ImageCache(folder)) if (folder / 'cache.json').exists() else 0
        assert caching(root, folder).wait() == 0
        yield (
            f'cache {k + 1}: killed after {after:.1f} of {usual:.1f} s with {there} of {len(whole)} images; resumed',
            images(folder) == whole,
        )


def kill_trainings(tmp, home, rng, kills, *more):
    name = ' '.join(['training', *more[1:]])
    whole = finish(home, tmp / f'{name} whole', *more)
    for k in range(kills):
        shutil.rmtree(home / 'data/cache')
        out, after = tmp / f'{name} {k}', rng.uniform(0, 1)
        p = training(home, out, *more)
        while epochs(out) < k + 1 and p.poll() is None:
            time.sleep(0.01)
        time.sleep(after)
        shared = len(started(home))
        kill(p)
        assert not (out / 'record.json').exists(), 'a killed run looks finished'
        assert bool(shared) == bool(more), f'{shared} processes share the training'
        killed = time.time()
        while started(home):
            assert time.time() - killed < 10, 'processes that shared the training have outlived it'
        yield (
            f'{name} {k + 1}: killed {after:.2f} s after epoch {k + 1}, with {epochs(out)} of {EPOCHS} epochs; resumed',
            finish(home, out, *more) == whole,
        )


def main():
    rng, failed, passed = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as tmp:
        tmp, home = Path(tmp), Path(tmp) / 'home'
        home.mkdir()
        finish(home, tmp / 'first')  # draws the phantom, warms the caches of compiled code
        root = next((home / 'data').glob('phantom-*'))
        for moments in (
            kill_caches(tmp, root, rng),
            kill_trainings(tmp, home, rng, KILLS),
            kill_trainings(tmp, home, rng, 2, '-p', 'processes', '2'),
        ):
            for said, same in moments:
                print(f'{said}: {"the same" if same else "SOMETHING ELSE"}', flush=True)
                passed, failed = passed + same, failed + (not same)
    print(f'{passed} passed, {failed} failed')
    return failed


if __name__ == '__main__':
    sys.exit(bool(main()))
