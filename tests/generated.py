"""Random parameters, command lines, make variables and prediction files: `make test-faults CASES=300`

Each case ends in what an independent computation says, or in one message that names the parameter, argument or file.
"""

import csv
import io
import math
import os
import random
import subprocess
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import matplotlib
import nbformat
import numpy as np
import pandas as pd
import pytest
from checkout import ROOT
from limits import cases, limited
from sklearn.metrics import average_precision_score

from cxrlt_nb import cli
from cxrlt_nb.config import TrainConfig, read_parameters
from cxrlt_nb.evaluate import write_evaluation
from cxrlt_nb.files import home

ODD = ['', ' ', 'x', 'nan', None, True, -1, 0, 1, 2, 17, 0.5, -0.0, 1e9, 1e-9, math.inf, math.nan, 2**70, '1', [], {}]
ODD += [
    '../../x',
    '/etc/passwd',
    '~',
    'a;b',
    '$(touch made)',
    "it's",
    'é\u202e',
    '\n',
    'package.module:name',
    'x' * 300,
]
PARAMETERS = {o.name: o for o in cli._parameters(ROOT / 'nbs/05_train.ipynb')}
#: Values that are right, with some that are only right together with others
RIGHT = dict(
    preset=['auto', 'demo', 'paper', 'laptop'],
    data=['phantom', 'nih', 'csv'],
    root=['', '/data'],
    labels=['', 'Mass;Nodule'],
    uncertain=[None, 'zero', 'ignore'],
    size=[32, 64, 224],
    resize=['squish', 'pad', 'crop'],
    augment=['none', 'basic', 'paper'],
    mixup=[0.0, 0.25, 1.0],
    fold=[0, 4, 'none'],
    n_folds=[2, 5],
    arch=['test_efficientnet', 'convnext_tiny'],
    weights=['scratch', 'pretrained'],
    loss=['focal', 'bce', 'asl'],
    epochs=[0, 1, 20],
    bs=[2, 64, 'auto'],
    lr=[1e-4, 0.01],
    images=[100, 2000],
    processes=[1, 2],
    seed=[0, 2**31],
    precision=['fp32', 'bf16'],
    threads=[1, 2],
    metrics=['', 'map'],
    out=['', 'somewhere'],
)


def is_of_kind(value, kind):
    "Whether a value is of the type that the parameters cell states"
    allowed = dict(int=(int,), float=(int, float), str=(str,), bool=(bool,))
    types = [t for name, types in allowed.items() if name in kind for t in types]
    right = isinstance(value, tuple(types)) and (not isinstance(value, bool) or 'bool' in kind)
    return right or (value is None and kind.startswith('Optional'))


def generated_parameters(rng):
    names = rng.sample(list(PARAMETERS), rng.randint(1, 4))
    given = {o: rng.choice(RIGHT.get(o, ODD) if rng.random() < 0.6 else ODD) for o in names}
    if rng.random() < 0.1:
        given[rng.choice(['sizes', 'Lr', 'batch_size', 'mixup2'])] = 1
    return given


def test_generated_parameters_are_taken_as_they_are_or_refused():
    accepted = 0
    for seed in range(cases(40)):
        given = generated_parameters(random.Random(seed))
        names = {name: o.default for name, o in PARAMETERS.items()} | given
        try:
            with limited(), redirect_stdout(io.StringIO()):
                p = read_parameters(names).resolve()
        except ValueError as e:
            said = str(e)
            assert any(o in said or repr(given[o])[:40] in said for o in given), f'{seed}: {given}: {said}'
            assert '\n' not in said and len(said) < 2000, f'{seed}: {said}'
            continue
        accepted += 1
        for name, value in given.items():
            assert name in PARAMETERS and is_of_kind(value, PARAMETERS[name].kind), f'{seed}: {name}={value!r}'
            assert not isinstance(value, float) or math.isfinite(value), f'{seed}: {name}={value!r}'
            open_value = value is None or value == 'auto'
            assert open_value or p[name] == value, f'{seed}: {name}={value!r} became {p[name]!r}'
    assert accepted > 2


def test_generated_command_lines_of_a_training_stay_in_the_folder_of_runs(tmp_path, monkeypatch):
    monkeypatch.setenv('CXRLT_HOME', str(tmp_path))
    for seed in range(cases(40)):
        given = {k: str(v) for k, v in generated_parameters(random.Random(seed)).items() if k in PARAMETERS}
        typed = {k: cli._value(v, PARAMETERS[k].kind) for k, v in given.items()}
        try:
            _, folder = cli._training_folder(typed)
        except (ValueError, FileNotFoundError) as e:
            assert any(o in str(e) or given[o][:40] in str(e) for o in given), f'{seed}: {given}: {e}'
            continue
        TrainConfig(**typed)
        expected = Path(given['out']).resolve().parent if given.get('out') else home() / 'runs'
        assert folder.parent == expected or given['out'] in ('~', '.', '..'), f'{seed}: {given}: {folder}'


def test_generated_make_variables_reach_commands_as_text(tmp_path):
    file = tmp_path / 'makefile'
    file.write_text('include Makefile\nshow:\n\t@printf %s "$$ROOT"\n')
    alphabet = 'ab $()`"\'\\;#&|<>*?~!%^=:,@{}[]é\u202e\t'
    for seed in range(cases(15)):
        rng = random.Random(seed)
        value = ''.join(rng.choices(alphabet, k=rng.randint(1, 12))).lstrip()  # make itself removes blanks in front
        command = ['make', '--no-print-directory', '-f', str(file), 'show', f'ROOT={value}']
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0 and ran.stdout == value, f'{seed}: {value!r} became {ran.stdout!r} {ran.stderr}'
        name = rng.choice(['ROOTS', 'root', 'Rows', 'CASE', 'X', 'PATH2', 'MAKE_', 'SHELLS'])
        ran = subprocess.run([*command[:-1], f'{name}={value}'], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 2 and f'unknown variable {name}' in ran.stderr, f'{seed}: {name}'


IDS = [f'img{k}' for k in range(30)]
LABELS = ['Edema', 'Mass', 'Nodule']
CELLS = [
    '',
    ' ',
    'nan',
    'NA',
    'inf',
    '-inf',
    '1e400',
    'x',
    '0x1',
    '1_0',
    '٣',
    '0,5',
    '1',
    '0',
    '-1',
    '2',
    'True',
    'img1',
]
CELLS += ['"', '\n', '\0', '  0.5 ', '+0.5', '.5', '5e-1', '0.5.1', '0.25', '1.0', '7', '1e-9']


def table_text(rng, header, rows):
    "A csv file of which some cells, rows or bytes are changed"
    table = [header, *rows]
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        row, column = rng.randrange(len(table)), rng.randrange(len(header))
        table[row][column] = rng.choice([*CELLS, *header])
    if rng.random() < 0.06:
        table.insert(rng.randrange(len(table)), list(rng.choice(table)))
    if rng.random() < 0.06:
        table.pop(rng.randrange(len(table)))
    if rng.random() < 0.06:
        row = rng.randrange(len(table))
        table[row] = rng.choice([table[row][:-1], [*table[row], '0.5']])
    out = io.StringIO()
    csv.writer(out).writerows(table)
    data = bytearray(out.getvalue().encode(rng.choice(['utf-8'] * 12 + ['utf-8-sig', 'utf-16', 'latin-1']), 'replace'))
    if rng.random() < 0.15:
        at = rng.randrange(len(data))
        data[at : at + rng.randint(0, 2)] = rng.randbytes(rng.randint(0, 3))
    if rng.random() < 0.05:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def plain_table(data):
    "A csv file as Python's own reader sees it: rows of text by column; an error for what is no table"
    text = data.decode('utf-8-sig')
    header, *rows = [o for o in csv.reader(io.StringIO(text, newline=''), strict=True) if o]
    header = [o.strip() for o in header]
    assert '\0' not in text and len(set(header)) == len(header) and {len(o) for o in rows} == {len(header)}
    return [dict(zip(header, row)) for row in rows]


def expected_scores(predictions, labels):
    "Average precision by finding, computed without this package; an error if the files do not fit"
    y, s = plain_table(labels), plain_table(predictions)
    y, s = ({row['image_id'].strip().removesuffix('.png'): row for row in o} for o in (y, s))
    assert len(y) == len(plain_table(labels)) and len(s) == len(plain_table(predictions)) and set(y) == set(s)
    scores = {}
    for label in LABELS:
        if not any(row[label] in ('1', '1.0') for row in y.values()):
            continue
        known = [o for o in y if y[o][label].strip() in ('0', '1', '0.0', '1.0')]
        truth = [float(y[o][label]) for o in known]
        scores[label] = average_precision_score(truth, [float(s[o][label]) for o in known])
    return scores


def test_generated_prediction_files_are_scored_right_or_refused(tmp_path):
    scored, n = 0, cases(20)
    for seed in range(n):
        rng = random.Random(seed)
        truth = [[o, f'p{k // 2}', *(str(int(rng.random() < 0.4)) for _ in LABELS)] for k, o in enumerate(IDS)]
        told = [[o, *(f'{rng.random():.4f}' for _ in LABELS)] for o in rng.sample(IDS, len(IDS))]
        which, out = rng.random() < 0.3, tmp_path / f'out{seed}'
        labels = table_text(rng if which else random.Random(1), ['image_id', 'patient_id', *LABELS], truth)
        if not which:
            labels = '\n'.join(map(','.join, [['image_id', 'patient_id', *LABELS], *truth])).encode()
        predictions = table_text(rng, ['image_id', *LABELS], told)
        (tmp_path / 'labels.csv').write_bytes(labels)
        (tmp_path / 'predictions.csv').write_bytes(predictions)
        try:
            with limited(), warnings.catch_warnings():
                warnings.simplefilter('ignore')
                done = write_evaluation(tmp_path / 'predictions.csv', tmp_path / 'labels.csv', out, n=10)
        except (ValueError, FileNotFoundError) as e:
            assert 'predictions' in str(e) or 'labels.csv' in str(e), f'{seed}: {e}'
            assert not out.exists() or not list(out.iterdir()), f'{seed}: {list(out.iterdir())}'
            continue
        scored += 1
        expected = expected_scores(predictions, labels)
        found = done.metrics[done.metrics.kind == 'finding'].set_index('finding').ap.dropna().to_dict()
        assert found == pytest.approx(expected), f'{seed}: {found} {expected}'
    assert n // 10 < scored < n


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A finished run of a tiny model, three of its images, and what it predicts for them"
    tmp = tmp_path_factory.mktemp('home')
    os.environ |= dict(CXRLT_HOME=str(tmp), IN_TEST='1')
    matplotlib.use('Agg')
    code = [o for o in nbformat.read(ROOT / 'nbs/05_train.ipynb', 4).cells if o.cell_type == 'code']
    at = next(k for k, o in enumerate(code) if 'parameters' in o.metadata.get('tags', [])) + 1
    names = {'__name__': '__main__'}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        exec('\n'.join(o.source for o in code[:at]), names)
        names |= dict(out=str(tmp / 'run'), epochs=1, threads=1)
        exec('\n'.join(o.source for o in code[at:]), names)
    for file in sorted((tmp / 'data').glob('phantom-*/files/**/*.jpg'))[:3]:
        (tmp / 'images').mkdir(exist_ok=True)
        (tmp / 'images' / file.name).write_bytes(file.read_bytes())
    return tmp


WRONG = [
    '',
    ' ',
    '-1',
    '0',
    'x',
    'nan',
    '1e9',
    '/dev/null',
    '/dev/zero',
    'missing',
    'run',
    'images',
    'a/b/c.csv',
    '\n',
    'é' * 200,
]
WRONG += ['--', '-', '--help-me', '../out.csv', 'run/out.csv', '.csv', 'images.csv', "it's", '$(touch made)', '*']
FLAGS = {'--bs': '2', '--how': 'prob', '--tta-how': 'prob', '--dicom': 'view', '--cache': 'cache'}


def said_by(arguments):
    "Exit code and standard error of a command line"
    said = io.StringIO()
    with limited(), redirect_stdout(io.StringIO()), redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            code = cli.main(arguments)
        except SystemExit as e:
            code = e.code
    return code, said.getvalue()


def test_generated_command_lines_are_done_right_or_refused(run, monkeypatch):
    monkeypatch.chdir(run)
    (run / 'images.csv').write_text('image_id,path\n')
    assert said_by(['predict', 'run', 'images', 'whole.csv'])[0] == 0
    whole, done = pd.read_csv('whole.csv', index_col=0), 0
    before, caches = {o for o in run.rglob('*')}, [run / 'cache']
    for seed in range(n := cases(20)):
        rng = random.Random(seed)
        flags = {k: FLAGS[k] for k in rng.sample(list(FLAGS), rng.randint(0, 3))}
        arguments = ['predict', 'run', 'images', 'out.csv', *(o for pair in flags.items() for o in pair)]
        changed = None
        if rng.random() < 0.8:
            at, changed = rng.randrange(1, len(arguments)), rng.choice(WRONG)
            arguments[at : at + rng.choice([1, 1, 1, 0])] = [changed]
        code, said = said_by(arguments)
        if code == 0:
            out = Path(next(o for o in arguments if o.endswith('.csv') and o != 'images.csv'))
            done += 1
            np.testing.assert_allclose(pd.read_csv(out, index_col=0), whole, atol=1e-5, err_msg=f'{seed} {arguments}')
            for made in (out, out.with_suffix('.json'), out.with_suffix('.decisions.csv')):
                made.unlink(missing_ok=True)
        else:
            assert code in (1, 2) and changed is not None, f'{seed} {arguments}: {code} {said}'
            lines = said.strip().splitlines()
            error = lines[-1] if lines else ''
            assert 'Traceback' not in said and error.startswith('cxrlt'), f'{seed} {arguments}: {said}'
        if '--cache' in arguments[:-1]:
            caches.append(run / arguments[arguments.index('--cache') + 1])
        new = [o for o in set(run.rglob('*')) - before if not any(map(o.is_relative_to, caches))]
        assert not new, f'{seed} {arguments}: {new}'
    assert n // 10 < done < n
