"The study's graph for real, for the tests that run it: Snakemake in a session of its own, what it says, and the devices of the trainings that it has started."

import os
import subprocess
import sys
from pathlib import Path

from checkout import ROOT


def start(home, profile, *more, **config):
    "Snakemake with a profile and a configuration, for a study in `home`; it speaks into `home/log`"
    words = [f'{k}={v}' for k, v in dict(preset='demo', results=home / 'results', **config).items()]
    cmd = [
        sys.executable,
        '-m',
        'snakemake',
        '--profile',
        ROOT / 'profiles' / profile,
        '--snakefile',
        ROOT / 'Snakefile',
        '--directory',
        home,
        *more,
        '--config',
        *words,
    ]
    home.mkdir(exist_ok=True)
    with (home / 'log').open('w') as log:
        return subprocess.Popen(
            list(map(str, cmd)),
            env=dict(os.environ, CXRLT_HOME=str(home), JUPYTER_PREFER_ENV_PATH='1'),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def said(p, home, fails=False):
    "Wait for it; what it said"
    p.wait()
    log = (home / 'log').read_text()
    assert (p.returncode != 0) == fails, log[-4000:]
    return log


def devices(pids=None):
    "CUDA_VISIBLE_DEVICES of each notebook's process, of all that there are or of `pids`"
    found = []
    for o in Path('/proc').glob('[0-9]*') if pids is None else (Path(f'/proc/{k}') for k in pids):
        try:
            cmd, env = ((o / k).read_text(errors='replace').split('\0') for k in ('cmdline', 'environ'))
        except OSError:
            continue
        if 'ipykernel_launcher' in cmd:
            found.append(dict(e.partition('=')[::2] for e in env).get('CUDA_VISIBLE_DEVICES', 'none'))
    return found
