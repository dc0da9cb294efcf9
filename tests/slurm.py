"""Rows of Table 2 through a real Slurm: `python tests/slurm.py`, as root, about five minutes on two cores.

Installs Debian's slurm-wlm and munge if they are missing. Starts munged, slurmctld and slurmd on the loopback, with two
pretended GPUs, in a process namespace that ends with the test. Submits the first rows of a small study through
profiles/slurm, one training of which fails at first, and compares the table with one made without Slurm. A training
that gets SIGTERM in the middle of an epoch goes back into the queue and is resumed there.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import graph

from cxrlt_nb.runs import read_result

ROWS, SMALL = '1,2,4', 'images=300 held_out=150 epochs=2 threads=1'
TABLE = 'runs/table2/table2_rows1-2-4.csv'
FREQUENT = '--jobs', 4, '--slurm-init-seconds-before-status-checks', 2
HOST = socket.gethostname().split('.')[0]
CONF = """ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthInfo=socket={at}/munge.socket
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
MailProg=/bin/true
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=32 RealMemory=512000 Gres=gpu:2
PartitionName=all Nodes={host} Default=YES State=UP
"""


def install():
    "Install Debian's packages unless they are there"
    if all(map(shutil.which, ('munged', 'slurmctld', 'slurmd'))):
        return
    env = dict(os.environ, DEBIAN_FRONTEND='noninteractive')
    for words in (['update'], ['install', '-y', '--no-install-recommends', 'slurm-wlm', 'munge']):
        try:
            subprocess.run(['apt-get', '-qq', *words], check=True, env=env, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as e:
            sys.exit(f"Slurm is missing and cannot be installed: {e}; install Debian's slurm-wlm and munge")


def free_ports(n):
    sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(at):
    "Start the three daemons and wait for their node"
    for name in ('', 'state', 'spool'):
        (at / name).mkdir()
    (at / 'slurm.conf').write_text(CONF.format(host=HOST, at=at, ports=free_ports(2)))
    (at / 'gres.conf').write_text(f'NodeName={HOST} Name=gpu File=/dev/tty[0-1]\n')
    (at / 'munge.key').write_bytes(os.urandom(1024))
    (at / 'munge.key').chmod(0o400)
    subprocess.run(['mount', '--bind', at, '/etc/slurm'], check=True)  # visible to this test only
    places = [f'--key-file={at}/munge.key', f'--socket={at}/munge.socket', f'--pid-file={at}/munge.pid']
    places += [f'--log-file={at}/munge.log', f'--seed-file={at}/munge.seed']
    for command in (['munged', '--force', *places], ['slurmctld'], ['slurmd', '-N', HOST]):
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    for _ in range(30):
        state = subprocess.run(['sinfo', '-h', '-o', '%T %G'], capture_output=True, text=True).stdout
        if state.startswith('idle gpu:2'):
            return
        time.sleep(1)
    logs = [(at / f'{name}.log').read_text()[-2000:] for name in ('munge', 'slurmctld', 'slurmd')]
    raise RuntimeError('\n'.join([f'no idle node after 30 s, but {state!r}', *logs]))


def study(home, profile, *options, fails=False):
    "Run the graph with a profile; its log, and the devices of the trainings at each look"
    begin, looks = time.time(), []
    process = graph.start(home, profile, *options, rows=ROWS, set=SMALL)
    while process.poll() is None:
        looks.append(graph.devices())
        time.sleep(0.5)
    log = graph.wait(process, home, fails)
    end = 'one training fails' if fails else 'to the end'
    print(f'profile {profile}, {end}: {time.time() - begin:.0f} s', flush=True)
    return log, looks


def occupy(here, there):
    "Let the folder of a training contain another run, so that its notebook refuses it; the folder"
    done = sorted((here / 'runs/table2').glob('*/record.json'))[-1].parent
    folder = there / done.relative_to(here)
    folder.mkdir(parents=True)
    identity = json.loads((done / 'parameters.json').read_text())
    identity['parameters']['lr'] = 7.0
    (folder / 'parameters.json').write_text(json.dumps(identity))
    return folder


def ask(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def signalled(home):
    "Send SIGTERM to a training, as Slurm does before the time is over; the text of its notebook after it has resumed"
    begin, small = time.time(), 'images=400 held_out=150 epochs=60 threads=1'
    process = graph.start(home, 'slurm', *FREQUENT, '--until', 'train', rows=1, set=small)
    while not list(home.glob('runs/table2/*/checkpoint.pt')):
        assert process.poll() is None and time.time() - begin < 900, (home / 'log').read_text()[-4000:]
        time.sleep(0.2)
    jobs = [line.split() for line in ask('squeue', '-h', '-t', 'RUNNING', '-o', '%i %Z').splitlines()]
    job = next(number for number, folder in jobs if Path(folder) == home)
    ask('scancel', '--signal=TERM', job)
    while ask('squeue', '-h', '-j', job, '-o', '%T') != 'PENDING':
        assert process.poll() is None and time.time() - begin < 900, (home / 'log').read_text()[-4000:]
        time.sleep(0.5)
    ask('scontrol', 'update', f'JobId={job}', 'StartTime=now')  # Slurm would wait for two minutes
    graph.wait(process, home)
    print(f'SIGTERM in the middle of a training: {time.time() - begin:.0f} s', flush=True)
    return next(home.glob('runs/table2/*/notebook.ipynb')).read_text()


def numbers(home):
    return read_result(home / TABLE)[0]


def check(tmp):
    "With and without Slurm; this process is the first in its namespace"
    here, there = tmp / 'here', tmp / 'there'
    start(tmp / 'slurm')
    at_once = ThreadPoolExecutor()
    resumed = at_once.submit(signalled, tmp / 'signalled')
    study(here, 'local', '--cores', 1)
    folder = occupy(here, there)
    log, looks = study(there, 'slurm', *FREQUENT, fails=True)
    message = f'{folder.name}: 05_train.ipynb failed in code cell'
    print(next((line for line in log.splitlines() if message in line), log[-4000:]))
    assert message in log and 'lr is 7.0 there' in log
    assert len(list(there.glob('runs/table2/*/record.json'))) == 2, 'the other trainings must go on'
    assert not (there / TABLE).exists(), 'the table must wait'
    assert all(sorted(look) in ([], ['0'], ['1'], ['0', '1']) for look in looks), looks
    assert any(len(look) == 2 for look in looks), looks
    shutil.rmtree(folder)
    study(there, 'slurm', *FREQUENT)
    assert numbers(here).equals(numbers(there)), 'another table through Slurm'
    assert (there / 'runs/table2/report.html').is_file()
    assert re.search(r'resuming after epoch \d+ of 60 and \d+ steps', resumed.result()), 'not resumed inside an epoch'
    print('two trainings at once, each on the device that Slurm gave it; the same table; resumed after SIGTERM')
    print('3 passed, 0 failed')


def main():
    "Run `check` in namespaces of its own: nothing that it starts or mounts outlives it"
    if os.geteuid():
        sys.exit('run this as root: slurmctld and slurmd start jobs for other users')
    install()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    with tempfile.TemporaryDirectory() as tmp:
        isolate = ['setpriv', '--pdeathsig', 'KILL', 'unshare', '--pid', '--kill-child', '--mount-proc']
        sys.exit(subprocess.run([*isolate, sys.executable, __file__, tmp]).returncode)


if __name__ == '__main__':
    if sys.argv[1:]:
        check(Path(sys.argv[1]))
    else:
        main()
