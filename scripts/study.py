"""Starts Snakemake for `make study` and its like: `python scripts/study.py RULE rows|group`.

make hands its variables over in the environment, so no shell reads what is in them. Snakemake parses its configuration
as YAML, and passes it on to the shells of its jobs. So it gets JSON in percent encoding, without special characters.
"""

import json
import os
import subprocess
import sys
from urllib.parse import quote


def found_devices(given):
    'The GPUs that may be used, as a text such as "0,1"; empty if there is none'
    if given.get('CUDA_VISIBLE_DEVICES'):
        return given['CUDA_VISIBLE_DEVICES']
    try:
        query = ['nvidia-smi', '--query-gpu=index', '--format=csv,noheader']
        return ','.join(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split())
    except (OSError, subprocess.CalledProcessError):
        return ''


def snakemake_command(rule, asked, given):
    "The command for a rule, for `rows` or `group`, and the variables of make"
    local = given['PROFILE'] == 'local'
    devices = given['DEVICES'] or (found_devices(given) if local else '')
    jobs = (str(len(devices.split(','))) if devices else 'all') if local else '17'
    config = {name: given[name.upper()] for name in ('set', 'data', 'root', 'plugins', asked)}
    config['preset'] = given['PRESET'] or ('auto' if local else 'paper')
    if devices:
        config['devices'] = devices
    if given['DRY'] and local:
        config['forecast'] = given['JOBS'] or (jobs if devices else len(os.sched_getaffinity(0)))
    command = [sys.executable, '-m', 'snakemake', rule, '--profile', f'profiles/{given["PROFILE"]}']
    command += ['--cores' if local else '--jobs', given['JOBS'] or jobs] + (['--dry-run'] if given['DRY'] else [])
    return [*command, '--config', f'given={quote(json.dumps(config))}']


if __name__ == '__main__':
    command = snakemake_command(*sys.argv[1:], os.environ)
    os.execv(command[0], command)
