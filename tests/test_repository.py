"The state of the repository: what `make export` writes is written, and nothing is committed that must not be."

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from checkout import copy_checkout
from readme import ROOT, render

from cxrlt_nb.datasets import CREDENTIALED

BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(ROOT.glob('nbs/*.ipynb'))
# A path, a patient or a study as MIMIC-CXR writes them. A phantom's ids begin with 9.
MIMIC_ID = re.compile(r'files/p1\d/|\bp1\d{7}\b|\bs5\d{7}\b')


def outputs(nb):
    return json.dumps([c.get('outputs', []) for c in nb.cells if c.cell_type == 'code'])


def forbidden(nb):
    "What must keep this notebook out of the repository"
    said = outputs(nb)
    return [
        why
        for why, found in [
            ('output of a run on credentialed data', CREDENTIALED in said),
            ('an id in the form of MIMIC-CXR', MIMIC_ID.search(said)),
        ]
        if found
    ]


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the tracked and new files, to export and clean without touching the checkout"
    return copy_checkout(tmp_path_factory.mktemp('copy'))


def test_modules_are_exported(copy):
    for o in copy.glob('cxrlt_nb/*.py'):
        if o.name != '__init__.py':
            o.unlink()
    subprocess.run([BIN / 'nbdev-export'], cwd=copy, check=True, capture_output=True)
    new, old = ({o.name: o.read_text() for o in (d / 'cxrlt_nb').glob('*.py')} for d in (copy, ROOT))
    assert sorted(new) == sorted(old), 'modules and notebooks differ in number; run `make export`'
    assert [k for k in new if new[k] != old[k]] == [], 'modules out of step with their notebooks; run `make export`'


def test_notebooks_are_clean(copy):
    before = {o.name: o.read_text() for o in copy.glob('nbs/*.ipynb')}
    subprocess.run([BIN / 'nbdev-clean'], cwd=copy, check=True, capture_output=True)
    assert [o.name for o in copy.glob('nbs/*.ipynb') if o.read_text() != before[o.name]] == [], (
        'not clean; run `make export`'
    )


def test_readme_is_fresh():
    assert (ROOT / 'README.md').read_text() == render(), 'README.md is stale; run `make export`'


def test_citation_is_of_this_version():
    version = re.search(r'^version = (.+)$', (ROOT / 'settings.ini').read_text(), re.M)[1]
    assert f'\nversion: {version}\n' in (ROOT / 'CITATION.cff').read_text()


def test_public_names_are_documented():
    bare = []
    for file in ROOT.glob('cxrlt_nb/*.py'):
        tree = ast.parse(file.read_text())
        public = next(
            (
                ast.literal_eval(o.value)
                for o in tree.body
                if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__'
            ),
            [],
        )
        bare += [
            f'{file.stem}.{o.name}'
            for o in tree.body
            if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and o.name in public and not ast.get_docstring(o)
        ]
    assert bare == []


@pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda o: o.name)
def test_title_cell_holds_nothing_else(file):
    "nbdev makes the page's front matter of the first cell and drops whatever follows"
    assert re.fullmatch(r'# .+\n\n?> .+\n?', nbformat.read(file, 4).cells[0].source)


def test_parameters_tag():
    tagged = [
        c for c in nbformat.read(ROOT / 'nbs/05_train.ipynb', 4).cells if 'parameters' in c.metadata.get('tags', [])
    ]
    assert len(tagged) == 1, 'the parameters tag is gone: papermill would ignore every -p'


@pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda o: o.name)
def test_notebook_may_be_committed(file):
    assert file.stat().st_size <= 400_000, f'{file.name} is larger than 400 KB'
    assert forbidden(nbformat.read(file, 4)) == []


def test_planted_credentialed_output_is_refused():
    "The check above must be able to fail"
    cell = lambda text: nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell('x', outputs=[nbformat.v4.new_output('stream', text=text)])]
    )
    assert forbidden(cell(f'UserWarning: {CREDENTIALED}: show no row'))
    assert forbidden(cell('files/p10/p10000032/s50414267/x.jpg')) and forbidden(cell('patient p10000032'))
    assert not forbidden(cell('files/p90/p90000001/s90000001/x.jpg, mAP 0.150000321'))
