"The training notebook and the command line as people run them: real papermill, real kernels, a tiny training."

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from checkout import ROOT
from sklearn.metrics import roc_auc_score

from cxrlt_nb.runs import _code_fingerprint, _modules_of

BIN, NOTEBOOK = Path(sys.executable).parent, ROOT / 'nbs/05_train.ipynb'


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    return tmp_path_factory.mktemp('home')


def run(home, program, *args, cwd=ROOT):
    "Run a program of the environment; `IN_TEST` keeps what is not given tiny"
    env = os.environ | dict(CXRLT_HOME=str(home), IN_TEST='1', JUPYTER_PREFER_ENV_PATH='1')
    command = [BIN / program, *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def papermill(home, *args, **kwargs):
    return run(home, 'papermill', NOTEBOOK, *args, **kwargs)


def cxrlt(home, *args):
    "Run the command line as the module, which needs no installed script"
    return run(home, 'python', '-W', 'ignore', '-c', 'from cxrlt_nb.cli import _program; _program()', *args)


def last_line(text):
    return text.strip().splitlines()[-1]


# papermill


@pytest.fixture(scope='module')
def first(home, tmp_path_factory):
    "A run by papermill without an output path, from another folder"
    done = papermill(home, '-p', 'size', 40, cwd=tmp_path_factory.mktemp('elsewhere'))
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = [o.parent for o in home.glob('runs/*/record.json')]
    return folder


def test_size_is_passed_and_recorded(first):
    record = json.loads((first / 'record.json').read_text())
    assert record['parameters']['size'] == 40
    cells = [o.source for o in nbformat.read(NOTEBOOK, 4).cells if o.cell_type == 'code']
    assert record['code'] == _code_fingerprint(_modules_of(*cells)), 'the run has imported other modules than it states'
    names = {o.name for o in first.iterdir()}
    assert names >= {'parameters.json', 'history.csv', 'metrics.json', 'weights.safetensors', 'predictions'}
    assert not {'checkpoint.pt', 'seconds.json'} & names
    test = pd.read_parquet(first / 'predictions/test.parquet')
    assert len(test) == record['rows']['test'] and list(test.columns) == record['data']['labels']


def test_the_same_again_is_done_already(home, first, tmp_path):
    before = (first / 'record.json').read_text()
    again = papermill(home, tmp_path / 'again.ipynb', '-p', 'size', 40)
    assert again.returncode == 0 and 'nothing left to do' in (tmp_path / 'again.ipynb').read_text()
    assert (first / 'record.json').read_text() == before
    assert len(list(home.glob('runs/*/record.json'))) == 1


@pytest.mark.parametrize(
    'name, value, message',
    [
        ('sise', 40, "unknown parameter 'sise'; did you mean 'size'?"),
    ],
)
def test_mistakes_are_named(home, tmp_path, name, value, message):
    failed = papermill(home, tmp_path / 'x.ipynb', '-p', name, value)
    assert failed.returncode != 0 and message in failed.stderr


# cxrlt


@pytest.fixture(scope='module')
def two(home, first, tmp_path_factory):
    "The training of `first` once more, by cxrlt, in another folder"
    again = tmp_path_factory.mktemp('two') / 'again'
    done = cxrlt(home, 'train', '--size', 40, '-p', 'seed', 0, '--out', again)
    assert done.returncode == 0, done.stderr
    assert 'held out: mAP' in done.stdout and not done.stderr, done.stderr
    return first, again


def test_help_is_fast(home):
    start = time.time()
    done = cxrlt(home, '--help')
    assert done.returncode == 0 and time.time() - start < 2
    assert all(
        o in done.stdout for o in ('train', 'predict', 'evaluate', 'transfer', 'compare', 'thresholds', 'submit')
    )


def test_same_seed_same_numbers(two):
    a, b = two
    assert (a / 'metrics.json').read_text() == (b / 'metrics.json').read_text()
    frames = [pd.read_parquet(o / 'predictions/test.parquet') for o in two]
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_the_folder_of_the_run_holds_the_executed_notebook(home, two):
    cells = nbformat.read(two[1] / 'notebook.ipynb', 4).cells
    assert any(o.cell_type == 'markdown' for o in cells)
    assert all(o.execution_count for o in cells if o.cell_type == 'code' and o.source.strip())
    assert '<progress' not in (two[1] / 'notebook.ipynb').read_text()


def test_a_finished_training_is_not_run_again(home, two):
    before = (two[1] / 'notebook.ipynb').stat().st_mtime_ns
    done = cxrlt(home, 'train', '--size', 40, '--seed', 0, '--out', two[1])
    assert done.returncode == 0 and 'is finished already' in done.stdout
    assert (two[1] / 'notebook.ipynb').stat().st_mtime_ns == before


def test_predict_and_submit(home, two, tmp_path):
    root = next(home.glob('data/phantom-*'))
    out = tmp_path / 'out.parquet'
    done = cxrlt(home, 'predict', *two, root / 'test.csv', out)
    assert done.returncode == 0 and '26 labels; 2 run(s), each image and its mirror' in done.stdout, done.stderr
    p, said = pd.read_parquet(out), json.loads((tmp_path / 'out.json').read_text())
    assert said['tta'] == 'prob' and [o['run'] for o in said['runs']] == [o.name for o in two]
    done = cxrlt(home, 'submit', out, root / 'test.csv', tmp_path / 'submission.zip')
    assert done.returncode == 0, done.stderr
    submission = pd.read_csv(tmp_path / 'submission.zip')
    assert len(submission) == len(p) and submission.shape[1] == 27


def test_operating_points_belong_to_their_runs(home, two, tmp_path):
    root = next(home.glob('data/phantom-*'))
    points = json.loads((two[0] / 'operating_points.json').read_text())
    learned = tmp_path / 'points.json'
    done = cxrlt(home, 'thresholds', two[0], learned)
    assert done.returncode == 0 and 'of 26 labels by f1, youden' in done.stdout, done.stderr
    assert json.loads(learned.read_text()) == points, 'a run alone learns the same again'
    points['tta']['Edema']['rules'] = dict(f1=dict(threshold=0.2))
    learned.write_text(json.dumps(points))
    done = cxrlt(home, 'predict', two[0], root / 'test.csv', tmp_path / 'o.csv', '--thresholds', learned)
    assert done.returncode == 0, done.stderr
    p, decided = (pd.read_csv(tmp_path / o, index_col='image_id') for o in ('o.csv', 'o.decisions.csv'))
    assert (decided.Edema == (p.Edema >= 0.2)).all() and decided.drop(columns='Edema').isna().all(axis=None)
    points['runs'] = {'another': 16 * '0'}
    learned.write_text(json.dumps(points))
    done = cxrlt(home, 'predict', two[0], root / 'test.csv', tmp_path / 'o.csv', '--thresholds', learned)
    assert done.returncode == 1 and 'was made for the weights of another' in done.stderr


def test_compare_two_runs(home, two, tmp_path):
    done = cxrlt(home, 'compare', *two, '--n', 50, '--out', tmp_path)
    assert done.returncode == 0, done.stderr
    row = next(o for o in done.stdout.splitlines() if o.startswith('map')).split()
    held_out = json.loads((two[0] / 'metrics.json').read_text())['held out']['map']['value']
    assert [float(o) for o in row[1:4]] == pytest.approx([held_out, held_out, 0], abs=1e-3), 'the same seed twice'
    table = pd.read_csv(tmp_path / 'comparison.csv')
    assert table.model.unique().tolist() == ['again'] and table.against.unique().tolist() == [two[0].name]
    assert (table.p_holm.dropna() >= table.p.dropna()).all()


def test_transfer_to_another_data_set(home, two, tmp_path):
    "Two runs on their own phantom, and on a table of its test images with other names of columns"
    root, ours = next(home.glob('data/phantom-*')), tmp_path / 'ours'
    ours.mkdir()
    (ours / 'files').symlink_to(root / 'files')
    parts = {o: pd.read_csv(root / f'{o}.csv') for o in ('train', 'development', 'test')}
    test = parts['test']
    patients = {o: test.subject_id[test[o] == 1].nunique() for o in test.columns[6:]}
    labels = sorted(patients, key=patients.get)[-3:]
    table = test[labels].assign(Image=test.path, **{'Patient ID': test.subject_id}, Gout=np.arange(len(test)) % 2)
    table.to_csv(ours / 'export.csv', index=False)
    given = ['--on', f'phantom:{root}', '--on', f'csv:{ours / "export.csv"}', '--n', 50, '--out', tmp_path / 't.csv']
    done = cxrlt(home, 'transfer', *two, *given)
    assert done.returncode == 0 and re.search('left out, not in .*: Gout', done.stdout), done.stdout + done.stderr
    t = pd.read_csv(tmp_path / 't.csv')
    held_out = len(parts['development']) + len(test)
    assert t.groupby('data').images.first().to_dict() == {f'phantom:{root.name}': held_out, 'csv:export.csv': len(test)}
    assert t.groupby('data').own.all().tolist() == [False, True] and set(t.finding) <= {'macro', *labels}
    same = t.groupby(['data', 'metric', 'finding']).value.nunique()
    assert (same == 1).all(), 'the runs have the same seed'
    given = ['--on', f'csv:{ours / "export.csv"}', '--n', 50, '--out', tmp_path / 'one.csv', '--no-tta']
    predicted = cxrlt(home, 'predict', two[0], ours / 'export.csv', tmp_path / 'p.csv', '--no-tta')
    scored = cxrlt(home, 'transfer', two[0], *given)
    assert predicted.returncode == scored.returncode == 0, predicted.stderr + scored.stderr
    p = pd.read_csv(tmp_path / 'p.csv', index_col='image_id').loc[table.Image]
    one = pd.read_csv(tmp_path / 'one.csv').query('metric == "mauc"').set_index('finding').value
    for label in [o for o in labels if o in one]:
        assert one[label] == pytest.approx(roc_auc_score(table[label], p[label]), abs=1e-6)


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "Made-up predictions of two models, and labels: the first model is worse for images in AP view"
    folder, rng, n = tmp_path_factory.mktemp('files'), np.random.default_rng(0), 900
    ids, findings = [f'i{k}' for k in range(n)], ['Pleural Effusion', 'Mass']
    y = rng.random((n, 2)) < [0.3, 0.15]
    view = rng.choice(['AP', 'PA'], n)
    skill = np.where(view == 'AP', 0.5, 2.5)[:, None]
    for name, gain in (('ours', skill), ('theirs', 0.2)):
        p = 1 / (1 + np.exp(2 - gain * y - rng.normal(size=y.shape)))
        index = pd.Index([f'{o}.png' for o in ids], name='Image Index')
        pd.DataFrame(p, index, ['prob_Effusion', 'prob_Mass']).to_csv(folder / f'{name}.csv')
    labels = pd.DataFrame(y.astype(float), pd.Index(ids, name='image_id'), findings)
    labels.iloc[0, 1] = -1
    labels.assign(who=[f'p{k // 3}' for k in range(n)], view=view).to_csv(folder / 'labels.csv')
    return folder


def test_evaluate_predictions(home, files, tmp_path):
    ours, theirs, labels = (files / f'{o}.csv' for o in ('ours', 'theirs', 'labels'))
    options = ['--patients', 'who', '--by', 'view', '--threshold', 0.3, '--n', 400, '--out', tmp_path]
    done = cxrlt(home, 'evaluate', ours, '--labels', labels, '--against', theirs, *options)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert '900 images (300 patients), 2 findings, labels of labels.csv' in done.stdout
    names = {'metrics.csv', 'groups.csv', 'comparison.csv', 'reliability.csv', 'evaluation.json', 'evaluation.html'}
    assert {o.name for o in tmp_path.iterdir()} == names
    y, p = pd.read_csv(labels, index_col=0), pd.read_csv(ours, index_col=0)
    metrics = pd.read_csv(tmp_path / 'metrics.csv', index_col='finding')
    assert metrics.n['Mass'] == 899
    assert metrics.auc['Mass'] == pytest.approx(roc_auc_score(y.Mass[1:], p.prob_Mass[1:]), abs=1e-9)
    groups = pd.read_csv(tmp_path / 'groups.csv')
    gap = groups[(groups.finding == 'macro') & (groups.metric == 'mauc') & groups.gap.notna()].iloc[0]
    assert (gap.gap_high < 0 or gap.gap_low > 0) and gap.p_holm < 0.05
    comparison = pd.read_csv(tmp_path / 'comparison.csv')
    assert comparison.difference[0] > 0 and comparison.low[0] > 0


def test_the_page_of_an_evaluation_opens_offline(home, files, tmp_path):
    done = cxrlt(home, 'evaluate', files / 'ours.csv', '--labels', files / 'labels.csv', '--n', 50, '--out', tmp_path)
    assert done.returncode == 0 and 'each its own patient' in done.stdout, done.stderr
    page = (tmp_path / 'evaluation.html').read_text()
    headings = ['Summary', 'The long tail', 'Reliability', 'Groups', 'Comparison', 'What was scored']
    assert re.findall(r'<h2[^>]*>(.*?)</h2>', page) == headings
    images = re.findall(r'<img[^>]*>', page)
    assert len(images) >= 3 and all('src="data:image/png;base64,' in o and 'alt="' in o for o in images)
    assert '<script' not in page and '<link' not in page and 'Made-up' not in page
    assert 'Mass: 1 uncertain label, 0 missing' in page


@pytest.mark.parametrize(
    'args, code, message',
    [
        (['train', '--sise', 40], 2, 'unknown argument --sise; did you mean --size?'),
        (['train', '--size', 'large'], 2, "parameter 'size' is 'large'"),
        (['train', '--data', 'nih', '--root', '/nowhere'], 1, '/nowhere'),
        (['predict', '/nowhere', '/nowhere', 'out.parquet'], 1, 'cxrlt predict: /nowhere has no record.json'),
    ],
)
def test_exit_codes(home, args, code, message):
    done = cxrlt(home, *args)
    assert done.returncode == code and message in last_line(done.stderr)
    assert 'Traceback' not in done.stderr and (code == 2 or len(done.stderr.splitlines()) == 1)
