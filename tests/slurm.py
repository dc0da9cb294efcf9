"""Rows of Table 2 through a real Slurm: `python tests/slurm.py`, as root. Installs Debian's slurm-wlm and munge where they are missing; starts munged, slurmctld and slurmd on the
loopback, with two pretended GPUs, among processes of their own that all end with the test; sends the first rows at a tiny preset through profiles/slurm, one of them to fail at first;
and compares the table with the one made without Slurm. Some five minutes on two cores."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import graph

from cxrlt_nb.runs import read_result

ROWS, TINY = '1,2,4', 'images=300 held_out=150 epochs=2 threads=1'
FREQUENT = '--jobs', 4, '--slurm-init-seconds-before-status-checks', 5
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
    "Debian's packages, unless they are there"
    if all(map(shutil.which, ('munged', 'slurmctld', 'slurmd'))):
        return
    env = dict(os.environ, DEBIAN_FRONTEND='noninteractive')
    for o in (['update'], ['install', '-y', '--no-install-recommends', 'slurm-wlm', 'munge']):
        try:
            subprocess.run(['apt-get', '-qq', *o], check=True, env=env, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as e:
            sys.exit(f"Slurm is not here and cannot be installed: {e}; Debian's slurm-wlm and munge are wanted")


def free_ports(n):
    sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(n)]
    ports = [o.getsockname()[1] for o in sockets]
    for o in sockets:
        o.close()
    return ports


def start(at):
    "The three daemons, and wait for their node"
    for o in ('', 'state', 'spool'):
        (at / o).mkdir()
    (at / 'slurm.conf').write_text(CONF.format(host=HOST, at=at, ports=free_ports(2)))
    (at / 'gres.conf').write_text(f'NodeName={HOST} Name=gpu File=/dev/tty[0-1]\n')
    (at / 'munge.key').write_bytes(os.urandom(1024))
    (at / 'munge.key').chmod(0o400)
    subprocess.run(['mount', '--bind', at, '/etc/slurm'], check=True)  # seen by this test alone
    places = [
        f'--{k}={at}/munge.{v}'
        for k, v in {
            'key-file': 'key',
            'socket': 'socket',
            'pid-file': 'pid',
            'log-file': 'log',
            'seed-file': 'seed',
        }.items()
    ]
    for o in (['munged', '--force', *places], ['slurmctld'], ['slurmd', '-N', HOST]):
        subprocess.run(o, check=True, stderr=subprocess.DEVNULL)
    for _ in range(30):
        said = subprocess.run(['sinfo', '-h', '-o', '%T %G'], capture_output=True, text=True).stdout
        if said.startswith('idle gpu:2'):
            return
        time.sleep(1)
    raise RuntimeError(
        '\n'.join(
            [
                f'no idle node after 30 s, but {said!r}',
                *((at / o).read_text()[-2000:] for o in ('munge.log', 'slurmctld.log', 'slurmd.log')),
            ]
        )
    )


def study(home, profile, *more, fails=False):
    "The graph with a profile; what it says, and at each look the devices that trainings have"
    begin, looks, p = time.time(), [], graph.start(home, profile, *more, rows=ROWS, set=TINY)
    while p.poll() is None:
        looks.append(graph.devices())
        time.sleep(0.5)
    said = graph.said(p, home, fails)
    print(
        f'profile {profile}, {"one training fails" if fails else "to the end"}: {time.time() - begin:.0f} s', flush=True
    )
    return said, looks


def occupy(here, there):
    "Let a training's folder hold another run, so that its notebook refuses it; the folder"
    done = sorted((here / 'runs/table2').glob('*/record.json'))[-1].parent
    folder = there / done.relative_to(here)
    folder.mkdir(parents=True)
    ident = json.loads((done / 'parameters.json').read_text())
    ident['parameters']['lr'] = 7.0
    (folder / 'parameters.json').write_text(json.dumps(ident))
    return folder


def numbers(home):
    return read_result(home / 'results/table2_rows1-2-4.csv')[0]


def check(tmp):
    "With and without Slurm, as the first of all processes that it sees"
    here, there = tmp / 'here', tmp / 'there'
    start(tmp / 'slurm')
    study(here, 'local', '--cores', 1)
    folder = occupy(here, there)
    said, looks = study(there, 'slurm', *FREQUENT, fails=True)
    message = f'{folder.name}: 05_train.ipynb failed in code cell'
    print(next((o for o in said.splitlines() if message in o), said[-4000:]))
    assert message in said and 'holds another run: lr is 7.0 there' in said
    assert len(list(there.glob('runs/table2/*/record.json'))) == 2 and not (there / 'results').exists(), (
        'the rest was to go on, the table not to be made'
    )
    assert all(sorted(o) in ([], ['0'], ['1'], ['0', '1']) for o in looks) and any(len(o) == 2 for o in looks), looks
    shutil.rmtree(folder)
    study(there, 'slurm', *FREQUENT)
    assert numbers(here).equals(numbers(there)), 'another table through Slurm'
    assert (there / 'runs/table2/report.html').is_file()
    print('two trainings at once, each with the device that Slurm gave it; the same table\n2 passed, 0 failed')


def main():
    "Run `check` in a place of its own: nothing that it starts or mounts outlives it"
    if os.geteuid():
        sys.exit('root is wanted: slurmctld and slurmd run jobs in the name of others')
    install()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('stopped'))
    with tempfile.TemporaryDirectory() as tmp:
        sys.exit(
            subprocess.run(
                [
                    'setpriv',
                    '--pdeathsig',
                    'KILL',
                    'unshare',
                    '--pid',
                    '--kill-child',
                    '--mount-proc',
                    sys.executable,
                    __file__,
                    tmp,
                ]
            ).returncode
        )


if __name__ == '__main__':
    check(Path(sys.argv[1])) if sys.argv[1:] else main()
