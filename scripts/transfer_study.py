"""Train on one hospital, test on another: `python scripts/transfer_study.py [--nih DIR DIR]`.

Trains a small model on each of two hospitals and scores both models on both, as `cxrlt transfer` does. The hospitals
are phantoms with other prevalences and another style of image: the second has brighter, flatter and noisier images
with a letter in a corner, and its findings are rarer. Writes `nbs/results/transfer.csv` (two minutes on one core).
With two folders of NIH ChestX-ray14, `--nih NIH256 NIH128`, writes `transfer_nih.csv` (four minutes): one is a
selection of other people, in which findings are commoner, the other a run of consecutive images. Interrupted, it
resumes.
"""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from PIL import Image

from cxrlt_nb.files import home, write_atomically
from cxrlt_nb.phantom.findings import draw
from cxrlt_nb.runs import _head, _write_below, open_run
from cxrlt_nb.transfer import _format_transfer, _score_transfer

RESULTS = Path(__file__).parent.parent / 'nbs/results'
FINDINGS = ['Cardiomegaly', 'Pleural Effusion', 'Pneumothorax', 'Support Devices']
IMAGES_PER_PATIENT = 2
#: Each hospital: prevalence of each finding, and how its images look
HOSPITALS = dict(
    hospital_a=dict(prevalence=[0.35, 0.35, 0.25, 0.40], difficulty=0.1, gamma=1.0, contrast=1.0, letter=False),
    hospital_b=dict(prevalence=[0.10, 0.15, 0.08, 0.12], difficulty=0.3, gamma=0.6, contrast=0.6, letter=True),
)
PARAMETERS = dict(
    phantom=dict(preset='demo', data='csv', size=64, epochs=12, fold='none', threads=1),
    nih=dict(preset='laptop', data='nih', size=64, images=1600, fold='none', threads=1),
)


def restyle(pixels, gamma, contrast, letter):
    "Gray values `(h,w)` in the style of a hospital: brightness, contrast, and a bright mark in a corner"
    x = 0.5 + contrast * ((pixels / 255) ** gamma - 0.5)
    if letter:
        side = max(3, pixels.shape[0] // 16)
        x[side : 2 * side, side : 2 * side] = 1
    return np.round(255 * x.clip(0, 1)).astype('uint8')


def write_hospital(folder, name, patients, seed):
    "The images of a hospital and their table, unless they are there; the table's path"
    settings, rng = dict(HOSPITALS[name]), np.random.default_rng(seed)
    prevalence, difficulty = settings.pop('prevalence'), settings.pop('difficulty')
    rows = []
    (folder / 'images').mkdir(parents=True, exist_ok=True)
    for k in range(patients * IMAGES_PER_PATIENT):
        present, patient = rng.random(len(FINDINGS)) < prevalence, seed * 10**6 + k // IMAGES_PER_PATIENT
        file = folder / f'images/{name}-{k:05d}.png'
        if not file.exists():
            found = [o for o, there in zip(FINDINGS, present) if there]
            pixels = draw(found, size=64, patient=patient, study=seed * 10**6 + k, image=k, difficulty=difficulty)
            with write_atomically(file) as tmp:
                Image.fromarray(restyle(pixels, **settings)).save(tmp, format='PNG')
        rows.append(dict(image=file.name, patient=f'{name}-{patient}') | dict(zip(FINDINGS, present.astype(int))))
    with write_atomically(folder / 'export.csv') as tmp:
        pd.DataFrame(rows).to_csv(tmp, index=False)
    return folder / 'export.csv'


def train(kind, root, out):
    "Train a model on one hospital, unless its run is finished; the run"
    parameters = PARAMETERS[kind] | dict(root=root, out=out)
    arguments = [text for name, value in parameters.items() for text in (f'--{name}', str(value))]
    command = 'from cxrlt_nb.cli import _program; _program()'
    subprocess.run([sys.executable, '-c', command, 'train', *arguments], check=True)
    return open_run(out)


def save(path, table, runs, **more):
    "Write a table below a head; `write_result` refuses runs on different data, and here they must be"
    sources = {o.folder.name: o.record['data']['fingerprint'] for o in runs}
    head = _head(runs) | dict(fingerprints=sources, made_by='scripts/transfer_study.py') | more
    _write_below(head, table, path)


@call_parse
def main(
    nih: Annotated[Path, dict(nargs=2)] = None,  # Folders of two parts of NIH ChestX-ray14
    patients: int = 1000,  # Of each phantom hospital
    n: int = 1000,  # Replicates
    out: Path = None,  # Where the runs and the table are written, if not to runs/transfer and nbs/results
):
    "Train two models and write the table"
    warnings.filterwarnings('ignore', 'credentialed data')  # neither set is
    kind = 'nih' if nih else 'phantom'
    place = Path(out or home() / f'runs/transfer{"-nih" if nih else ""}').resolve()
    if nih:
        roots = {o.resolve().name: o.resolve() for o in nih}
    else:
        roots = {o: write_hospital(place / o, o, patients, seed) for seed, o in enumerate(HOSPITALS, start=1)}
    runs = [train(kind, root, place / f'trained_on_{name}') for name, root in roots.items()]
    sources = [f'{runs[0].p.data}:{root}' for root in roots.values()]
    table, about = _score_transfer([o.folder for o in runs], sources, n=n)
    names = dict(zip(table.data.unique(), roots))
    table = table.assign(data=table.data.map(names)).drop(columns='trained_on')
    table['own'] = table.run == 'trained_on_' + table.data  # parts of NIH share patients
    more = dict(data=f'{kind}, {" and ".join(roots)}', labels=about['labels'])
    more |= dict(images_left_out={names[k]: o['left_out'] for k, o in about['data sets'].items()})
    more |= dict(interval=f'95 %, basic, {n} replicates over patients, seed 0')
    if not nih:
        more |= dict(hospitals=HOSPITALS)
    save((Path(out) if out else RESULTS) / f'transfer{"_nih" if nih else ""}.csv', table, runs, **more)
    for metric in ('mauc', 'map'):
        print(metric, _format_transfer(table, metric).to_string(), sep='\n')
