"kill -9 at ten random moments of cache building and training; each run is then resumed and must end with the same numbers."
import json
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
from readme import ROOT

BIN, KILLS = Path(sys.executable).parent, 10
ARGS = ['-p', 'size', '48', '-p', 'images', '600', '-p', 'held_out', '150', '-p', 'epochs', '6']


def start(home, out):
    env = dict(os.environ, CXRLT_HOME=str(home), IN_TEST='1', JUPYTER_PREFER_ENV_PATH='1')
    return subprocess.Popen([BIN/'papermill', ROOT/'nbs/05_train.ipynb', home/'x.ipynb', *ARGS, '-p', 'out', str(out)],
                            env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def result(out):
    history = pd.read_csv(out/'history.csv').drop(columns='images_per_s')
    return history.to_json(double_precision=15), (out/'metrics.json').read_text(), pd.read_parquet(out/'predictions/test.parquet').to_json(double_precision=15)


def finish(home, out):
    p = start(home, out)
    err = p.communicate()[1]
    assert p.returncode == 0, err[-3000:]
    return result(out)


def kill_group(p):
    "The whole session: papermill, its kernel, and the kernel's workers"
    os.killpg(p.pid, signal.SIGKILL)
    for pid in subprocess.run(['pgrep', '-f', 'ipykernel_launcher'], capture_output=True, text=True).stdout.split():
        if parent_gone(pid): os.kill(int(pid), signal.SIGKILL)
    p.wait()


def parent_gone(pid):
    try: return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[1] == '1'
    except OSError: return False


def main():
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as tmp:
        home, tmp = Path(tmp)/'home', Path(tmp)
        home.mkdir()
        begin = time.time(); finish(home, tmp/'first'); first = time.time()-begin
        shutil.rmtree(home/'data/cache')
        begin = time.time(); whole = finish(home, tmp/'whole'); usual = time.time()-begin
        failed = passed = 0
        for k in range(KILLS):
            shutil.rmtree(home/'data/cache', ignore_errors=True)
            out, after = tmp/f'run{k}', rng.uniform(.4, .95)*usual
            p = start(home, out)
            time.sleep(after)
            done = p.poll() is not None
            if not done: kill_group(p)
            looks_finished = (out/'record.json').exists() and not done
            state = 'finished before the kill' if done else f"epoch {len(pd.read_csv(out/'history.csv')) if (out/'history.csv').exists() else 0} done"
            parts = len(list((home/'data/cache').rglob('part-*.arrow')))
            same = finish(home, out) == whole
            print(f'kill {k+1}: after {after:.1f} of {usual:.1f} s, {state}, {parts} cache files; resumed: {"same numbers" if same else "OTHER NUMBERS"}', flush=True)
            passed, failed = passed + (same and not looks_finished), failed + (not same or looks_finished)
    print(f'{passed} passed, {failed} failed')
    return failed


if __name__ == '__main__': sys.exit(bool(main()))
