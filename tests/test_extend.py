"""Everything can be added from outside the package: one entry in one registry, in a module that `plugins` names.

The module below adds a loss, a mixing transform, a dataset, a preset, a backbone with its stand-in, a metric, a
callback, and a row of Table 2 at a size that the table does not have. A training and a study then use them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from checkout import ROOT

BIN = Path(sys.executable).parent
PLUGIN = """
import dataclasses

import torch
from fastai.callback.core import Callback

from cxrlt_nb.ablation import TABLE2, Row
from cxrlt_nb.augment import MIXERS, Mixer
from cxrlt_nb.config import PRESETS
from cxrlt_nb.datasets import DATASETS, read_cxrlt
from cxrlt_nb.learner import CALLBACKS
from cxrlt_nb.losses import LOSSES, BinaryCrossEntropyFlat
from cxrlt_nb.metrics import METRICS, Metric
from cxrlt_nb.models import BACKBONES, Backbone


class HalfBCE(BinaryCrossEntropyFlat):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) / 2


class LeftRight(Mixer):
    'The left half of an image beside the right half of another'

    def mix(self, xb, index, generator):
        mixed, middle = xb[index[:, 0]].clone(), xb.shape[-1] // 2
        mixed[..., middle:] = xb[index[:, 1]][..., middle:]
        return mixed, torch.full((len(index), 2), 0.5), None


def brier_score(y_true, y_score):
    return ((y_score - y_true) ** 2).mean()


class CountBatches(Callback):
    def __init__(self, folder):
        self.file, self.n = folder / 'batches.txt', 0

    def after_batch(self):
        self.n += self.training

    def after_fit(self):
        self.file.write_text(str(self.n))


def read_ours(root, **options):
    return dataclasses.replace(read_cxrlt(root, **options), source='ours', credentialed=False)


LOSSES['half_bce'] = HalfBCE
MIXERS['left_right'] = LeftRight
DATASETS['ours'] = read_ours
PRESETS['sketch'] = PRESETS['demo'] | dict(arch='test_resnet', size=32, epochs=2, bs=16, budget=4e5)
BACKBONES['resnet50'] = Backbone(tag='a1_in1k', stand_ins=dict(demo='test_resnet'))
METRICS['brier'] = Metric(brier_score, 'Brier score', 'mean Brier score')
CALLBACKS['count_batches'] = CountBatches
TABLE2[11] = Row('resnet50', 336, tta=True)
"""
CHOSEN = dict(data='ours', preset='sketch', loss='half_bce', left_right=0.5, metrics='brier', callbacks='count_batches')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A working folder with the plugin and a small release"
    from cxrlt_nb.phantom.release import write_phantom

    folder = tmp_path_factory.mktemp('extend')
    (folder / 'our_plugin.py').write_text(PLUGIN)
    write_phantom(folder / 'release', train=150, development=30, test=60, size=32)
    return folder


def run(folder, *command):
    "Run a command in the folder"
    env = os.environ | dict(CXRLT_HOME=str(folder), JUPYTER_PREFER_ENV_PATH='1', PYTHONPATH=f'{ROOT}:{folder}')
    env.pop('IN_TEST', None)
    return subprocess.run(list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture(scope='module')
def trained(folder):
    "The folder of a training that uses all that the plugin adds"
    command = [BIN / 'papermill', ROOT / 'nbs/05_train.ipynb', folder / 'executed.ipynb', '-p', 'plugins', 'our_plugin']
    for name, value in (CHOSEN | dict(root=folder / 'release', threads=1, out=folder / 'run')).items():
        command += ['-p', name, value]
    done = run(folder, *command)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / 'run'


@pytest.fixture(scope='module')
def record(trained):
    return json.loads((trained / 'record.json').read_text())


def test_a_loss(record):
    assert record['parameters']['loss'] == 'half_bce'


def test_a_mixing_transform(folder, record):
    assert record['parameters']['left_right'] == 0.5
    outputs = [
        o.get('text', '') for c in nbformat.read(folder / 'executed.ipynb', 4).cells for o in c.get('outputs', [])
    ]
    assert any('LeftRight' in o for o in outputs)


def test_a_dataset(record):
    assert (record['parameters']['data'], record['data']['source']) == ('ours', 'ours')


def test_a_preset(record):
    p = record['parameters']
    assert (p['preset'], p['size'], p['epochs'], p['bs'], p['budget']) == ('sketch', 32, 2, 16, 4e5)


def test_a_metric(trained):
    values = pd.read_csv(trained / 'history.csv')['mean Brier score']
    assert len(values) == 2 and values.between(0, 1).all()


def test_a_callback(trained, record):
    batches = record['parameters']['images'] // record['parameters']['bs']
    assert (trained / 'batches.txt').read_text() == str(2 * batches)


def test_the_plugin_is_part_of_the_fingerprint(folder, monkeypatch):
    from cxrlt_nb.runs import folders

    monkeypatch.syspath_prepend(folder)
    names = []
    for text in (PLUGIN, PLUGIN + '# a remark', PLUGIN.replace('/ 2', '/ 3')):
        (folder / 'our_plugin.py').write_text(text)
        names.append(folders({'x': dict(plugins='our_plugin')}, ROOT / 'nbs/05_train.ipynb')['x'])
    (folder / 'our_plugin.py').write_text(PLUGIN)
    assert names[0] == names[1] != names[2]


def test_predictions_load_the_plugin(folder, trained):
    code = 'from cxrlt_nb.cli import _program; _program()'
    done = run(
        folder, sys.executable, '-c', code, 'predict', trained, folder / 'release/test.csv', folder / 'p.parquet'
    )
    assert done.returncode == 0, done.stderr
    assert len(pd.read_parquet(folder / 'p.parquet')) == len(pd.read_csv(folder / 'release/test.csv'))


TRAININGS = """
from cxrlt_nb.ablation import study_preset, trainings
from cxrlt_nb.config import load_plugins
load_plugins('our_plugin')
import json
print(json.dumps([trainings(11, preset=study_preset('table2', o)) for o in ('demo', 'paper')]))
"""


def test_a_backbone_with_its_stand_in_and_a_size_that_table_2_lacks(folder):
    done = run(folder, sys.executable, '-c', TRAININGS)
    assert done.returncode == 0, done.stderr
    demo, paper = [next(iter(o.values())) for o in json.loads(done.stdout)]
    assert (demo['arch'], demo['size']) == ('test_resnet', 48)  # a seventh of 336
    assert (paper['arch'], paper['size']) == ('resnet50', 336)


def test_a_row_of_table_2(folder):
    config = ['preset=demo', 'rows=11', 'plugins=our_plugin', 'set=threads=1']
    command = [BIN / 'snakemake', '--profile', ROOT / 'profiles/local', '--snakefile', ROOT / 'Snakefile', '--cores', 1]
    done = run(folder, *command, '--dry-run', '--directory', folder, '--config', *config)
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    assert 'train test_resnet-48px-fold0' in done.stdout + done.stderr


def test_a_name_that_no_plugin_has_added(folder):
    code = 'from cxrlt_nb.cli import _program; _program()'
    done = run(folder, sys.executable, '-c', code, 'train', '--plugins', 'our_plugin', '--loss', 'half_bec')
    assert done.returncode == 2 and "did you mean 'half_bce'?" in done.stderr
