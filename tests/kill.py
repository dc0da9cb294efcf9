"""Interrupt with kill -9 at random moments, and start again each time: `make test-kill`, or `make test-kill CASES=50`.

Most processes are forked from this one, which has imported everything; a training by two processes runs in papermill.
`SHARES` says how the moments are shared: while a cache is built, within a second after an epoch of a training, inside
an epoch of a training that saves its state after each step, in a training by two processes, in `cxrlt predict`,
`write_evaluation` and `cxrlt submit`. Each must end with what an uninterrupted one has: the same bytes of images,
history, metrics, predictions, tables and archives; and no file is ever half written.
"""

import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ |= dict(OMP_NUM_THREADS='1', NUMBA_NUM_THREADS='1', IN_TEST='1', MPLBACKEND='Agg', PYTHONWARNINGS='ignore')

import nbformat  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from checkout import ROOT  # noqa: E402
from limits import cases  # noqa: E402

import cxrlt_nb.predict  # noqa: E402, F401
from cxrlt_nb import cli  # noqa: E402
from cxrlt_nb.cache import ImageCache, build_cache  # noqa: E402
from cxrlt_nb.datasets import read_cxrlt  # noqa: E402
from cxrlt_nb.evaluate import write_evaluation  # noqa: E402

BIN, EPOCHS = Path(sys.executable).parent, 8
#: Of fifteen interruptions
SHARES = dict(cache=3, training=3, inside=2, together=1, predict=3, evaluate=2, submit=1)
PARAMETERS = dict(size=48, images=600, held_out=150, epochs=EPOCHS)


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
    try:
        os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, or has no session yet
        p.kill()
    p.wait() if isinstance(p, subprocess.Popen) else p.join()
    for process in processes_of(home, 'ipykernel_launcher') if home else []:
        os.kill(int(process.name), signal.SIGKILL)


def fork(work, *arguments):
    "A process that does some work, in a session of its own; what it says goes to `said.txt`"

    def run():
        os.setsid()
        said = os.open(os.environ['CXRLT_HOME'] + '/said.txt', os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.exit(work(*arguments))

    p = multiprocessing.get_context('fork').Process(target=run)
    p.start()
    return p


def end(p):
    "Wait for a forked process; an error if it fails"
    p.join()
    assert p.exitcode == 0, read(Path(os.environ['CXRLT_HOME']) / 'said.txt')[-3000:]


def start_cache(root, folder):
    "A process that builds a cache"
    return fork(lambda: build_cache(read_cxrlt(root).df, folder, 320, part=8) and 0)


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


def train(out, more):
    "The code of the training notebook"
    code = [o for o in nbformat.read(ROOT / 'nbs/05_train.ipynb', 4).cells if o.cell_type == 'code']
    at = next(k for k, o in enumerate(code) if 'parameters' in o.metadata.get('tags', [])) + 1
    names = {'__name__': '__main__'}
    exec('\n'.join(o.source for o in code[:at]), names)
    names |= PARAMETERS | more | dict(out=str(out), threads=1)
    exec('\n'.join(o.source for o in code[at:]), names)


def start_together(home, out, **more):
    "A process that trains in papermill"
    command = [BIN / 'papermill', ROOT / 'nbs/05_train.ipynb', home / 'x.ipynb']
    for name, value in (PARAMETERS | more | dict(out=out)).items():
        command += ['-p', name, str(value)]
    env = os.environ | dict(JUPYTER_PREFER_ENV_PATH='1')
    options = dict(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    return subprocess.Popen(command, env=env, **options)


def start_training(home, out, processes=1, **more):
    "A process that trains"
    if processes > 1:
        return start_together(home, out, processes=processes, **more)
    return fork(train, out, more)


def is_running(p):
    return p.is_alive() if hasattr(p, 'is_alive') else p.poll() is None


def epochs(out):
    "Finished epochs of a run"
    return len(pd.read_csv(out / 'history.csv')) if (out / 'history.csv').exists() else 0


def finish(home, out, **more):
    "Train to the end, and return the numbers"
    p = start_training(home, out, **more)
    if isinstance(p, subprocess.Popen):
        errors = p.communicate()[1]
        assert p.returncode == 0, errors[-3000:]
    else:
        end(p)
    history = pd.read_csv(out / 'history.csv').drop(columns='images_per_s')
    predictions = pd.read_parquet(out / 'predictions/test.parquet')
    texts = [o.to_json(double_precision=15) for o in (history, predictions)]
    return texts, (out / 'metrics.json').read_text()


def interrupted_caches(tmp, root, rng, times):
    "Interrupt and resume the building of a cache; what happened, and whether the result is the same"
    begin = time.time()
    end(start_cache(root, tmp / 'whole'))
    usual, whole = time.time() - begin, images_of(tmp / 'whole')
    for k in range(times):
        folder, seconds = tmp / f'cache{k}', rng.uniform(0.05, 0.6) * usual
        p = start_cache(root, folder)
        time.sleep(seconds)
        interrupt(p)
        found = len(ImageCache(folder)) if (folder / 'cache.json').exists() else 0
        end(start_cache(root, folder))
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
        while (epochs(out), steps(out)) < (k % EPOCHS, step) and is_running(p):
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
        out, seconds, epoch = tmp / f'{name} {k}', rng.uniform(0, 1), k % (EPOCHS - 2) + 1
        p = start_training(home, out, processes=processes)
        while epochs(out) < epoch and is_running(p):
            time.sleep(0.01)
        time.sleep(seconds)
        shared = len(sharing(home))
        interrupt(p, home)
        assert not (out / 'record.json').exists(), 'an interrupted run looks finished'
        assert bool(shared) == (processes > 1), f'{shared} processes share the training'
        interrupted = time.time()
        while sharing(home):
            assert time.time() - interrupted < 10, 'processes that shared the training have outlived it'
        text = f'{name} {k + 1}: interrupted {seconds:.2f} s after epoch {epoch}, with {epochs(out)} of {EPOCHS} epochs'
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


def command(*arguments):
    "A process that runs `cxrlt`"
    return fork(cli.main, [str(o) for o in arguments])


def contents(folder):
    "Hash of each file below a folder, temporary and lock files left out"
    files = [o for o in sorted(folder.rglob('*')) if o.is_file() and o.suffix != '.tmp' and o.name != 'lock']
    return {str(o.relative_to(folder)): hashlib.sha256(o.read_bytes()).hexdigest() for o in files}


def interrupted_commands(tmp, name, start, rng, times):
    "Interrupt and repeat what writes to a folder; what happened, and whether the result is the same"
    whole = tmp / f'{name} whole'
    whole.mkdir()
    for _ in range(2):  # the first compiles what is compiled once
        begin = time.time()
        end(start(whole))
        usual = time.time() - begin
    expected = contents(whole)
    for k in range(times):
        folder, seconds = tmp / f'{name} {k}', rng.uniform(0, usual)
        if k % 2:
            shutil.copytree(whole, folder)  # over an earlier result
        folder.mkdir(exist_ok=True)
        begin, p = time.time(), start(folder)
        writing = False
        while time.time() - begin < seconds and p.is_alive() and not writing:
            writing = k % 3 == 2 and any(folder.glob('*.tmp'))  # a third of them while a file is written
            time.sleep(0.001)
        interrupt(p)
        found = contents(folder)
        partial = [o for o in found if found[o] != expected.get(o)]
        end(start(folder))
        moment = 'while writing' if writing else f'after {seconds:.1f} of {usual:.1f} s'
        text = f'{name} {k + 1}: interrupted {moment}, {len(found)} of {len(expected)} files'
        same = contents(folder) == expected
        yield f'{text}{", PARTIAL: " if partial else ""}{", ".join(partial)}', same and not partial


def shares(total):
    "How many interruptions of each kind"
    found = {k: max(1, round(v * total / sum(SHARES.values()))) for k, v in SHARES.items()}
    return found | dict(cache=found['cache'] + total - sum(found.values()))


def main():
    rng, results, n = random.Random(0), [], shares(cases(15))
    with tempfile.TemporaryDirectory() as tmp:
        tmp, home = Path(tmp), Path(tmp) / 'home'
        home.mkdir()
        os.environ['CXRLT_HOME'] = str(home)
        torch.set_num_threads(1)
        first = tmp / 'first'
        finish(home, first)  # draws the phantom, and compiles what is compiled once
        root = next((home / 'data').glob('phantom-*'))
        options = ['--decide', 'f1', '--calibrate', 'validation', '--bs', '32']
        listed = tmp / 'images.csv'
        test = pd.read_csv(root / 'test.csv', dtype='str')
        test.assign(path=[str(root / o) for o in test.path])[['dicom_id', 'path']].to_csv(listed, index=False)
        predictions = tmp / 'p.parquet'
        end(command('predict', first, listed, predictions))

        def predict(folder):
            return command('predict', first, listed, folder / 'p.parquet', *options)

        def evaluate(folder):
            return fork(lambda: write_evaluation(predictions, f'phantom:{root}', folder, by=['view'], n=50) and 0)

        def submit(folder):
            return command('submit', predictions, root / 'test.csv', folder / 's.zip')

        cases_of = [
            interrupted_caches(tmp, root, rng, n['cache']),
            interrupted_commands(tmp, 'predict', predict, rng, n['predict']),
            interrupted_commands(tmp, 'evaluate', evaluate, rng, n['evaluate']),
            interrupted_commands(tmp, 'submit', submit, rng, n['submit']),
            notebooks_with_a_kernel(tmp),
            interrupted_inside(tmp, home, rng, n['inside']),
            interrupted_trainings(tmp, home, rng, n['training']),
            interrupted_trainings(tmp, home, rng, n['together'], processes=2),
        ]
        for moments in cases_of:
            for text, same in moments:
                print(f'{text}: {"the same" if same else "SOMETHING ELSE"}', flush=True)
                results.append(same)
    print(f'{sum(results)} passed, {len(results) - sum(results)} failed')
    return not all(results)


if __name__ == '__main__':
    sys.exit(main())
