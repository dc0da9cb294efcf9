"""The page “Your own data in ten minutes”, run from its text, and trainings on incomplete labels

Run by `make test-own-data` (five minutes): real trainings, some with ImageNet weights. The data are synthetic;
`make test-own-data ROOT=FILE` runs the page on your images instead. FILE is a csv like that of the page, with the
images below its folder; it and the images are copied, and every twelfth patient is kept for the prediction.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from checkout import ROOT
from PIL import Image

from cxrlt_nb.images import decode_gray
from cxrlt_nb.phantom.findings import draw

BIN = Path(sys.executable).parent
PAGE = (ROOT / 'nbs/ten_minutes.qmd').read_text()
#: The user's table, if one is given
OWN = os.environ.get('ROOT')
#: A column of the table on the page → a finding of the phantom
FINDINGS = dict(Effusion='Pleural Effusion', Cardiomegaly='Cardiomegaly', Device='Support Devices')

#: Encodings of a DICOM file: transfer syntax, compression, bits that are used, elements
DICOM = {
    'plain': ('ExplicitVRLittleEndian', None, 8, {}),
    '16 bits': ('ImplicitVRLittleEndian', None, 16, {}),
    '12 bits, inverted': ('ExplicitVRLittleEndian', None, 12, dict(PhotometricInterpretation='MONOCHROME1')),
    'signed': ('ImplicitVRLittleEndian', None, 16, dict(PixelRepresentation=1)),
    'window': ('ExplicitVRLittleEndian', None, 12, dict(WindowCenter=2048, WindowWidth=4096)),
    'JPEG 2000': ('ExplicitVRLittleEndian', 'JPEG2000Lossless', 16, {}),
    'JPEG-LS, inverted': (
        'ExplicitVRLittleEndian',
        'JPEGLSLossless',
        12,
        dict(PhotometricInterpretation='MONOCHROME1'),
    ),
    'run lengths': ('ExplicitVRLittleEndian', 'RLELossless', 16, {}),
}


def shell(command, folder):
    "Run a line of the page as a user would, in `folder`"
    threads = str(len(os.sched_getaffinity(0)))
    env = os.environ | dict(CXRLT_HOME=str(folder), OMP_NUM_THREADS=threads, PYTHONWARNINGS='ignore')
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


def write_dicom(pixels, path, kind=0):
    "A gray image of 8 bits as a DICOM file without any name; `kind` chooses one of eight encodings"
    pydicom = pytest.importorskip('pydicom')
    from pydicom.uid import generate_uid

    syntax, compress, bits, elements = list(DICOM.values())[kind % len(DICOM)]
    stored = np.round(pixels * ((2**bits - 1) / 255)).astype('uint8' if bits == 8 else 'uint16')
    if elements.get('PhotometricInterpretation') == 'MONOCHROME1':
        stored = 2**bits - 1 - stored
    if elements.get('PixelRepresentation'):
        stored = (stored.astype(int) - 2 ** (bits - 1)).astype('int16')
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.DigitalXRayImageStorageForPresentation, generate_uid()
    ds.Modality, ds.PhotometricInterpretation, ds.SamplesPerPixel = 'DX', 'MONOCHROME2', 1
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * stored.dtype.itemsize, bits, bits - 1
    ds.PixelRepresentation = 0
    ds.PixelData = stored.tobytes()
    for name, value in elements.items():
        setattr(ds, name, value)
    if compress:
        ds.compress(getattr(pydicom.uid, compress))
    ds.save_as(path, enforce_file_format=True)


def write_data(folder, suffix, n=240):
    "The folder that the page describes, with images of the phantom: four per patient; the labels"
    rng = np.random.default_rng(0)
    (folder / 'ours/scans').mkdir(parents=True)
    (folder / 'new').mkdir()
    rows = []
    for k in range(n + 12):
        present = rng.random(3) < [0.35, 0.35, 0.4]
        pixels = draw([f for f, o in zip(FINDINGS.values(), present) if o], size=128, patient=k // 4, study=k)
        place = folder / f'ours/scans/{k:04d}.{suffix}' if k < n else folder / f'new/{k:04d}.{suffix}'
        if suffix == 'dcm':
            write_dicom(pixels, place, k)
        else:
            Image.fromarray(pixels).save(place)
        rows.append(dict(image=f'{k:04d}', patient=f'p{k // 4:03d}', **dict(zip(FINDINGS, present.astype(int)))))
    table = pd.DataFrame(rows)
    table[:n].to_csv(folder / 'ours/export.csv', index=False)
    table[n:].to_csv(folder / 'truth.csv', index=False)
    return list(FINDINGS)


def copy_own(folder, suffix):
    "The folder that the page describes, with the images of the table OWN; the labels"
    from cxrlt_nb.datasets import read_source

    table = read_source('csv', OWN)
    df, rows = table.df.reset_index(drop=True), pd.read_csv(OWN, dtype='str')
    (folder / 'ours/scans').mkdir(parents=True)
    (folder / 'new').mkdir()
    patients = df.patient_id.unique()
    new = df.patient_id.isin(patients[-max(1, len(patients) // 12) :])
    for k, path in enumerate(df.path):
        place = folder / ('new' if new[k] else 'ours/scans') / Path(path).name
        if suffix == 'dcm':
            write_dicom(decode_gray(path)[0], place.with_suffix('.dcm'), k)
        else:
            shutil.copy(path, place)
    rows[~new].to_csv(folder / 'ours/export.csv', index=False)
    rows[new].to_csv(folder / 'truth.csv', index=False)
    return table.labels


def prepare(folder, suffix, n=240):
    "The data of the page: the user's, or else the phantom's; labels, and the commands with one of them"
    labels = copy_own(folder, suffix) if OWN else write_data(folder, suffix, n)
    (folder / 'augmentation.yaml').write_text(re.search(r'```yaml\n(.*?)```', PAGE, re.S)[1])
    return labels, [o.replace('Effusion', f"'{labels[0]}'") for o in commands()]


def check_predictions(folder, labels):
    "Predictions, decisions and page of all images of the folder new/"
    n = len(list((folder / 'new').iterdir()))
    p = pd.read_csv(folder / 'predictions.csv', dtype=dict(image_id=str), index_col='image_id')
    decisions = pd.read_csv(folder / 'predictions.decisions.csv', dtype=dict(image_id=str), index_col='image_id')
    assert p.shape == decisions.shape == (n, len(labels)) and set(p) == set(labels)
    assert set(decisions.stack().dropna().unique()) <= {0, 1}
    page = (folder / 'page.html').read_text()
    assert page.count('<article') == n and page.count(f'data-map="{labels[0]}"') == n
    said = json.loads((folder / 'predictions.json').read_text())
    assert said['rule'] == 'youden' and said['calibrated'] == 'validation'
    return p


def test_the_page_from_its_text(tmp_path):
    labels, (weights, train, predict, sweep, evaluate) = prepare(tmp_path, 'png')
    run(weights, tmp_path)
    assert 'held out: mAP' in run(train, tmp_path)
    run(predict, tmp_path)
    check_predictions(tmp_path, labels)
    out = run(sweep, tmp_path)
    assert '6 trainings' in out and re.search(r'better|worse|cannot tell', out)
    assert len(pd.read_csv(tmp_path / 'runs/sweeps/augmentation/comparison.csv', comment='#')) > 0
    assert 'mean AP' in run(evaluate, tmp_path)


def test_the_same_from_dicom(tmp_path):
    labels, (weights, train, predict, _, evaluate) = prepare(tmp_path, 'dcm', n=160)
    if OWN:
        run(weights, tmp_path)
        run(train, tmp_path)
    else:
        run(f'{train} --arch test_efficientnet --weights scratch --size 64', tmp_path)
    run(predict, tmp_path)
    from_dicom = check_predictions(tmp_path, labels)
    assert 'mean AP' in run(evaluate, tmp_path)
    for file in list((tmp_path / 'new').iterdir()):
        Image.fromarray(decode_gray(file)[0]).save(file.with_suffix('.png'))
        file.unlink()
    run(predict, tmp_path)
    assert np.abs(check_predictions(tmp_path, labels) - from_dicom).to_numpy().max() < 1e-3


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
