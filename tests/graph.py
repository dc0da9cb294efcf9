"Starts a real study for the tests: Snakemake in a session of its own, its log, and the devices of its trainings."

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def start(home, profile, *options, **config):
    "Start Snakemake with a profile for a study in the folder `home`; its output goes to `home/log`"
    command = [sys.executable, '-m', 'snakemake', '--profile', ROOT / 'profiles' / profile]
    command += ['--snakefile', ROOT / 'Snakefile', '--directory', home, *options]
    command += ['--config', 'preset=demo', *(f'{key}={value}' for key, value in config.items())]
    home.mkdir(exist_ok=True)
    with (home / 'log').open('w') as log:
        return subprocess.Popen(
            [str(word) for word in command],
            env=dict(os.environ, CXRLT_HOME=str(home), JUPYTER_PREFER_ENV_PATH='1'),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait(process, home, fails=False):
    "Wait for Snakemake, check whether it failed, and return its output"
    process.wait()
    log = (home / 'log').read_text()
    assert (process.returncode != 0) == fails, log[-4000:]
    return log


def _device(folder):
    "CUDA_VISIBLE_DEVICES of a process if it runs a notebook, else None"
    try:
        command, environ = ((folder / name).read_text(errors='replace').split('\0') for name in ('cmdline', 'environ'))
    except OSError:
        return None  # it has ended
    if 'ipykernel_launcher' not in command:
        return None
    variables = dict(line.partition('=')[::2] for line in environ)
    return variables.get('CUDA_VISIBLE_DEVICES', 'none')


def devices(pids=None):
    "CUDA_VISIBLE_DEVICES of each process that runs a notebook: all processes, or those in `pids`"
    folders = Path('/proc').glob('[0-9]*') if pids is None else [Path(f'/proc/{pid}') for pid in pids]
    found = [_device(folder) for folder in folders]
    return [device for device in found if device is not None]
