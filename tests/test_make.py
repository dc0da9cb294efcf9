"Variables of make: unknown ones are refused, values are text, and none is taken from the environment."

import json
import os
import subprocess
import sys
from urllib.parse import unquote

import pytest
from checkout import ROOT

sys.path.insert(0, str(ROOT / 'scripts'))
from study import snakemake_command  # noqa: E402

HOSTILE = [
    "it's a folder",
    '$(touch made)',
    '`touch made`',
    '; touch made',
    '"quoted" #1: x',
    '$(shell touch made)',
    'a$b',
]


def make(*arguments, **env):
    # A Makefile in place of snakemake: its target only shows what it would get
    command = ['make', '--no-print-directory', *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | env)


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    "A makefile that includes ours and shows the variables that commands get"
    file = tmp_path_factory.mktemp('make') / 'makefile'
    names = 'ROWS DATA ROOT SET DEVICES DRY PYTHON'
    file.write_text(f'include Makefile\nshow:\n\t@for o in {names}; do eval echo "$$o=\\$$$$o"; done\n')
    return ['-f', str(file), 'show']


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ('ROW=8', 'unknown variable ROW; did you mean ROWS?'),
        ('root=/x', 'unknown variable root; known are ROWS DATA'),
        ('DRY=2', 'DRY=2 must be 1 or 0'),
    ],
)
def test_mistakes(given, message):
    ran = make('help', given)
    assert ran.returncode == 2 and message in ran.stderr


def lines_of(text):
    return dict(line.split('=', 1) for line in text.splitlines())


def test_nothing_comes_from_the_environment(shown):
    junk = dict(ROWS='9', DATA='junk', ROOT='/junk', SET='junk', DEVICES='7', DRY='1', PYTHON='junk')
    found = lines_of(make(*shown, **junk).stdout)
    assert found == dict(ROWS='all', DATA='phantom', ROOT='', SET='', DEVICES='', DRY='', PYTHON='python3')


def test_no_means_no(shown):
    assert {o: lines_of(make(*shown, f'DRY={o}').stdout)['DRY'] for o in ('0', 'no', '1')} == {
        '0': '',
        'no': '',
        '1': '1',
    }


@pytest.mark.parametrize('value', HOSTILE)
def test_values_are_text(shown, value):
    ran = make(*shown, f'ROOT={value}', f'PYTHON={value}')
    found = lines_of(ran.stdout)
    assert found['ROOT'] == found['PYTHON'] == value, ran.stderr
    assert not (ROOT / 'made').exists()


@pytest.mark.parametrize('value', HOSTILE)
def test_snakemake_gets_the_text(value):
    "What Snakemake parses as YAML, and what its jobs get through a shell, is the text that was given"
    names = 'ROWS DATA ROOT SET PLUGINS PRESET DEVICES DRY JOBS'.split()
    given = dict.fromkeys(names, '') | dict(PROFILE='local', ROOT=value, DEVICES='0,1')
    command = snakemake_command('study', 'rows', given)
    assert command[command.index('--cores') + 1] == '2'
    config = command[-1].removeprefix('given=')
    assert not set(config) & set('\'"$`;# ()')
    assert json.loads(unquote(config))['root'] == value
