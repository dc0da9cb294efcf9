"""Interrupt with kill -9 at fifteen random moments, and resume each time: `make test-kill`.

Five while a cache is built, five within a second after an epoch of a training, three inside an epoch of a training that
saves its state after each step, two in a training by two processes. Each must end with what an uninterrupted one has:
the same bytes of images, history, metrics and predictions.
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
import torch
from checkout import ROOT

from cxrlt_nb.cache import ImageCache

BIN, TIMES, EPOCHS = Path(sys.executable).parent, 5, 8
PARAMETERS = dict(size=48, images=600, held_out=150, epochs=EPOCHS)
CACHE = """
import sys
from cxrlt_nb.cache import build_cache
from cxrlt_nb.datasets import read_cxrlt
df = read_cxrlt(sys.argv[1]).df
print('begin', flush=True)
build_cache(df, sys.argv[2], 320, part=8)
"""


def read(file):
    try:
        return file.read_text()
    except OSError:
        return ''


def processes_of(home, command):
    "Processes with `command` in their command line that belong to the runs in `home`"
    found = [o for o in Path('/proc').glob('[0-9]*') if command in read(o / 'cmdline')]
    return [o for o in found if f'CXRLT_HOME={home}\0' in read(o / 'environ')]


def interrupt(p, home=None):
    "kill -9 the session of `p`, and the kernels that a training in `home` leaves behind"
    os.killpg(p.pid, signal.SIGKILL)
    p.wait()
    for process in processes_of(home, 'ipykernel_launcher') if home else []:
        os.kill(int(process.name), signal.SIGKILL)


def start_cache(root, folder):
    "A process that has begun to build a cache"
    command = [sys.executable, '-W', 'ignore', '-c', CACHE, root, folder]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    p = subprocess.Popen(command, **options)
    assert p.stdout.readline() == 'begin\n'
    return p


def images_of(folder):
    "Every image id of a cache, and a hash of its JPEG file"
    cache, hashes = ImageCache(folder), {}
    for image_id, row in cache.meta.iterrows():
        offsets, data = cache.parts[row.part]
        hashes[image_id] = hashlib.sha256(data[offsets[row.row] : offsets[row.row + 1]]).hexdigest()
    return hashes


def sharing(home):
    "Processes that share a training"
    return processes_of(home, 'spawn_main')


def start_training(home, out, **more):
    "A process that trains"
    command = [BIN / 'papermill', ROOT / 'nbs/05_train.ipynb', home / 'x.ipynb']
    for name, value in (PARAMETERS | more | dict(out=out)).items():
        command += ['-p', name, str(value)]
    env = os.environ | dict(CXRLT_HOME=str(home), IN_TEST='1', JUPYTER_PREFER_ENV_PATH='1')
    options = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    return subprocess.Popen(command, env=env, **options)


def epochs(out):
    "Finished epochs of a run"
    return len(pd.read_csv(out / 'history.csv')) if (out / 'history.csv').exists() else 0


def finish(home, out, **more):
    "Train to the end, and return the numbers"
    p = start_training(home, out, **more)
    errors = p.communicate()[1]
    assert p.returncode == 0, errors[-3000:]
    history = pd.read_csv(out / 'history.csv').drop(columns='images_per_s')
    predictions = pd.read_parquet(out / 'predictions/test.parquet')
    texts = [o.to_json(double_precision=15) for o in (history, predictions)]
    return texts, (out / 'metrics.json').read_text()


def interrupted_caches(tmp, root, rng):
    "Interrupt and resume the building of a cache; what happened, and whether the result is the same"
    p = start_cache(root, tmp / 'whole')
    begin = time.time()
    p.wait()
    usual, whole = time.time() - begin, images_of(tmp / 'whole')
    for k in range(TIMES):
        folder, seconds = tmp / f'cache{k}', rng.uniform(0.05, 0.6) * usual
        p = start_cache(root, folder)
        time.sleep(seconds)
        interrupt(p)
        found = len(ImageCache(folder)) if (folder / 'cache.json').exists() else 0
        assert start_cache(root, folder).wait() == 0
        text = f'cache {k + 1}: interrupted after {seconds:.1f} of {usual:.1f} s with {found} of {len(whole)} images'
        yield text, images_of(folder) == whole


def steps(out):
    "Steps of the unfinished epoch in the last checkpoint of a run"
    state = torch.load(out / 'checkpoint.pt', weights_only=True) if (out / 'checkpoint.pt').exists() else {}
    return state['within']['steps'] if 'within' in state else 0


def interrupted_inside(tmp, home, rng, times):
    "Interrupt and resume a training inside an epoch; what happened, and whether the result is the same"
    more = dict(checkpoint_minutes=1e-9, augment='paper', bs=16)
    whole = finish(home, tmp / 'inside whole', **more)
    for k in range(times):
        out, step = tmp / f'inside {k}', rng.randint(1, 36)
        p = start_training(home, out, **more)
        while (epochs(out), steps(out)) < (k, step) and p.poll() is None:
            time.sleep(0.05)
        interrupt(p, home)
        text = f'inside {k + 1}: interrupted in epoch {epochs(out) + 1} after step {steps(out)}'
        yield text, finish(home, out, **more) == whole


def interrupted_trainings(tmp, home, rng, times, processes=1):
    "Interrupt and resume a training; what happened, and whether the result is the same"
    name = f'training by {processes}'
    whole = finish(home, tmp / f'{name} whole', processes=processes)
    for k in range(times):
        shutil.rmtree(home / 'data/cache')
        out, seconds = tmp / f'{name} {k}', rng.uniform(0, 1)
        p = start_training(home, out, processes=processes)
        while epochs(out) < k + 1 and p.poll() is None:
            time.sleep(0.01)
        time.sleep(seconds)
        shared = len(sharing(home))
        interrupt(p, home)
        assert not (out / 'record.json').exists(), 'an interrupted run looks finished'
        assert bool(shared) == (processes > 1), f'{shared} processes share the training'
        interrupted = time.time()
        while sharing(home):
            assert time.time() - interrupted < 10, 'processes that shared the training have outlived it'
        text = f'{name} {k + 1}: interrupted {seconds:.2f} s after epoch {k + 1}, with {epochs(out)} of {EPOCHS} epochs'
        yield text, finish(home, out, processes=processes) == whole


def notebooks_with_a_kernel(tmp):
    "The cells that send SIGTERM to their own process need a kernel, whose main thread gets it"
    for name in ('04d_learner', 'study/00_runner'):
        command = [
            BIN / 'papermill',
            f'{name}.ipynb',
            tmp / 'executed.ipynb',
            '--no-progress-bar',
            '--log-level',
            'ERROR',
        ]
        env = os.environ | dict(IN_TEST='1', JUPYTER_PREFER_ENV_PATH='1', OMP_NUM_THREADS='1')
        done = subprocess.run(command, cwd=ROOT / 'nbs', env=env, stderr=subprocess.PIPE, text=True)
        yield f'{name} in a kernel{done.stderr[-800:] if done.returncode else ""}', done.returncode == 0


def main():
    rng, results = random.Random(0), []
    with tempfile.TemporaryDirectory() as tmp:
        tmp, home = Path(tmp), Path(tmp) / 'home'
        home.mkdir()
        finish(home, tmp / 'first')  # draws the phantom, and compiles what is compiled once
        root = next((home / 'data').glob('phantom-*'))
        caches = interrupted_caches(tmp, root, rng)
        signals = notebooks_with_a_kernel(tmp)
        alone = interrupted_trainings(tmp, home, rng, TIMES)
        inside = interrupted_inside(tmp, home, rng, 3)
        together = interrupted_trainings(tmp, home, rng, 2, processes=2)
        for moments in (caches, signals, alone, inside, together):
            for text, same in moments:
                print(f'{text}: {"the same" if same else "SOMETHING ELSE"}', flush=True)
                results.append(same)
    print(f'{sum(results)} passed, {len(results) - sum(results)} failed')
    return not all(results)


if __name__ == '__main__':
    sys.exit(main())
