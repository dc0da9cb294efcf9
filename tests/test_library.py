"The package as somebody else's library: in their loops, at their import times, for their type checker, and out of a wheel."

import ast
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from checkout import copy_checkout
from readme import ROOT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cxrlt_nb.losses import BinaryFocalLossFlat

BIN = Path(sys.executable).parent


@pytest.fixture
def rows():
    "Eight features, three findings: one common, one rarer, one rare; each can be read off the features"
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 8, generator=g)
    return x, torch.stack([x[:, 0] > 0, x[:, 1] > 1, x[:, 2] > 2], 1).float()


def ranks_well(probs, y):
    from cxrlt_nb.metrics import METRICS

    return METRICS['mauc'].macro(y.numpy(), probs.numpy()) > 0.97


def test_in_a_plain_loop(rows):
    x, y = rows
    torch.manual_seed(0)
    model, loss_func = nn.Linear(8, 3), BinaryFocalLossFlat()
    opt = torch.optim.Adam(model.parameters(), lr=0.03)
    assert not ranks_well(loss_func.activation(model(x)).detach(), y)
    for _ in range(3):
        for xb, yb in DataLoader(TensorDataset(x, y), batch_size=100, shuffle=True):
            loss_func(model(xb), yb).backward()
            opt.step()
            opt.zero_grad()
    assert ranks_well(loss_func.activation(model(x)).detach(), y)


def test_in_a_fastai_loop(rows):
    from fastai.callback.progress import ProgressCallback
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader as FastaiLoader
    from fastai.learner import Learner

    x, y = rows
    torch.manual_seed(0)
    pairs = list(zip(x, y))
    dls = DataLoaders(
        FastaiLoader(pairs[:1500], bs=100, shuffle=True), FastaiLoader(pairs[1500:], bs=100), device=torch.device('cpu')
    )
    learn = Learner(dls, nn.Linear(8, 3), loss_func=BinaryFocalLossFlat()).remove_cb(ProgressCallback)
    with learn.no_logging():
        learn.fit(4, 0.03)
    probs, targets = learn.get_preds()  # by `activation`: probabilities, not logits
    assert probs.min() >= 0 and probs.max() <= 1 and ranks_well(probs, targets)
    _, _, named = learn.get_preds(with_decoded=True)  # by `decodes`
    assert named.dtype == torch.bool and torch.equal(named, probs > 0.5)


def on_page(page):
    "The names that a page's Python leaves when it is run as it stands"
    names = {}
    exec('\n'.join(re.findall(r'^```python\n(.*?)^```', (ROOT / 'nbs' / page).read_text(), re.M | re.S)), names)
    return names


def test_the_loop_in_the_faq():
    said = on_page('faq.qmd')
    assert 0 < said['loss'].item() < 1 and said['model'].weight.grad.abs().sum() > 0
    assert set(said['opt'].state) == set(said['model'].parameters())  # Adam has made a step with each


def test_the_reader_on_the_page_about_own_data(tmp_path, monkeypatch):
    from cxrlt_nb import sources

    monkeypatch.setattr(sources, 'READERS', dict(sources.READERS))
    labels = on_page('own_data.qmd')['LABELS']
    rows = pd.DataFrame(
        [
            dict(image=f'i{k}', exam=f'e{k // 2}', patient=f'p{k // 4}')
            | {o: k // 2 % 3 == j for j, o in enumerate(labels)}
            for k in range(400)
        ]
    )
    rows = rows.astype({o: int for o in labels})
    rows.to_csv(tmp_path / 'export.csv', index=False)
    with pytest.warns(UserWarning, match=sources.CREDENTIALED):
        table = sources.read_source('ours', tmp_path)
    assert (
        table.credentialed and table.labels == labels and (table.df[labels].to_numpy() == rows[labels].to_numpy()).all()
    )
    share = table.df.split.value_counts(normalize=True)
    assert abs(share['train'] - 0.7) < 0.03 and abs(share['test'] - 0.2) < 0.03
    assert (table.df.groupby('patient_id').split.nunique() == 1).all()
    rows.assign(Cardiomegaly=rows.Cardiomegaly.where(rows.index != 5, 2)).to_csv(tmp_path / 'export.csv', index=False)
    with pytest.raises(ValueError, match='row 5.*Cardiomegaly|Cardiomegaly.*row 5'):
        sources.read_source('ours', tmp_path)


def fresh(code):
    "What a new interpreter prints"
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    return subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout


LIGHT = {'losses': 'torch', 'metrics': 'sklearn.metrics, pandas', 'folds': 'sklearn.metrics, pandas'}


@pytest.mark.parametrize('module', LIGHT)
def test_imports_nothing_heavy(module):
    loaded = fresh(
        f'import sys; import cxrlt_nb.{module}; print(" ".join(sorted({{o.partition(".")[0] for o in sys.modules}})))'
    ).split()
    assert not {'fastai', 'timm', 'torchvision', 'IPython', 'papermill'} & set(loaded)
    assert module == 'losses' or 'torch' not in loaded


def test_the_package_itself_imports_nothing():
    assert fresh(
        'import sys; before = set(sys.modules); import cxrlt_nb; print(*(set(sys.modules) - before))'
    ).split() == ['cxrlt_nb']


@pytest.mark.parametrize('module', LIGHT)
def test_import_time(module):
    "CPU seconds of an import, the least of three, against those of the library below it"
    took = lambda what: min(
        float(fresh(f'import time; t = time.process_time(); import {what}; print(time.process_time() - t)'))
        for _ in range(3)
    )
    ours, theirs = took(f'cxrlt_nb.{module}'), took(LIGHT[module])
    assert ours < 1.5 * theirs, f'cxrlt_nb.{module} {ours:.2f} s, {LIGHT[module]} {theirs:.2f} s'


USE = """
import numpy as np, pandas as pd, torch
from pathlib import Path
from torch import Tensor
from cxrlt_nb.folds import kfold
from cxrlt_nb.intervals import bootstrap
from cxrlt_nb.losses import BinaryFocalLossFlat, binary_focal_loss, make_loss
from cxrlt_nb.metrics import METRICS
from cxrlt_nb.datasets import read_source
from cxrlt_nb.table import StudyTable

loss: Tensor = binary_focal_loss(torch.zeros(2, 3), torch.zeros(2, 3), gamma=2.)
module: torch.nn.Module = make_loss('focal', gamma=2.)
table: StudyTable = read_source('phantom', Path('x'))
frame: pd.DataFrame = table.df
mAP: float = METRICS['map'].macro(frame, frame)
"""
WRONG = USE + "binary_focal_loss('logits', 3)\ntable.labels.no_such_method()\n"


@pytest.fixture(scope='module')
def stubs(tmp_path_factory):
    "The public surface as mypy's stubgen reads it: signatures and annotations, without what stands in the functions"
    at = tmp_path_factory.mktemp('stubs')
    subprocess.run([BIN / 'stubgen', '--quiet', '-p', 'cxrlt_nb', '-o', at], cwd=ROOT, check=True, capture_output=True)
    for module in at.glob('cxrlt_nb/*.pyi'):  # a `main` is a command: what argparse needs is no type
        module.write_text(
            '\n'.join(o for o in module.read_text().split('\n') if 'def main(' not in o and '@call_parse' not in o)
        )
    (at / 'cxrlt_nb/_modidx.pyi').unlink(missing_ok=True)
    return at


def mypy(at, code=None):
    "mypy's exit code and words for the stubs, or for code that uses them"
    if code is not None:
        (at / 'use.py').write_text(code)
    what = 'cxrlt_nb' if code is None else 'use.py'
    r = subprocess.run(
        [
            BIN / 'mypy',
            '--python-executable',
            sys.executable,
            '--ignore-missing-imports',
            '--follow-imports',
            'silent',
            what,
        ],
        cwd=at,
        capture_output=True,
        text=True,
    )
    return r.returncode, r.stdout + r.stderr


def test_types_of_the_public_surface(stubs):
    code, said = mypy(stubs)
    assert code == 0, said
    code, said = mypy(stubs, USE)
    assert code == 0, said
    code, said = mypy(stubs, WRONG)
    assert code == 1 and 'arg-type' in said and 'attr-defined' in said, said


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel of a copy of the tracked and new files, so that no folder of a build is left in the checkout"
    at = tmp_path_factory.mktemp('wheel')
    subprocess.run(
        [BIN / 'uv', 'build', '--quiet', '--wheel', '-o', at, copy_checkout(at / 'src', without=['nbs/', 'tests/'])],
        check=True,
        capture_output=True,
    )
    return next(at.glob('*.whl'))


def test_wheel_holds_the_package_and_nothing_else(wheel):
    names = {o for o in zipfile.ZipFile(wheel).namelist() if not o.split('/')[0].endswith('.dist-info')}
    assert names == {f'cxrlt_nb/{o.name}' for o in (ROOT / 'cxrlt_nb').glob('*.py')} | {'cxrlt_nb/py.typed'}


def test_wheel_names_what_the_package_imports(wheel):
    "Every third-party import of the package is a declared requirement, and every requirement is used or runs the notebooks"
    meta = next(o for o in zipfile.ZipFile(wheel).namelist() if o.endswith('METADATA'))
    lines = zipfile.ZipFile(wheel).read(meta).decode().split('\n')
    needs = {
        o.split(':')[1].split('>')[0].strip() for o in lines if o.startswith('Requires-Dist') and 'extra ==' not in o
    }
    named = {
        'fastprogress': 'fastai',
        'fasttransform': 'fastai',
        'PIL': 'pillow',
        'sklearn': 'scikit-learn',
        'iterstrat': 'iterative-stratification',
        'IPython': 'ipykernel',
        'jupyter_client': 'ipykernel',
        'nbformat': 'papermill',
        'yaml': 'papermill',
        'nbclient': 'papermill',
    }
    used = set()
    for f in (ROOT / 'cxrlt_nb').glob('*.py'):
        for o in ast.walk(ast.parse(f.read_text())):
            if isinstance(o, ast.Import):
                used |= {a.name.partition('.')[0] for a in o.names}
            if isinstance(o, ast.ImportFrom) and not o.level:
                used.add(o.module.partition('.')[0])
    used = {named.get(o, o) for o in used if o not in sys.stdlib_module_names and o != 'cxrlt_nb'}
    assert used - needs - {'torchxrayvision'} == set()
    assert needs - used <= {'papermill', 'ipykernel', 'torchvision', 'joblib', 'accelerate'}


def test_wheel_works_in_an_empty_environment(wheel, tmp_path):
    "With what it requires, in the versions of the lock, and nothing else: every module can be imported, the command answers"
    venv.create(tmp_path / 'env', with_pip=False)
    python = tmp_path / 'env/bin/python'
    subprocess.run(
        [
            BIN / 'uv',
            'pip',
            'install',
            '--quiet',
            '--constraint',
            ROOT / 'requirements.lock',
            '--python',
            python,
            wheel,
        ],
        check=True,
    )
    code = 'import cxrlt_nb, importlib, pkgutil; print(cxrlt_nb.__version__, *(importlib.import_module(f"cxrlt_nb.{o.name}").__file__ for o in pkgutil.iter_modules(cxrlt_nb.__path__)))'
    version, *files = subprocess.run(
        [python, '-I', '-c', code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert version in wheel.name and all(str(tmp_path) in o for o in files)
    assert {Path(o).name for o in files} | {'__init__.py'} == {o.name for o in (ROOT / 'cxrlt_nb').glob('*.py')}
    assert (
        'runs [runs ...] images out'
        in subprocess.run(
            [python, '-I', tmp_path / 'env/bin/cxrlt_predict', '--help'], capture_output=True, text=True, check=True
        ).stdout
    )
