"""What each step of an ensemble adds: `python scripts/folds_report.py RUN RUN …`.

Give the finished runs of all folds of one configuration or several.

It needs saved predictions only (those of mirrored images are made if they are missing). It prints the scores of the
folds on their own validation images, and a ladder on a split that no model was trained on: each fold, TTA, the mean
of the folds, the blend, the mean over studies. Each step has mAP, mAUC and mF1 with a 95 % interval over patients,
and the paired difference to the step above. `--synthetic-full-size` does the same on simulated predictions of the
size of CXR-LT 2023.
"""

import resource
import time
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from fastcore.basics import AttrDict
from fastcore.script import call_parse
from scipy.special import expit
from scipy.stats import norm

from cxrlt_nb.ensemble import blend_weights, ladder, mean_ensemble, nested_blend, out_of_fold, study_mean
from cxrlt_nb.intervals import bootstrap, chance_level, label_intervals
from cxrlt_nb.metrics import METRICS, best_thresholds, ece
from cxrlt_nb.predict import mirror_predictions, open_model, posterior, run_table
from cxrlt_nb.runs import check_comparable, write_result
from cxrlt_nb.table import TRAIN_IMAGES, TRAIN_POSITIVES

#: Parameters in which the runs of one configuration may differ: the fold, and those that concern the machine.
FREE = ['fold', 'out', 'root', 'threads', 'num_workers', 'images', 'held_out']
#: Parameters that all runs must share: they decide which images are in which split.
SAME = ['data', 'n_folds', 'fold_by', 'split_seed']


def configurations(runs):
    "Runs by configuration, in the order of the folds; `ValueError` if a fold is missing or there twice"
    groups = {}
    for run in runs:
        key = str({name: value for name, value in run.p.items() if name not in FREE})
        groups.setdefault(key, []).append(run)
    named = {}
    for k, members in enumerate(groups.values()):
        members = sorted(members, key=lambda run: run.p.fold)
        first, found = members[0], [run.p.fold for run in members]
        if found != list(range(first.p.n_folds)):
            raise ValueError(
                f'{first.name}: folds {found} are given; each of 0 to {first.p.n_folds - 1} is needed once'
            )
        name = f'{first.p.arch} {first.p.size} px'
        named[f'{name} ({k})' if name in named else name] = members
    return named


def load(folders, split, root):
    "Targets and saved predictions of the runs: frames `truth` and `oof_truth`, and `folds` by configuration"
    runs = [open_model(folder) for folder in folders]
    check_comparable(runs, same=SAME)
    configs = configurations(runs)
    table = run_table(runs[0], root)
    rows = table.df.set_index('image_id')
    parts = ['development', 'test'] if split == 'both' else [split]
    folds = {}
    for name, members in configs.items():
        folds[name] = [mirror_predictions(run, table) for run in members]
        for fold in folds[name]:
            fold['split'] = [pd.concat([fold[part][view] for part in parts]) for view in (0, 1)]
    first = next(iter(folds.values()))
    truth = rows.loc[first[0]['split'][0].index]
    answered = truth[table.labels].notna().any(axis=1).groupby(truth.split).any()
    if not answered.all():
        withheld = ' and '.join(answered.index[~answered])
        raise ValueError(f'{withheld} has no labels; choose a split that has them, such as --split development')
    oof_truth = rows.loc[out_of_fold([fold['validation'][0] for fold in first]).index]
    about = dict(source=table.source, credentialed=table.credentialed, runs=configs)
    return AttrDict(labels=table.labels, truth=truth, oof_truth=oof_truth, folds=folds, **about)


def targets(rows, labels):
    "1, 0 or NaN (unknown), as the metrics take it"
    return rows[labels].astype('float64')


class SimulatedSplit:
    "Targets of `n` images whose findings run in patients and studies, and predictions of them"

    def __init__(self, n, name, rng):
        self.rng, self.labels = rng, list(TRAIN_POSITIVES)
        prevalence = np.array(list(TRAIN_POSITIVES.values())) / TRAIN_IMAGES
        patient = np.repeat(np.arange(n), rng.geometric(1 / 5.8, n))[:n]
        study = patient * 100 + rng.integers(0, 3, n)
        code, studies = pd.factorize(study)
        of_patient, of_study = rng.normal(size=(patient.max() + 1, 26)), rng.normal(size=(len(studies), 26))
        self.burden = of_patient[patient] + 0.5 * of_study[code]
        self.ids = pd.Index([f'{name}{k}' for k in range(n)], name='image_id')
        y = (self.burden > np.sqrt(1.25) * norm.isf(prevalence)).astype('int8')
        self.truth = pd.DataFrame(y, self.ids, self.labels).assign(patient_id=patient, study_id=study)

    def predictions(self, rows):
        "Predictions of the images and of their mirrors"
        noise = [size * self.rng.normal(size=(len(rows), 26)) for size in (1.0, 1.1)]
        return [pd.DataFrame(expit(self.burden[rows] + x - 2), self.ids[rows], self.labels, 'float32') for x in noise]


def simulate(seed=0):
    "As `load`, without runs or images: predictions of five folds, as many as in CXR-LT 2023 (75,492 test images)"
    rng = np.random.default_rng(seed)
    test, train = SimulatedSplit(75_492, 't', rng), SimulatedSplit(TRAIN_IMAGES, 'v', rng)
    fold, folds = train.truth.patient_id.to_numpy() % 5, []
    for k in range(5):
        split, validation = test.predictions(np.arange(75_492)), train.predictions(np.flatnonzero(fold == k))
        folds.append(dict(split=split, validation=validation))
    truth = dict(truth=test.truth, oof_truth=train.truth)
    return AttrDict(labels=test.labels, **truth, folds={'simulated': folds}, source='simulated')


def with_intervals(table):
    "Value and interval of each metric as text"
    names = {m: METRICS[m].macro_name for m in table.index}
    return {names[m]: f'{v.value:.4f} [{v.low:.4f}, {v.high:.4f}]' for m, v in table.iterrows()}


def differences(table):
    "Difference and interval of each metric as text"
    names = {m: METRICS[m].macro_name for m in table.index}
    return {names[m]: f'{v.difference:+.4f} [{v.diff_low:+.4f}, {v.diff_high:+.4f}]' for m, v in table.iterrows()}


def validation_table(data, n):
    "Each fold on its own validation images"
    rows = {}
    for name, folds in data.folds.items():
        for k, fold in enumerate(folds):
            p = fold['validation'][0]
            truth = data.oof_truth.loc[p.index]
            scored = bootstrap(targets(truth, data.labels), p[data.labels], truth.patient_id, list(METRICS), n)
            counts = dict(images=len(p), patients=truth.patient_id.nunique())
            rows[f'{name}, fold {k}'] = counts | with_intervals(scored)
    return pd.DataFrame(rows).T


def blend(data):
    "Weights of each configuration's image and mirror, learned out of fold, and what they give"
    oof, split = {}, {}
    for name, folds in data.folds.items():
        for view, what in enumerate(('image', 'mirror')):
            oof[f'{name}, {what}'] = out_of_fold([fold['validation'][view] for fold in folds])
            split[f'{name}, {what}'] = mean_ensemble([fold['split'][view] for fold in folds])
    y = targets(data.oof_truth, data.labels)
    weights = blend_weights(oof, y)
    nested, _ = nested_blend(oof, y, data.oof_truth.patient_id)
    return AttrDict(
        weights=weights, nested=nested, equal=mean_ensemble(oof), split=mean_ensemble(split, weights=weights)
    )


def steps(data, blended):
    "The predictions of the ladder: folds, TTA, mean of the folds, further configurations, blend, mean over studies"
    tta = {name: [mean_ensemble(fold['split']) for fold in folds] for name, folds in data.folds.items()}
    (name, folds), *more = data.folds.items()
    out = {f'fold {k}': folds[k]['split'][0] for k in reversed(range(len(folds)))}
    out |= {'fold 0, TTA': tta[name][0], 'mean of folds, TTA': mean_ensemble(tta[name])}
    for other, _ in more:
        out[f'the same of {other}'] = mean_ensemble(tta[other])
    if more:
        out['mean of configurations'] = mean_ensemble([mean_ensemble(frames) for frames in tta.values()])
    return out | {'blend': blended, 'study mean of the blend': study_mean(blended, data.truth.study_id)}


def print_blend(data, blended):
    "Weights, and the out-of-fold mAP with and without them"
    y = targets(data.oof_truth, data.labels)
    print('\nBlend weights, learned out of fold:', ', '.join(f'{k} {v:.2f}' for k, v in blended.weights.items()))
    equal, nested = (METRICS['map'].macro(y, p.loc[y.index, data.labels]) for p in (blended.equal, blended.nested))
    print(f'out-of-fold mAP: image and mirror {equal:.4f}, blend with nested weights {nested:.4f}')


def print_thresholds(data, blended):
    "mF1 at 0.5 and at thresholds that are learned out of fold"
    y, y_oof = (targets(truth, data.labels) for truth in (data.truth, data.oof_truth))
    learned = best_thresholds(y_oof, blended.equal.loc[y_oof.index, data.labels])
    first = next(iter(data.folds.values()))
    tta = mean_ensemble([mean_ensemble(fold['split']) for fold in first])[data.labels]
    published, better = (METRICS['mf1'].macro(y, tta, threshold) for threshold in (0.5, learned))
    print(f'mean of folds, TTA: mF1 {published:.4f} at 0.5, {better:.4f} at thresholds learned out of fold')


def report(data, n):
    "Print everything; the ladder"
    y = targets(data.truth, data.labels)
    absent = [label for label in data.labels if not (y[label] == 1).any()]
    note = f'; without a positive, and left out: {absent}' if absent else ''
    patients = data.truth.patient_id.nunique()
    print(f'{data.source}: {len(y):,} images of {patients:,} patients, {len(data.labels)} labels{note}')
    print(f'\nFolds on their own validation images, with 95 % intervals over patients ({n:,} replicates)')
    print(validation_table(data, n).to_string())
    blended = blend(data)
    rungs = ladder(y, steps(data, blended.split), data.truth.patient_id, n)
    by_step = {step: table.droplevel(0) for step, table in rungs.groupby(level=0, sort=False)}
    print('\nThe split that no model was trained on')
    print(pd.DataFrame({step: with_intervals(table) for step, table in by_step.items()}).T.to_string())
    print('\nPaired difference to the line above')
    later = list(by_step)[1:]
    print(pd.DataFrame({step: differences(by_step[step]) for step in later}).T.to_string())
    print_blend(data, blended)
    print_thresholds(data, blended)
    return rungs


def reliability(y, prob, bins=15):
    "Mean prediction, observed frequency and number of known labels in each bin of equal width, all labels pooled"
    cells = pd.DataFrame(dict(predicted=prob.to_numpy().ravel(), observed=y.to_numpy().ravel())).dropna()
    by_bin = cells.groupby(np.minimum((cells.predicted * bins).astype(int), bins - 1).astype(int))
    table = by_bin.agg(predicted=('predicted', 'mean'), observed=('observed', 'mean'), cells=('observed', 'size'))
    return table.rename_axis('bin').assign(ece=ece(y, prob).mean())


def save(data, rungs, n, folder):
    "Write what the pages show of the first configuration: ladder, AP by label, calibration"
    if data.credentialed:
        raise ValueError('results of credentialed data may not be written into the repository')
    name, folds = next(iter(data.folds.items()))
    runs, y = data.runs[name], targets(data.truth, data.labels)
    before = mean_ensemble([p for fold in folds for p in fold['split']])[data.labels]
    probabilities = [posterior(p, run.p) for run, fold in zip(runs, folds) for p in fold['split']]
    versions = {'output': before, 'de-calibrated': mean_ensemble(probabilities)[data.labels]}
    labels = label_intervals(y, before, data.truth.patient_id, n=n)
    labels['chance_p95'] = chance_level(y, before, data.truth.patient_id).label_p95
    bins = pd.concat({scale: reliability(y, p) for scale, p in versions.items()}, names=['scale'])
    tables = dict(folds_ladder=rungs, folds_labels=labels.rename_axis('label'), folds_reliability=bins)
    head = dict(
        made_by='scripts/folds_report.py',
        scored_on=f'{len(y)} images of {data.truth.patient_id.nunique()} patients',
        interval=f'95 %, basic, {n} replicates over patients, seed 0',
    )
    for file, table in tables.items():
        write_result(folder / f'{file}.csv', table.reset_index(), runs, **head)


@call_parse
def main(
    runs: Annotated[Path, {'nargs': '*'}],  # Finished runs: all folds of each configuration
    split: str = 'both',  # development, test, or both
    root: Path = None,  # Folder of the release, if it has moved
    n: int = 1000,  # Replicates
    save_to: Path = None,  # Folder for the numbers that the pages show
    synthetic_full_size: bool = False,  # Simulated predictions of 75,492 images instead of runs
):
    "What TTA, folds, blend and study mean add, with intervals"
    start = time.perf_counter()
    warnings.simplefilter('ignore', UserWarning)  # `report` names the labels without a positive
    data = simulate() if synthetic_full_size else load(runs, split, root)
    print(f'loaded in {time.perf_counter() - start:.1f} s')
    start = time.perf_counter()
    rungs = report(data, n)
    if save_to:
        save(data, rungs, n, save_to)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f'\n{time.perf_counter() - start:.1f} s, at most {memory:.1f} GiB')
