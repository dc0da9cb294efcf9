"""Where models look, against boxes that radiologists drew: `python scripts/heat_maps.py RUN … --boxes BBOXES.csv`.

The pointing game (Zhang et al. 2018): the hottest point of the Grad-CAM of a finding is a hit if it lies in a box of
that finding. Give the runs of all folds; their maps are averaged. The same is asked of

- one of the networks with random weights, which must lose,
- two points that need no image: the middle of the image, and the mean centre of the finding's boxes in other patients.

Only images that no run has learned from are used. Writes `nbs/results/pointing.csv`.

Runs on the phantom need no boxes: the place of a finding is where an image with it differs from the same image without
it. Their result is `nbs/results/pointing_phantom.csv`.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from fastcore.basics import AttrDict
from fastcore.script import CliError, call_parse
from scipy.ndimage import gaussian_filter

from cxrlt_nb.cache import build_cache, cache_folder
from cxrlt_nb.files import home
from cxrlt_nb.intervals import interval
from cxrlt_nb.models import create_model
from cxrlt_nb.phantom.findings import draw
from cxrlt_nb.predict import heat_maps, open_model, run_table
from cxrlt_nb.runs import check_comparable, write_result

RESULTS = Path(__file__).parent.parent / 'nbs/results'
#: Names in NIH's list of boxes that differ from ours.
NAMES = {'Infiltrate': 'Infiltration', 'Effusion': 'Pleural Effusion'}
ORIGINAL = 1024  # Side of the images that the boxes refer to, in pixels
PHANTOM_IMAGES = 60  # Per finding


def read_boxes(file, table):
    "NIH's boxes as shares of the image's sides; `ValueError` if an image is unknown or for training"
    boxes = pd.read_csv(file).iloc[:, :6].set_axis(['image_id', 'finding', 'x', 'y', 'w', 'h'], axis=1)
    boxes = boxes.assign(finding=boxes.finding.replace(NAMES))
    held_out = table.df.set_index('image_id').split.ne('train')
    known = boxes.image_id.map(held_out)
    if known.isna().any() or not known.astype(bool).all():
        raise ValueError(f'{file}: has boxes on images that are missing in {table.root}, or that are for training')
    corners = dict(left=boxes.x, top=boxes.y, right=boxes.x + boxes.w, bottom=boxes.y + boxes.h)
    return boxes[['image_id', 'finding']].assign(**{k: v / ORIGINAL for k, v in corners.items()})


def hottest(maps):
    "(N,2) x and y, as shares of the image, of the maximum of each map `(N,H,W)`; of its middle if a map is flat"
    n, h, w = maps.shape
    y, x = np.divmod(maps.reshape(n, -1).argmax(1), w)
    points = np.stack([(x + 0.5) / w, (y + 0.5) / h], 1)
    points[maps.max((1, 2)) == maps.min((1, 2))] = 0.5
    return points


def mean_maps(runs, x, findings, bs=32):
    "Grad-CAM of each image's finding, averaged over the runs, `(N,H,W)`"
    batches = range(0, len(x), bs)
    maps = [np.concatenate([heat_maps(run, x[k : k + bs], findings[k : k + bs]) for k in batches]) for run in runs]
    return np.mean(maps, 0)


def randomised(runs):
    "The same runs with random weights"
    found = []
    for seed, run in enumerate(runs):
        torch.manual_seed(seed)
        model, _ = create_model(run.p.arch, len(run.labels), 'scratch', size=run.p.size)
        found.append(AttrDict(run, model=model.eval()))
    return found


def inside(points, boxes):
    "Whether each point lies in one of the boxes of its image and finding"
    x, y = points.T[:, boxes.pair]
    hit = (x >= boxes.left) & (x < boxes.right) & (y >= boxes.top) & (y < boxes.bottom)
    return hit.groupby(boxes.pair).any().to_numpy()


def rate(hits, patients, n=1000):
    "Hit rate with a 95 % interval over patients"
    code, ids = pd.factorize(np.asarray(patients))
    sums = np.stack([np.bincount(code, hits, len(ids)), np.bincount(code, minlength=len(ids))])
    weights = np.random.default_rng(0).multinomial(len(ids), np.full(len(ids), 1 / len(ids)), n)
    hit, all_ = weights @ sums.T[:, 0], weights @ sums.T[:, 1]
    return dict(value=hits.mean(), **interval(hits.mean(), hit / all_, method='percentile'))


def summary(hits, pairs):
    "A line per finding and method, and the mean over findings"
    lines = []
    for method, hit in hits.items():
        for finding, rows in pairs.groupby('finding').groups.items():
            line = dict(method=method, finding=finding, images=len(rows))
            lines.append(line | rate(hit[rows], pairs.patient_id[rows]))
        lines.append(dict(method=method, finding='all', images=len(pairs), **rate(hit, pairs.patient_id)))
    return pd.DataFrame(lines)


def centre_of_others(boxes, pairs):
    "The mean centre of the finding's boxes in other patients"
    centre = pd.DataFrame(dict(x=(boxes.left + boxes.right) / 2, y=(boxes.top + boxes.bottom) / 2))
    centre = centre.groupby(boxes.pair).mean().join(pairs)
    points = [
        centre.loc[(centre.finding == o.finding) & (centre.patient_id != o.patient_id), ['x', 'y']].mean()
        for o in pairs.itertuples()
    ]
    return np.stack(points)


def real(runs, file):
    "The pointing game on radiographs"
    table = run_table(runs[0])
    boxes, p = read_boxes(file, table), runs[0].p
    boxes['pair'] = boxes.groupby(['image_id', 'finding'], sort=False).ngroup()
    pairs = boxes.drop_duplicates('pair').set_index('pair')[['image_id', 'finding']]
    df = table.df.set_index('image_id', drop=False)
    pairs['patient_id'] = df.patient_id.loc[pairs.image_id].to_numpy()
    used = df.loc[pairs.image_id.unique()]
    store = build_cache(used, cache_folder(home(), p.data, table.root, p.size, p.resize), p.size, p.resize)
    x = torch.from_numpy(store.read(store.rows(pairs.image_id), 1)).float() / 255
    findings = pairs.finding.tolist()
    points = {
        'Grad-CAM': hottest(mean_maps(runs, x, findings)),
        'random weights': hottest(mean_maps(randomised(runs[:1]), x, findings)),
        'centre of others': centre_of_others(boxes, pairs),
        'middle': np.full((len(pairs), 2), 0.5),
    }
    return summary({method: inside(o, boxes) for method, o in points.items()}, pairs)


def sign(finding, size, **seeds):
    "A synthetic image with a finding, and where it differs from the same image without"
    with_it, without = (draw(o, size=size, difficulty=0.4, **seeds).astype(float) for o in ([finding], []))
    difference = gaussian_filter(np.abs(with_it - without), size / 64)
    return with_it, difference > 0.3 * difference.max()


def phantom(runs):
    "The pointing game on synthetic images: a hit is a point where the finding has changed the image"
    hits, rows, size = {}, [], runs[0].p.size
    findings = [o for o in runs[0].labels if o != 'No Finding']
    for finding in findings:
        drawn = [sign(finding, size, patient=k, study=k, image=k) for k in range(PHANTOM_IMAGES)]
        x = torch.tensor(np.stack([o for o, _ in drawn]) / 255).float()[:, None]
        place = np.stack([o for _, o in drawn])
        points = {
            'Grad-CAM': hottest(mean_maps(runs, x, [finding] * len(x))),
            'random weights': hottest(mean_maps(randomised(runs[:1]), x, [finding] * len(x))),
            'middle': np.full((len(x), 2), 0.5),
        }
        for method, o in points.items():
            column, row = (o * size).astype(int).T
            hits.setdefault(method, []).append(place[np.arange(len(x)), row, column])
        rows.append(pd.DataFrame(dict(finding=finding, patient_id=range(len(x)))))
    return summary({k: np.concatenate(v) for k, v in hits.items()}, pd.concat(rows, ignore_index=True))


@call_parse
def main(
    runs: Annotated[Path, dict(nargs='+')],  # Folders of finished runs of the same data, such as the folds of one model
    boxes: Path = None,  # NIH's BBox_List_2017.csv, for runs on NIH ChestX-ray14
    out: Path = None,  # The csv file to write
    threads: int = 1,  # Threads of torch
):
    "Play the pointing game"
    torch.set_num_threads(threads)
    opened = [open_model(o) for o in runs]
    check_comparable(opened, ignore=['fold', 'images', 'held_out', 'threads'])
    on_phantom = opened[0].p.data == 'phantom'
    if not on_phantom and boxes is None:
        raise CliError(f'{runs[0]} is a run on {opened[0].p.data}; give --boxes, the file with its boxes')
    out = out or RESULTS / ('pointing_phantom.csv' if on_phantom else 'pointing.csv')
    if opened[0].record.data['credentialed'] and not out.resolve().is_relative_to(home() / 'runs'):
        raise CliError(f'{out}: results of credentialed data must be under {home() / "runs"}; give --out')
    result = phantom(opened) if on_phantom else real(opened, boxes)
    write_result(out, result, opened, made_by='scripts/heat_maps.py', interval='95 %, percentile, over patients')
    print(result.pivot(index='finding', columns='method', values='value').round(2).to_string())
