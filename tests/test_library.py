"The package as a library: in other people's loops, import times, type checkers, and installed from a wheel."

import ast
import json
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
from checkout import ROOT, copy_checkout
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cxrlt_nb.losses import BinaryFocalLossFlat

BIN = Path(sys.executable).parent
MODULES = [o for o in (ROOT / 'cxrlt_nb').rglob('*.py') if o.stem != '_modidx']


# In other people's loops


@pytest.fixture
def rows():
    "Eight features and three findings (common, less common, rare) that can be read from the features"
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
    train, valid = FastaiLoader(pairs[:1500], bs=100, shuffle=True), FastaiLoader(pairs[1500:], bs=100)
    dls = DataLoaders(train, valid, device=torch.device('cpu'))
    learn = Learner(dls, nn.Linear(8, 3), loss_func=BinaryFocalLossFlat()).remove_cb(ProgressCallback)
    with learn.no_logging():
        learn.fit(4, 0.03)
    probs, targets = learn.get_preds()  # Applies `activation`: probabilities, not logits
    assert probs.min() >= 0 and probs.max() <= 1 and ranks_well(probs, targets)
    _, _, predicted = learn.get_preds(with_decoded=True)  # Applies `decodes`
    assert predicted.dtype == torch.bool and torch.equal(predicted, probs > 0.5)


# The code on the pages


def names_after(page):
    "The names that exist after the Python blocks of a page have been run"
    blocks = re.findall(r'^```python\n(.*?)^```', (ROOT / 'nbs' / page).read_text(), re.M | re.S)
    names = {}
    exec('\n'.join(blocks), names)
    return names


def test_code_of_the_faq():
    names = names_after('faq.qmd')
    assert 0 < names['loss'].item() < 1 and names['model'].weight.grad.abs().sum() > 0
    assert set(names['opt'].state) == set(names['model'].parameters())  # Adam has updated both


def test_code_of_the_page_on_table_2():
    assert len(names_after('reproduce.qmd')['needed']) == 10


@pytest.fixture
def our_export(tmp_path):
    "The csv file that the page on own data reads, and the registry with its reader"
    from cxrlt_nb import datasets

    before = dict(datasets.DATASETS)
    labels = names_after('own_data.qmd')['LABELS']
    ids = [dict(image=f'i{k}', exam=f'e{k // 2}', patient=f'p{k // 4}') for k in range(400)]
    values = [{label: int(k // 2 % 3 == j) for j, label in enumerate(labels)} for k in range(400)]
    df = pd.concat([pd.DataFrame(ids), pd.DataFrame(values)], axis=1)
    df.to_csv(tmp_path / 'export.csv', index=False)
    yield tmp_path, df, labels
    datasets.DATASETS.clear()
    datasets.DATASETS.update(before)


def test_code_of_the_page_on_own_data(our_export):
    from cxrlt_nb.datasets import CREDENTIALED, read_source

    folder, df, labels = our_export
    with pytest.warns(UserWarning, match=CREDENTIALED):
        table = read_source('ours', folder)
    assert table.credentialed and table.labels == labels
    assert (table.df[labels].to_numpy() == df[labels].to_numpy()).all()
    share = table.df.split.value_counts(normalize=True)
    assert abs(share['train'] - 0.7) < 0.03 and abs(share['test'] - 0.2) < 0.03
    assert (table.df.groupby('patient_id').split.nunique() == 1).all()


def test_the_reader_on_the_page_refuses_a_wrong_label(our_export):
    from cxrlt_nb.datasets import read_source

    folder, df, _ = our_export
    df.loc[5, 'Cardiomegaly'] = 2
    df.to_csv(folder / 'export.csv', index=False)
    with pytest.raises(ValueError, match='row 5.*Cardiomegaly|Cardiomegaly.*row 5'):
        read_source('ours', folder)


# Imports


def printed_by(code):
    "What a new interpreter prints"
    env = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1')
    command = [sys.executable, '-c', code]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


LIGHT = {'losses': 'torch', 'metrics': 'sklearn.metrics, pandas', 'folds': 'sklearn.metrics, pandas'}


@pytest.mark.parametrize('module', [*LIGHT, 'config', 'runs'])  # the last two name a wrong parameter at once
def test_imports_nothing_heavy(module):
    code = f'import sys; import cxrlt_nb.{module}; print(*sorted({{o.partition(".")[0] for o in sys.modules}}))'
    loaded = printed_by(code).split()
    assert not {'fastai', 'timm', 'torchvision', 'IPython', 'papermill'} & set(loaded)
    assert module == 'losses' or 'torch' not in loaded


def test_the_package_itself_imports_nothing():
    code = 'import sys; before = set(sys.modules); import cxrlt_nb; print(*(set(sys.modules) - before))'
    assert printed_by(code).split() == ['cxrlt_nb']


def import_seconds(what):
    "CPU seconds of an import, the least of three"
    code = f'import time; t = time.process_time(); import {what}; print(time.process_time() - t)'
    return min(float(printed_by(code)) for _ in range(3))


@pytest.mark.long
@pytest.mark.parametrize('module', LIGHT)
def test_import_time(module):
    "A module takes little more than the library that it needs"
    ours, theirs = import_seconds(f'cxrlt_nb.{module}'), import_seconds(LIGHT[module])
    assert ours < 1.5 * theirs, f'cxrlt_nb.{module} {ours:.2f} s, {LIGHT[module]} {theirs:.2f} s'


# Types

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


NO_TYPES = re.compile(r'def main\(|@call_parse|^    model_config\b')


def without_settings(stub):
    "A stub without the commands of fastcore and the settings of pydantic, which stubgen does not write as types"
    return '\n'.join(o for o in stub.split('\n') if not NO_TYPES.search(o))


@pytest.fixture(scope='module')
def stubs(tmp_path_factory):
    "The public signatures, as mypy's stubgen reads them"
    folder = tmp_path_factory.mktemp('stubs')
    command = [BIN / 'stubgen', '--quiet', '-p', 'cxrlt_nb', '-o', folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for stub in folder.glob('cxrlt_nb/**/*.pyi'):
        stub.write_text(without_settings(stub.read_text()))
    (folder / 'cxrlt_nb/_modidx.pyi').unlink(missing_ok=True)
    return folder


def mypy(folder, target):
    "The exit code and output of mypy"
    options = ['--python-executable', sys.executable, '--ignore-missing-imports', '--follow-imports', 'silent']
    ran = subprocess.run([BIN / 'mypy', *options, target], cwd=folder, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.parametrize(['code', 'errors'], [(USE, []), (WRONG, ['arg-type', 'attr-defined'])], ids=['use', 'wrong'])
def test_types_of_public_functions(stubs, code, errors):
    returned, output = mypy(stubs, 'cxrlt_nb')
    assert returned == 0, output
    (stubs / 'use.py').write_text(code)
    returned, output = mypy(stubs, 'use.py')
    assert returned == bool(errors) and all(o in output for o in errors), output


# The wheel


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "A wheel built from a copy of the checkout, so that no build folder is left behind"
    folder = tmp_path_factory.mktemp('wheel')
    source = copy_checkout(folder / 'source', without=['tests/'])
    command = [BIN / 'uv', 'build', '--quiet', '--wheel', '-o', folder, source]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob('*.whl'))


def test_wheel_contains_the_package_two_notebooks_and_nothing_else(wheel):
    names = {o for o in zipfile.ZipFile(wheel).namelist() if not o.split('/')[0].endswith('.dist-info')}
    package = [*(ROOT / 'cxrlt_nb').rglob('*.py'), ROOT / 'cxrlt_nb/py.typed']
    notebooks = {f'cxrlt_nb/notebooks/{o}.ipynb' for o in ('05_train', 'study/06_evaluate_page')}
    assert names == {o.relative_to(ROOT).as_posix() for o in package} | notebooks


# Packages whose import has another name, or that come with a requirement
PACKAGE_OF = {
    'IPython': 'ipykernel',
    'PIL': 'pillow',
    'fastprogress': 'fastai',
    'fasttransform': 'fastai',
    'iterstrat': 'iterative-stratification',
    'jupyter_client': 'ipykernel',
    'nbclient': 'papermill',
    'pytorch_grad_cam': 'grad-cam',
    'nbformat': 'papermill',
    'sklearn': 'scikit-learn',
    'yaml': 'pyyaml',
}
# Needed to run notebooks, or fixed to a version that fits torch
NOT_IMPORTED = {'papermill', 'ipykernel', 'torchvision', 'joblib', 'accelerate'}
OPTIONAL = {'pydicom', 'torchxrayvision', 'tensorboard', 'nbconvert', 'grad-cam'}


def imported_packages():
    "The packages that the modules import, at their top or inside functions"
    names = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                names.update(o.name.partition('.')[0] for o in node.names)
            if isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition('.')[0])
    others = names - set(sys.stdlib_module_names) - {'cxrlt_nb'}
    return {PACKAGE_OF.get(o, o) for o in others}


def test_wheel_requires_what_the_package_imports(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = next(o for o in archive.namelist() if o.endswith('METADATA'))
    lines = archive.read(metadata).decode().splitlines()
    required = {o for o in lines if o.startswith('Requires-Dist') and 'extra ==' not in o}
    required = {re.match(r'Requires-Dist: ([\w-]+)', o)[1] for o in required}
    assert imported_packages() - required - OPTIONAL == set()
    assert required - imported_packages() <= NOT_IMPORTED


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
    "The Python of an environment with the wheel and what it requires, in the locked versions"
    folder = tmp_path_factory.mktemp('installed')
    venv.create(folder, with_pip=False)
    python = folder / 'bin/python'
    command = [BIN / 'uv', 'pip', 'install', '--quiet', '--constraint', ROOT / 'requirements.lock', '--python', python]
    subprocess.run([*command, wheel], check=True)
    return python


def run_installed(python, *args, cwd):
    return subprocess.run([python, *args], cwd=cwd, capture_output=True, text=True, check=True).stdout


IMPORT_ALL = """
import importlib, json, pkgutil
import cxrlt_nb
names = [o.name for o in pkgutil.walk_packages(cxrlt_nb.__path__, 'cxrlt_nb.')]
files = [importlib.import_module(o).__file__ for o in names]
print(json.dumps([cxrlt_nb.__version__, [cxrlt_nb.__file__, *files]]))
"""


def test_every_module_can_be_imported_from_the_wheel(installed, wheel, tmp_path):
    version, files = json.loads(run_installed(installed, '-I', '-c', IMPORT_ALL, cwd=tmp_path))
    package = Path(files[0]).parent
    assert version in wheel.name and package.is_relative_to(installed.parent.parent)
    imported = {Path(o).relative_to(package).as_posix() for o in files}
    assert imported == {o.relative_to(ROOT / 'cxrlt_nb').as_posix() for o in (ROOT / 'cxrlt_nb').rglob('*.py')}


@pytest.mark.parametrize('command', ['train', 'predict'])
def test_the_command_works_from_the_wheel(installed, tmp_path, command):
    assert command in run_installed(installed.parent / 'cxrlt', '--help', cwd=tmp_path)
    assert run_installed(installed.parent / 'cxrlt', command, '--help', cwd=tmp_path)


def test_a_training_works_from_the_wheel(installed, tmp_path):
    env = os.environ | dict(CXRLT_HOME=str(tmp_path), IN_TEST='1')
    env.pop('PYTHONPATH', None)
    command = [installed.parent / 'cxrlt', 'train', '--size', '40', '--out', tmp_path / 'run']
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / 'run/record.json').read_text())
    assert record['parameters']['size'] == 40 and (tmp_path / 'run/notebook.ipynb').exists()


def test_the_data_block_works_from_the_wheel(installed, tmp_path):
    "The example of the README, in an environment with only the wheel"
    notebook = json.loads((ROOT / 'nbs/index.ipynb').read_text())
    cells = [''.join(c['source']) for c in notebook['cells'] if c['cell_type'] == 'code']
    cells = [o for o in cells if '#| echo: false' not in o]  # tables of results
    end = next(k for k, c in enumerate(cells) if 'fit_one_cycle' in c)
    script = tmp_path / 'example.py'
    script.write_text('\n'.join(cells[: end + 1]) + '\nprint("trained", learn.recorder.values[-1][0])\n')
    output = run_installed(installed, '-I', script, cwd=tmp_path)
    assert float(output.split('trained')[-1]) > 0
