"The training notebook as a person runs it: real papermill, real kernels. `IN_TEST` keeps what is left open tiny."

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from checkout import ROOT

from cxrlt_nb.runs import code_cells, code_fingerprint, modules_of

BIN = Path(sys.executable).parent


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    return tmp_path_factory.mktemp('home')


def papermill(home, *args, cwd=ROOT):
    env = dict(os.environ, CXRLT_HOME=str(home), IN_TEST='1', JUPYTER_PREFER_ENV_PATH='1')
    return subprocess.run(
        [BIN / 'papermill', ROOT / 'nbs/05_train.ipynb', *map(str, args)],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def only_run(home):
    runs = [o for o in (home / 'runs').iterdir() if (o / 'record.json').exists()]
    assert len(runs) == 1
    return runs[0]


def test_size_is_passed_and_recorded(home, tmp_path):
    done = papermill(home, '-p', 'size', 40, cwd=tmp_path)  # no output path, and from another folder
    assert done.returncode == 0, done.stderr[-2000:]
    run = only_run(home)
    record = json.loads((run / 'record.json').read_text())
    assert record['parameters']['size'] == 40
    assert record['code'] == code_fingerprint(modules_of(*code_cells(ROOT / 'nbs/05_train.ipynb'))), (
        'what it has loaded is not what was known before'
    )
    assert {o.name for o in run.iterdir()} >= {
        'parameters.json',
        'history.csv',
        'metrics.json',
        'weights.safetensors',
        'notebook.ipynb',
        'predictions',
    }
    assert not (run / 'checkpoint.pt').exists()
    test = pd.read_parquet(run / 'predictions/test.parquet')
    assert len(test) == record['rows']['test'] and list(test.columns) == record['data']['labels']
    assert '<progress' not in (run / 'notebook.ipynb').read_text()


def test_the_same_again_is_done_already_and_another_seed_is_not(home):
    before = (only_run(home) / 'record.json').read_text()
    again = papermill(home, home / 'again.ipynb', '-p', 'size', 40)
    assert again.returncode == 0 and 'nothing left to do' in (home / 'again.ipynb').read_text()
    assert (only_run(home) / 'record.json').read_text() == before


def test_same_seed_same_numbers(home, tmp_path):
    for o in 'ab':
        assert (
            papermill(
                home, tmp_path / f'{o}.ipynb', '-p', 'size', 40, '-p', 'seed', 3, '-p', 'out', tmp_path / o
            ).returncode
            == 0
        )
    a, b = (tmp_path / o for o in 'ab')
    assert (a / 'metrics.json').read_text() == (b / 'metrics.json').read_text()
    pd.testing.assert_frame_equal(
        pd.read_parquet(a / 'predictions/test.parquet'),
        pd.read_parquet(b / 'predictions/test.parquet'),
        check_exact=True,
    )


@pytest.mark.parametrize(
    'args, said',
    [
        (['sise', 40], "unknown parameter 'sise'; did you mean 'size'?"),
        (['size', 'large'], "parameter 'size' is 'large'; int or nothing is wanted"),
        (['fold', 7], 'the folds are 0 to 4'),
        (['arch', 'efficientnet_v2s'], "arch='efficientnet_v2s' is not among"),
        (['weights', 'nowhere.safetensors'], 'nor a file that exists'),
        (['data', 'mimic'], "unknown data 'mimic'"),
    ],
    ids=lambda o: o[0] if isinstance(o, list) else '',
)
def test_mistakes_are_named(home, tmp_path, args, said):
    failed = papermill(home, tmp_path / 'x.ipynb', '-p', *args)
    assert failed.returncode != 0 and said in failed.stderr
