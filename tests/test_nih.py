"Real radiographs on a CPU: the preset `laptop`, its weights, training on all patients, and the graph of the study."

import json
import os
import subprocess
import sys
from pathlib import Path

import nih_images
import numpy as np
import pandas as pd
import pytest
from checkout import ROOT
from fastcore.xtras import modified_env
from PIL import Image

from cxrlt_nb.datasets import read_nih
from cxrlt_nb.models import create_model
from cxrlt_nb.phantom.findings import draw

BIN = Path(sys.executable).parent
FINDINGS = ['Cardiomegaly', 'Effusion', 'Mass', 'No Finding']


@pytest.fixture(scope='module')
def release(tmp_path_factory):
    "A folder in the layout of NIH ChestX-ray14: 40 synthetic patients with two images each"
    root, rows = tmp_path_factory.mktemp('nih'), []
    (root / 'images').mkdir()
    for patient in range(40):
        finding = FINDINGS[patient % 4]
        drawn = finding.replace('Effusion', 'Pleural Effusion')
        for follow_up in range(2):
            name = f'{patient:08}_{follow_up:03}.png'
            image = draw([drawn], size=64, patient=patient, study=follow_up)
            Image.fromarray(image).save(root / 'images' / name)
            rows.append([name, finding, follow_up, patient, 50, 'F', 'PA', 64, 64])
    columns = ['Image Index', 'Finding Labels', 'Follow-up #', 'Patient ID', 'Patient Age', 'Patient Gender']
    columns += ['View Position', 'OriginalImage[Width', 'Height]']
    table = pd.DataFrame(rows, columns=columns)
    table.to_csv(root / 'Data_Entry_2017_v2020.csv', index=False)
    test = table['Image Index'][table['Patient ID'] >= 28]
    (root / 'test_list.txt').write_text('\n'.join(test))
    return root


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    return tmp_path_factory.mktemp('home')


def cxrlt(home, *args):
    env = os.environ | dict(CXRLT_HOME=str(home), IN_TEST='1', JUPYTER_PREFER_ENV_PATH='1')
    command = [sys.executable, '-W', 'ignore', '-c', 'from cxrlt_nb.cli import _program; _program()']
    return subprocess.run([*command, *map(str, args)], env=env, capture_output=True, text=True)


@pytest.fixture(scope='module')
def run(home, release):
    "A training on all training patients"
    out = home / 'runs/all'
    given = dict(data='nih', root=release, fold='none', bs=8, prior_bias=True, out=out)
    done = cxrlt(home, 'train', *(o for k, v in given.items() for o in (f'--{k}', v)))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def test_all_training_patients_are_learned_from(run):
    record = json.loads((run / 'record.json').read_text())
    assert record['parameters']['preset'] == 'laptop' and record['parameters']['loss'] == 'bce'
    rows = record['rows']
    assert rows['validation'] == 0 and sum(rows.values()) == 80
    assert {o.stem for o in (run / 'predictions').iterdir()} == {'development', 'test', 'targets'}
    history = pd.read_csv(run / 'history.csv')
    assert history.mAP.isna().all() and np.isfinite(history.train_loss).all()


def test_thresholds_need_a_validation_fold(home, run, tmp_path):
    done = cxrlt(home, 'thresholds', run, tmp_path / 'cut.json')
    assert done.returncode == 1 and 'fold none' in done.stderr, done.stderr


def script(home, name, *args):
    env = os.environ | dict(CXRLT_HOME=str(home))
    command = [sys.executable, '-W', 'ignore', ROOT / 'scripts' / name, *args]
    return subprocess.run([str(o) for o in command], env=env, capture_output=True, text=True)


def test_labels_of_radiologists_against_those_of_reports(home, release, run, tmp_path):
    "Radiologists who agree with every report but one"
    table = pd.read_csv(release / 'Data_Entry_2017_v2020.csv')
    table = table[table['Patient ID'] >= 28]
    labels = {o: np.where(table['Finding Labels'] == o, 'YES', 'NO') for o in FINDINGS[:3]}
    labels['Mass'][:1] = 'YES'
    experts = pd.DataFrame({'Image ID': table['Image Index'], 'Patient ID': table['Patient ID'], **labels})
    experts.to_csv(tmp_path / 'experts.csv', index=False)
    done = script(home, 'radiologists.py', tmp_path / 'experts.csv', run, '--out', tmp_path / 'out.csv')
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / 'out.csv', comment='#').set_index('finding')
    assert found.report['Mass'] == found.both['Mass'] == 6 and found.radiologist['Mass'] == 7
    assert found.kappa['Cardiomegaly'] == 1 and found.kappa['Mass'] < 1
    assert found.mauc_report['Cardiomegaly'] == found.mauc_radiologist['Cardiomegaly']


def test_heat_maps_against_boxes(home, release, run, tmp_path):
    "A box that covers the image is always hit, an empty one never"
    boxes = pd.DataFrame([['00000030_000.png', 'Mass', 0, 0, 1024, 1024], ['00000029_000.png', 'Effusion', 0, 0, 0, 0]])
    boxes.columns = ['Image Index', 'Finding Label', 'Bbox [x', 'y', 'w', 'h]']
    boxes.to_csv(tmp_path / 'boxes.csv', index=False)
    done = script(home, 'heat_maps.py', run, '--boxes', tmp_path / 'boxes.csv', '--out', tmp_path / 'out.csv')
    assert done.returncode == 0, done.stderr
    hits = pd.read_csv(tmp_path / 'out.csv', comment='#').query('method == "Grad-CAM"').set_index('finding').value
    assert hits.to_dict() == {'Mass': 1, 'Pleural Effusion': 0, 'all': 0.5}
    boxes.iloc[0, 0] = '00000001_000.png'  # a training image
    boxes.to_csv(tmp_path / 'boxes.csv', index=False)
    refused = script(home, 'heat_maps.py', run, '--boxes', tmp_path / 'boxes.csv', '--out', tmp_path / 'none.csv')
    assert refused.returncode != 0 and 'that are for training' in refused.stderr


def test_a_selection_is_made_from_a_download(release, tmp_path, monkeypatch):
    "The named images, shrunk, with their rows and NIH's test list; a missing one is named and nothing is written"
    names = [*(f'{patient:08}_000' for patient in range(16)), '00000030_001']
    wanted = pd.DataFrame(dict(image=names))
    wanted.to_csv(tmp_path / 'nih128_images.csv', index=False)
    monkeypatch.setattr(nih_images, 'RESULTS', tmp_path)
    nih_images.make_selection('nih128', release, tmp_path / 'made')
    df = read_nih(tmp_path / 'made').df.set_index('image_id')
    assert set(df.index[df.split == 'test']) == {'00000030_001.jpg'} and len(df) == 17
    assert df['Pleural Effusion'].to_dict()['00000001_000.jpg'] == 1 and df.Cardiomegaly.sum() == 4
    assert {Image.open(o).size for o in df.path} == {(128, 128)}
    pd.concat([wanted, wanted.assign(image='00009999_000')]).to_csv(tmp_path / 'nih128_images.csv', index=False)
    with pytest.raises(FileNotFoundError, match='17 of 34 images are missing, such as 00009999_000'):
        nih_images.make_selection('nih128', release, tmp_path / 'incomplete')
    assert not (tmp_path / 'incomplete').exists()


def test_weights_are_made_and_found(home):
    done = cxrlt(home, 'weights', 'efficientnet-lite0')
    assert done.returncode == 0 and Path(done.stdout.strip()).is_file(), done.stderr
    with modified_env(CXRLT_HOME=str(home)):
        record = create_model('tf_efficientnet_lite0', 15, 'pretrained')[1]
    assert record.name == 'tf_efficientnet_lite0.safetensors' and record.n_loaded == 294


@pytest.mark.long
def test_the_graph_of_a_study_on_real_radiographs(tmp_path, release):
    command = [BIN / 'snakemake', '--profile', ROOT / 'profiles/local', '--snakefile', ROOT / 'Snakefile']
    command += ['--cores', '2', '--dry-run', '--directory', tmp_path]
    command += ['--config', 'data=nih', f'root={release}', 'group=loss']
    env = os.environ | dict(CXRLT_HOME=str(tmp_path))
    done = subprocess.run([str(o) for o in command], env=env, capture_output=True, text=True)
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown[-3000:]
    assert 'write the ImageNet weights of tf_efficientnet_lite0' in shown, shown[-3000:]
    assert 'basic-seed2' in shown and 'focal-seed0' in shown
    assert 'bce-seed0' not in shown  # the preset laptop has this loss anyway
