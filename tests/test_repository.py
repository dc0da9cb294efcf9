"The state of the repository: generated files are up to date, the style holds, nothing is committed that must not be."

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from configparser import ConfigParser
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import nbformat
import pytest
import readme
from checkout import ROOT, copy_checkout

from cxrlt_nb.datasets import CREDENTIALED
from cxrlt_nb.phantom.release import _dicom_id

BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(o for o in ROOT.glob('nbs/**/*.ipynb') if '.ipynb_checkpoints' not in o.parts)
MODULES = sorted(o for o in ROOT.glob('cxrlt_nb/**/*.py') if o.stem not in ('__init__', '_modidx'))
SCRIPTS = sorted([*ROOT.glob('tests/*.py'), *ROOT.glob('scripts/*.py'), *ROOT.glob('docs/*.py'), ROOT / 'setup.py'])
SOURCES = ['nbs', 'cxrlt_nb', 'tests', 'scripts', 'docs', 'setup.py']

MAX_LINE, MAX_MODULE_LINES, MAX_MODULES, MAX_NAMES, MAX_BYTES = 120, 300, 38, 245, 400_000
PARAMETRISED = ['05_train', 'study/04_report', 'study/06_evaluate_page', 'study/07_stock_fastai']
PARAMETRISED += [f'bench/{o}' for o in ('01_input', '02_training', '03_evaluation', '04_gpu', '06_scale')]

# Words that CONTRIBUTING.md replaces, each as a regular expression.
RETIRED = [
    r'films?',
    r'guess(es|ed|ing)?',
    r'recipes?',
    r'toys?',
    r'twins?',
    r'whoever',
    r'brush(es)?',
    r'relit|relight',
    r'(is|are) wanted',
    r'one row an image',
    r'killed',
    r'honest(ly)?',
    r'deserves?',
    r'no doubt',
    r'no matter what',
]
# Ids as the data sets write them that must not be shown. The phantom's patients and studies begin with 9. The folder of
# a run ends in its seed and eight hexadecimal digits, which can all be decimal.
IDS = {
    'a path of MIMIC-CXR': r'files/p1\d/',
    'a patient of MIMIC-CXR': r'(?<![A-Za-z0-9.])(?<!seed\d-)p?1\d{7}(?![A-Za-z0-9]|\.\d)',
    'a study of MIMIC-CXR': r'(?<![A-Za-z0-9.])(?<!seed\d-)s?5\d{7}(?![A-Za-z0-9]|\.\d)',
    'an image of MIMIC-CXR': r'\b[0-9a-f]{8}(?:-[0-9a-f]{8}){4}\b',
    'a patient of CheXpert': r'patient\d{5}/study\d',
    'an id of PadChest': r'(?<![\d.])\d{30,}',
    'an image of VinDr-CXR': r'(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])',
}
# Images of the phantom have ids in the form of MIMIC-CXR.
PHANTOM_IMAGES = {_dicom_id(seed, image) for seed in range(3) for image in range(2000)}
# Folders of one person's machine.
LOCAL_PATH = re.compile(r'(?<![\w.…])/(?:work|root|home/\w+)/[\w.]')

each_notebook = pytest.mark.parametrize('file', NOTEBOOKS, ids=lambda o: o.relative_to(ROOT / 'nbs').as_posix())


def read(file):
    return nbformat.read(file, 4)


def run(*command, cwd=ROOT):
    return subprocess.run([BIN / command[0], *command[1:]], cwd=cwd, capture_output=True, text=True)


def name_of(module):
    "`cxrlt_nb/phantom/canvas.py` is called `phantom.canvas`"
    return '.'.join(module.relative_to(ROOT / 'cxrlt_nb').with_suffix('').parts)


def long_name(file):
    return file.relative_to(ROOT).as_posix()


# Generated files


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
    "A copy of the checkout in which the modules have been written again and the notebooks cleaned"
    copy = copy_checkout(tmp_path_factory.mktemp('copy'))
    for o in copy.glob('cxrlt_nb/**/*.py'):
        if o.name != '__init__.py':
            o.unlink()
    for command in (['nbdev-export'], ['ruff', 'format', '--quiet', 'cxrlt_nb'], ['nbdev-clean']):
        ran = run(*command, cwd=copy)
        assert ran.returncode == 0, ran.stderr[-3000:]
    return copy


def texts(folder, pattern):
    return {o.relative_to(folder).as_posix(): o.read_text() for o in folder.glob(pattern)}


def test_modules_are_exported(exported):
    new, committed = texts(exported, 'cxrlt_nb/**/*.py'), texts(ROOT, 'cxrlt_nb/**/*.py')
    assert sorted(new) == sorted(committed), 'a module has no notebook, or the reverse: run `make export`'
    assert [k for k in new if new[k] != committed[k]] == [], 'modules differ from their notebooks: run `make export`'


def test_notebooks_are_clean(exported):
    changed = [o for o in NOTEBOOKS if (exported / o.relative_to(ROOT)).read_text() != o.read_text()]
    assert [o.name for o in changed] == [], 'run `make export`'


def test_readme_is_fresh():
    assert (ROOT / 'README.md').read_text() == readme.render(), 'README.md differs from index.ipynb: run `make export`'


def settings():
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(ROOT / 'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def test_one_version_everywhere():
    version = settings()['version']
    assert f'\nversion: {version}\n' in (ROOT / 'CITATION.cff').read_text()
    assert f'\n## {version}' in (ROOT / 'CHANGELOG.md').read_text()


def test_every_dependency_has_a_reason():
    "CONTRIBUTING.md says what each requirement of settings.ini is for"
    groups = [v for k, v in settings().items() if k.endswith('requirements')]
    names = {re.match(r'[\w-]+', o.strip())[0] for v in groups for o in v.splitlines() if o.strip()}
    explained = set(re.findall(r'^\| `([\w-]+)` \|', (ROOT / 'CONTRIBUTING.md').read_text(), re.M))
    assert names - explained == set()


def test_the_table_of_changes_names_what_exists():
    "“To change X, edit Y” in CONTRIBUTING.md: Y is a public name of the notebook that the line links to"
    lines = re.findall(
        r'^\| [^|`]+ \| `(\w+)`[^|]* \| \[nbs/([\w/]+\.ipynb)\]', (ROOT / 'CONTRIBUTING.md').read_text(), re.M
    )
    homes = {notebook_of(o).as_posix(): public_names(o) for o in MODULES}
    assert len(lines) >= 10
    assert [name for name, notebook in lines if name not in homes[notebook]] == []


def test_make_help_lists_every_target():
    makefile = (ROOT / 'Makefile').read_text()
    phony = {o for line in re.findall(r'^\.PHONY: (.+)', makefile, re.M) for o in line.split() if '/' not in o}
    ran = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert phony <= set(re.findall(r'^make ([\w-]+) +\w', ran.stdout, re.M))


# Style


def test_format():
    ran = run('ruff', 'format', '--check', *SOURCES)
    assert ran.returncode == 0, f'run `make format`\n{ran.stdout}'


def test_lint():
    ran = run('ruff', 'check', '--output-format', 'concise', *SOURCES)
    assert ran.returncode == 0, ran.stdout


def code_of(file):
    "The lines of code of a file; of a notebook, of its code cells"
    if file.suffix != '.ipynb':
        return file.read_text().splitlines()
    return [line for c in read(file).cells if c.cell_type == 'code' for line in c.source.splitlines()]


def test_no_long_lines():
    "120 columns, except for addresses; a longer caption is in the metadata of its cell"
    files = [*MODULES, *NOTEBOOKS, *SCRIPTS, ROOT / 'Snakefile']
    long = [
        f'{long_name(file)}: {line[:80]}…'
        for file in files
        for line in code_of(file)
        if len(line) > MAX_LINE and not re.search('https?://', line)
    ]
    assert not long, '\n' + '\n'.join(long)


def prose_and_code(file):
    "The text that a person wrote"
    if file.suffix != '.ipynb':
        return file.read_text()
    return '\n'.join(c.source for c in read(file).cells)


def retired_words(text):
    return [m[0] for m in re.finditer(rf'\b({"|".join(RETIRED)})\b', text, re.I)]


def test_images_stand_on_pages_only():
    "Neither radiographs nor a phantom may be committed; a run that went astray would leave some"
    command = ['git', 'ls-files', '--cached', '--others', '--exclude-standard']
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    images = [o for o in names if Path(o).suffix.lower() in ('.jpg', '.jpeg', '.png', '.dcm') and (ROOT / o).exists()]
    assert [o for o in images if not o.startswith('nbs/images/')] == []


def test_retired_words_do_not_come_back():
    pages = [*ROOT.glob('nbs/*.qmd'), ROOT / 'README.md', ROOT / 'Makefile', ROOT / 'Snakefile', ROOT / 'settings.ini']
    files = [*NOTEBOOKS, *MODULES, *pages, *(o for o in SCRIPTS if o != Path(__file__).resolve())]
    found = {long_name(o): Counter(retired_words(prose_and_code(o))) for o in files}
    assert {k: dict(v) for k, v in found.items() if v} == {}


def test_a_retired_word_is_found():
    "The check above must be able to fail"
    assert retired_words('Two Films, drawn by guessing') == ['Films', 'guessing']
    assert retired_words('a path is wanted, one row an image') == ['is wanted', 'one row an image']
    assert not retired_words('filmography, wanted, an image per row')


@each_notebook
def test_title_cell_holds_nothing_else(file):
    "nbdev makes the front matter of a page from the first cell, and drops what follows the description"
    assert re.fullmatch(r'# .+\n\n?> .+\n?', read(file).cells[0].source)


def test_every_page_has_one_title():
    titles = Counter(read(o).cells[0].source.splitlines()[0] for o in NOTEBOOKS)
    assert [k for k, n in titles.items() if n > 1] == []


# Public names and modules


def public_names(module):
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', '') == '__all__':
            return ast.literal_eval(node.value)
    return []


def test_number_of_modules_and_names():
    counts = {name_of(o): len(public_names(o)) for o in MODULES}
    assert len(counts) <= MAX_MODULES, sorted(counts)
    assert sum(counts.values()) <= MAX_NAMES, counts


def test_no_two_public_names_collide():
    homes = {}
    for module in MODULES:
        for name in public_names(module):
            homes.setdefault(name, []).append(name_of(module))
    assert {k: v for k, v in homes.items() if len(v) > 1} == {}
    assert homes.keys() & {o.stem for o in MODULES} == set(), 'a function and a module share a name'


def test_public_names_are_documented():
    bare = []
    for module in MODULES:
        public = public_names(module)
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
                bare += [] if ast.get_docstring(node) else [f'{name_of(module)}.{node.name}']
    assert bare == []


def imports_of(module):
    "The modules of the package that a module imports, at its top or inside a function"
    known, package = {name_of(o) for o in MODULES}, ['cxrlt_nb', *name_of(module).split('.')[:-1]]
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            found.update(o.name for o in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = '.'.join([*above, *([node.module] if node.module else [])])
            found.update([base, *(f'{base}.{o.name}' for o in node.names)])
    return {o.removeprefix('cxrlt_nb.') for o in found if o.startswith('cxrlt_nb.')} & known


def test_no_import_cycle():
    graph = {name_of(o): imports_of(o) for o in MODULES}
    assert graph['study.table2'], 'imports are not found'
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f'modules import each other: {" → ".join(error.args[1])}')


def notebook_of(module):
    source = re.search(r'File to edit: ([./\w]+\.ipynb)', module.read_text())[1]
    return (module.parent / source).resolve().relative_to(ROOT / 'nbs')


def place(notebook):
    "Where a notebook stands in the order of imports: the phantom follows the tables, studies and benchmarks come late"
    number = notebook.name.partition('_')[0]
    folder = notebook.parent.as_posix()
    return dict(phantom=('00c', number), study=('07s', number), bench=('09', number)).get(folder, (number, ''))


def test_imports_go_one_way():
    "A module imports only modules of notebooks that come before its own, or of the same number"
    order = {name_of(o): place(notebook_of(o)) for o in MODULES}
    back = [f'{a} imports {b}' for o in MODULES for a in [name_of(o)] for b in imports_of(o) if order[b] > order[a]]
    assert back == []


@pytest.mark.parametrize('module', MODULES, ids=name_of)
def test_a_long_module_says_why(module):
    "300 formatted lines, or a sentence with “300 lines” in its notebook"
    if len(module.read_text().splitlines()) > MAX_MODULE_LINES:
        cells = read(ROOT / 'nbs' / notebook_of(module)).cells
        assert any('300 lines' in c.source for c in cells if c.cell_type == 'markdown')


# What may be committed


def shown_by(output):
    "The texts of one output: printed, shown, or of an error"
    yield from (output.get('text', ''), output.get('evalue', ''), *output.get('traceback', []))
    for kind, content in output.get('data', {}).items():
        if kind not in ('image/png', 'image/jpeg'):
            yield content if isinstance(content, str) else json.dumps(content)


def outputs(nb):
    "All texts that a notebook shows, without the colours of a terminal"
    cells = [c for c in nb.cells if c.cell_type == 'code']
    text = '\n'.join(text for c in cells for o in c.get('outputs', []) for text in shown_by(o))
    return re.sub(r'\x1b\[[\d;]*m', '', text)


def ids_in(text):
    "The kinds of ids in a text, but for those of the phantom"
    text = re.sub(IDS['an image of MIMIC-CXR'], lambda o: '' if o[0] in PHANTOM_IMAGES else o[0], text)
    return [kind for kind, pattern in IDS.items() if re.search(pattern, text)]


def reasons_to_refuse(nb):
    "Why a notebook must stay out of the repository"
    text = outputs(nb)
    found = {
        'the output of a run on credentialed data': CREDENTIALED in text,
        'a path of one machine': LOCAL_PATH.search(text + prose_of(nb)),
    }
    return [reason for reason, is_so in found.items() if is_so] + ids_in(text)


def prose_of(nb):
    return json.dumps([c.source for c in nb.cells])


@each_notebook
def test_notebook_may_be_committed(file):
    assert file.stat().st_size <= MAX_BYTES, f'{file.name} is larger than {MAX_BYTES // 1000} KB'
    assert reasons_to_refuse(read(file)) == []


def notebook_that_prints(text):
    output = nbformat.v4.new_output('stream', text=text)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('x', outputs=[output])])


def notebook_that_shows(text):
    output = nbformat.v4.new_output('execute_result', data={'text/html': f'<td>{text}</td>'}, execution_count=1)
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('x', outputs=[output])])


def notebook_that_fails(text):
    output = nbformat.v4.new_output(
        'error', ename='KeyError', evalue='x', traceback=[f'\x1b[31mKeyError\x1b[39m: \x1b[1m{text}\x1b[0m']
    )
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('x', outputs=[output])])


PLANTED = [
    f'UserWarning: {CREDENTIALED}: show no row',
    'files/p10/p10000032/s50414267/x.jpg',
    'p10000032',
    '10000032',
    's50414267',
    '50414267',
    '02aa804e-bde0afdd-112c0b34-7bc16630-4e384014',
    'CheXpert-v1.0/train/patient00001/study1/view1_frontal.jpg',
    '20536686640136348236148679891455886468_k6ga29.png',
    '50a418190bc3fb1ef1633bf9678929b3',
    '/home/someone/runs/a',
    '/root/data',
]


@pytest.mark.parametrize('notebook', [notebook_that_prints, notebook_that_shows, notebook_that_fails])
@pytest.mark.parametrize('text', PLANTED)
def test_a_forbidden_output_is_refused(text, notebook):
    "The check above must be able to fail"
    assert reasons_to_refuse(notebook(text))
    assert reasons_to_refuse(notebook(f'row 3\n{text}\tPA'))


def test_an_output_of_the_phantom_is_not_refused():
    fine = f'files/p90/p90000001/s90000001/{min(PHANTOM_IMAGES)}.jpg, mAP 0.150000321, loss 1.50000321e-05, 15,000,321'
    assert not reasons_to_refuse(notebook_that_prints(fine))


@pytest.mark.parametrize('name', PARAMETRISED)
def test_parameters_tag(name):
    "Without the tag papermill would ignore every -p"
    tagged = [c for c in read(ROOT / f'nbs/{name}.ipynb').cells if 'parameters' in c.metadata.get('tags', [])]
    assert len(tagged) == 1
