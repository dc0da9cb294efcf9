"""The page “Your own data in ten minutes”, run from its text, and trainings on incomplete labels

Run by `make test-own-data` (five minutes): real trainings, some with ImageNet weights.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkout import ROOT
from PIL import Image

from cxrlt_nb.phantom.findings import draw

BIN = Path(sys.executable).parent
PAGE = (ROOT / 'nbs/ten_minutes.qmd').read_text()
#: A column of the table on the page → a finding of the phantom
FINDINGS = dict(Effusion='Pleural Effusion', Cardiomegaly='Cardiomegaly', Device='Support Devices')


def shell(command, folder):
    "Run a line of the page as a user would, in `folder`"
    env = os.environ | dict(CXRLT_HOME=str(folder), OMP_NUM_THREADS='2', PYTHONWARNINGS='ignore')
    env['PATH'] = f'{BIN}:{env["PATH"]}'
    return subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True)


def run(command, folder):
    done = shell(command, folder)
    assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout


def commands():
    "The commands of the page, in order; installing is left out"
    lines = re.findall(r'^\$ (cxrlt .*)$', PAGE, re.M)
    assert [o.split()[1] for o in lines] == ['weights', 'train', 'predict', 'sweep', 'evaluate']
    return lines


def write_dicom(pixels, path):
    "A gray image as a plain DICOM file without any name"
    pydicom = pytest.importorskip('pydicom')
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = (
        DigitalXRayImageStorageForPresentation,
        generate_uid(),
    )
    ds = pydicom.Dataset()
    ds.file_meta, ds.Modality = meta, 'DX'
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Rows, ds.Columns = pixels.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, 'MONOCHROME2'
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = pixels.tobytes()
    ds.save_as(path, enforce_file_format=True)


def write_data(folder, suffix, n=240):
    "The folder that the page describes, with images of the phantom: four per patient"
    rng = np.random.default_rng(0)
    (folder / 'ours/scans').mkdir(parents=True)
    (folder / 'new').mkdir()
    rows = []
    for k in range(n + 12):
        present = rng.random(3) < [0.35, 0.35, 0.4]
        pixels = draw([f for f, o in zip(FINDINGS.values(), present) if o], size=128, patient=k // 4, study=k)
        place = f'ours/scans/{k:04d}' if k < n else f'new/{k:04d}'
        write = write_dicom if suffix == 'dcm' else lambda o, path: Image.fromarray(o).save(path)
        write(pixels, folder / f'{place}.{suffix}')
        rows.append(dict(image=f'{k:04d}', patient=f'p{k // 4:03d}', **dict(zip(FINDINGS, present.astype(int)))))
    table = pd.DataFrame(rows)
    table[:n].to_csv(folder / 'ours/export.csv', index=False)
    table[n:].to_csv(folder / 'truth.csv', index=False)
    (folder / 'augmentation.yaml').write_text(re.search(r'```yaml\n(.*?)```', PAGE, re.S)[1])


def test_the_page_from_its_text(tmp_path):
    write_data(tmp_path, 'png')
    weights, train, predict, sweep, evaluate = commands()
    run(weights, tmp_path)
    assert 'held out: mAP' in run(train, tmp_path)
    run(predict, tmp_path)
    p = pd.read_csv(tmp_path / 'predictions.csv', dtype=dict(image_id=str), index_col='image_id')
    decisions = pd.read_csv(tmp_path / 'predictions.decisions.csv', dtype=dict(image_id=str), index_col='image_id')
    assert p.shape == decisions.shape == (12, 3) and set(p) == set(FINDINGS)
    assert set(decisions.stack().unique()) <= {0, 1}
    page = (tmp_path / 'page.html').read_text()
    assert page.count('<article') == 12 and page.count('data-map="Effusion"') == 12
    said = json.loads((tmp_path / 'predictions.json').read_text())
    assert said['rule'] == 'youden' and said['calibrated'] == 'validation'
    out = run(sweep, tmp_path)
    assert '6 trainings' in out and re.search(r'better|worse|cannot tell', out)
    assert len(pd.read_csv(tmp_path / 'runs/sweeps/augmentation/comparison.csv', comment='#')) > 0
    assert 'mean AP' in run(evaluate, tmp_path)


def test_the_same_from_dicom(tmp_path):
    write_data(tmp_path, 'dcm', n=160)
    _, train, predict, *_ = commands()
    run(f'{train} --arch test_efficientnet --weights scratch --size 64', tmp_path)
    run(predict, tmp_path)
    assert len(pd.read_csv(tmp_path / 'predictions.csv')) == 12


READER = """
from cxrlt_nb.datasets import read_cxrlt

def read_ours(root, seed=0):
    "A release like CXR-LT, by a reader that the package does not know"
    return read_cxrlt(root, seed=seed)
"""
TINY = '--arch test_efficientnet --weights scratch --threads 1'


def phantom(folder, **changes):
    "A phantom release of its own"
    from cxrlt_nb.phantom.release import write_phantom

    settings = dict(train=400, development=40, test=240, size=48, difficulty=0.1, label_noise=0.0) | changes
    write_phantom(folder / 'release', **settings)
    return folder / 'release'


def test_a_reader_from_outside(tmp_path):
    phantom(tmp_path, train=120)
    (tmp_path / 'our_data.py').write_text(READER)
    run(f'cxrlt train --data our_data:read_ours --root release {TINY} --size 32 --epochs 1 --out run', tmp_path)
    record = json.loads((tmp_path / 'run/record.json').read_text())
    assert record['parameters']['data'] == 'our_data:read_ours' and record['data']['source'] == 'phantom'
    done = shell(f'cxrlt train --data our_data:read_us --root release {TINY} --out other', tmp_path)
    assert done.returncode and 'read_us' in done.stderr and 'Traceback' not in done.stderr


@pytest.mark.parametrize('preset', ['demo', 'paper'])
def test_withheld_labels(tmp_path, preset):
    "A release as the challenge shipped it: no labels in development and test"
    root = phantom(tmp_path, train=120)
    labels = list(pd.read_csv(root / 'train.csv').columns[6:])
    for split in ('development', 'test'):
        df = pd.read_csv(root / f'{split}.csv')
        df.drop(columns=[o for o in labels if o in df]).to_csv(root / f'{split}.csv', index=False)
    given = f'--preset {preset} --weights scratch --precision fp32 --size 48 --images 64 --epochs 1 --bs 16'
    arch = '--arch test_efficientnet' if preset == 'demo' else ''
    run(f'cxrlt train --data cxrlt --root release {given} {arch} --out run', tmp_path)
    scores = json.loads((tmp_path / 'run/metrics.json').read_text())
    assert 'validation' in scores and not {'development', 'test', 'held out'} & set(scores)
    assert 'not scored' in (tmp_path / 'run/notebook.ipynb').read_text()
    run('cxrlt submit run/predictions/test.parquet release/test.csv submission.zip', tmp_path)
    assert len(pd.read_csv(tmp_path / 'submission.zip')) == len(pd.read_csv(root / 'test.csv'))


def test_unknown_labels_are_better_left_out_than_their_images(tmp_path):
    "40 % of the cells are unknown: the masked training beats the one on the images that are fully known"
    from cxrlt_nb.datasets import read_source

    findings = ['Cardiomegaly', 'Pleural Effusion', 'Support Devices']
    table = read_source('phantom', phantom(tmp_path, train=1600))
    df = table.df[['path', 'patient_id', 'study_id', 'split', *findings]].rename(columns=dict(path='image'))
    training = (df.split == 'train').to_numpy()
    studies = pd.factorize(df.study_id)[0]  # a study has one answer for all its images
    unknown = (np.random.default_rng(0).random((studies.max() + 1, 3)) < 0.4)[studies] & training[:, None]
    masked = df.assign(**df[findings].astype('Int8').mask(unknown))
    masked.to_csv(tmp_path / 'masked.csv', index=False)
    masked.dropna(subset=findings).to_csv(tmp_path / 'dropped.csv', index=False)
    found = {}
    for name in ('masked', 'dropped'):
        given = f'--data csv --root {name}.csv --uncertain ignore {TINY} --size 48 --epochs 6 --fold none --out {name}'
        run(f'cxrlt train {given}', tmp_path)
        found[name] = json.loads((tmp_path / name / 'metrics.json').read_text())['held out']['mauc']['value']
        history = pd.read_csv(tmp_path / name / 'history.csv')
        assert np.isfinite(history.train_loss).all()
    assert found['masked'] > found['dropped'], found
