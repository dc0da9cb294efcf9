"""What each step of an ensemble is worth: `python tests/folds_report.py RUN RUN …`, the finished runs of all folds of one configuration or of several.

From saved predictions alone (those of the mirror are made where they are missing) it prints the folds on their own validation images, and a ladder on
a split that no model has seen: each fold, TTA, the mean of the folds, the blend, the study mean; each with mAP, mAUC, mF1, a 95 % interval over
patients, and the paired difference to the line above. `--synthetic-full-size` does the same on simulated predictions as large as CXR-LT 2023.
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
from scipy.stats import norm

from cxrlt_nb import ensemble, intervals, metrics, predict
from cxrlt_nb.runs import write_result
from cxrlt_nb.table import TRAIN_IMAGES, TRAIN_POSITIVES

NAMES = dict(map='mAP', mauc='mAUC', mf1='mF1')
#: Parameters in which the runs of one configuration may differ: the fold, and what concerns the machine.
FREE = ['fold', 'out', 'root', 'threads', 'num_workers', 'images', 'held_out']


def configurations(runs):
    "Runs grouped by what they share, every fold once; `ValueError` if one is missing or twice there"
    groups = {}
    for r in runs:
        groups.setdefault(str({k: v for k, v in r.p.items() if k not in FREE}), []).append(r)
    for rs in groups.values():
        if (found := sorted(o.p.fold for o in rs)) != list(range(rs[0].p.n_folds)):
            raise ValueError(
                f'{rs[0].name} and its like are folds {found}; each of 0 to {rs[0].p.n_folds - 1} is wanted once'
            )
    names = [f'{rs[0].p.arch} {rs[0].p.size} px' for rs in groups.values()]
    return {
        n if names.count(n) == 1 else f'{n} ({k})': sorted(rs, key=lambda o: o.p.fold)
        for k, (n, rs) in enumerate(zip(names, groups.values()))
    }


def load(folders, split, root):
    "Truth and saved predictions of the runs: `truth` and `oof_truth` frames (labels, patient_id, study_id), `folds` by configuration"
    configs = configurations(predict.check_runs(predict.open_run(o) for o in folders))
    tables = {r.folder: predict.run_table(r, root) for rs in configs.values() for r in rs}
    if len({t.record()['fingerprint'] for t in tables.values()}) > 1:
        raise ValueError('the runs were trained on different tables; one is wanted')
    table = next(iter(tables.values()))
    folds = {c: [predict.mirror_predictions(r, table) for r in rs] for c, rs in configs.items()}
    parts = ['development', 'test'] if split == 'both' else [split]
    for fs in folds.values():
        for f in fs:
            f['split'] = [pd.concat([f[o][v] for o in parts]) for v in (0, 1)]
    first, rows = next(iter(folds.values())), table.df.set_index('image_id')
    truth, oof = (
        rows.loc[first[0]['split'][0].index],
        rows.loc[ensemble.out_of_fold([f['validation'][0] for f in first]).index],
    )
    if truth[table.labels].isna().any(axis=None):
        raise ValueError(f'{split} is not labelled; name a split that is, --split development')
    return AttrDict(
        labels=table.labels,
        truth=truth,
        oof_truth=oof,
        folds=folds,
        source=table.source,
        credentialed=table.credentialed,
        runs=configs,
    )


def synthetic(seed=0):
    "The same as `load` without runs or images: simulated predictions of five folds in the numbers of CXR-LT 2023 (75,492 test images)"
    rng, labels = np.random.default_rng(seed), list(TRAIN_POSITIVES)
    prevalence = np.array(list(TRAIN_POSITIVES.values())) / TRAIN_IMAGES

    def people(n, name):
        patient = np.repeat(np.arange(n), rng.geometric(1 / 5.8, n))[:n]
        study = patient * 100 + rng.integers(0, 3, n)
        code, ids = pd.factorize(study)
        burden = (
            rng.normal(size=(patient.max() + 1, 26))[patient] + 0.5 * rng.normal(size=(len(ids), 26))[code]
        )  # a study's images share labels
        y = (burden > np.sqrt(1.25) * norm.isf(prevalence)).astype('int8')
        ids = pd.Index([f'{name}{k}' for k in range(n)], name='image_id')
        truth = pd.DataFrame(y, ids, labels).assign(patient_id=patient, study_id=study)
        return truth, lambda rows, noise: pd.DataFrame(
            1 / (1 + np.exp(2 - burden[rows] - noise * rng.normal(size=(len(rows), 26)))), ids[rows], labels, 'float32'
        )

    (truth, say), (oof, say_oof) = people(75_492, 't'), people(TRAIN_IMAGES, 'v')
    fold = oof.patient_id.to_numpy() % 5
    both = lambda f, rows: [f(rows, o) for o in (1.0, 1.1)]
    folds = [
        dict(split=both(say, np.arange(len(truth))), validation=both(say_oof, np.flatnonzero(fold == k)))
        for k in range(5)
    ]
    return AttrDict(labels=labels, truth=truth, oof_truth=oof, folds={'synthetic': folds}, source='synthetic')


def oof_table(d, n):
    "Each fold on its own validation images, and all of them together"
    rows = {}
    for c, folds in d.folds.items():
        for k, f in enumerate(folds):
            p = f['validation'][0]
            t = d.oof_truth.loc[p.index]
            rows[f'{c}, fold {k}'] = dict(images=len(p), patients=t.patient_id.nunique()) | cells(
                intervals.bootstrap(t[d.labels].astype(int), p[d.labels], t.patient_id, list(NAMES), n)
            )
    return pd.DataFrame(rows).T


def cells(b):
    return {NAMES[m]: f'{v.value:.4f} [{v.low:.4f}, {v.high:.4f}]' for m, v in b.iterrows()}


def blend(d):
    "Weights of each configuration's image and mirror learned out of fold; (weights, honest out-of-fold blend, blend of the split)"
    views = {f'{c}, {v}': (c, k) for c in d.folds for k, v in enumerate(('image', 'mirror'))}
    oof = {name: ensemble.out_of_fold([f['validation'][k] for f in d.folds[c]]) for name, (c, k) in views.items()}
    y = d.oof_truth[d.labels].astype(int)
    nested, _ = ensemble.nested_blend(oof, y, d.oof_truth.patient_id)
    weights = ensemble.blend_weights(oof, y)
    split = {name: ensemble.mean_ensemble([f['split'][k] for f in d.folds[c]]) for name, (c, k) in views.items()}
    return weights, nested, ensemble.mean_ensemble(split, weights=weights), ensemble.mean_ensemble(oof)


def steps(d, blended):
    "The rungs: folds, TTA, their mean, further configurations, blend, study mean"
    tta = {c: [ensemble.mean_ensemble(f['split']) for f in folds] for c, folds in d.folds.items()}
    (c, folds), *more = d.folds.items()
    out = {f'fold {k}': folds[k]['split'][0] for k in reversed(range(len(folds)))} | {
        'fold 0, TTA': tta[c][0],
        'mean of folds, TTA': ensemble.mean_ensemble(tta[c]),
    }
    out |= {f'the same of {o}': ensemble.mean_ensemble(tta[o]) for o, _ in more}
    if more:
        out['mean of configurations'] = ensemble.mean_ensemble([ensemble.mean_ensemble(o) for o in tta.values()])
    return out | {'blend': blended, 'study mean of the blend': ensemble.study_mean(blended, d.truth.study_id)}


def report(d, n):
    "Print everything"
    y, gone = d.truth[d.labels].astype(int), [o for o in d.labels if not d.truth[o].any()]
    print(
        f'{d.source}: {len(y):,} images of {d.truth.patient_id.nunique():,} patients, {len(d.labels)} labels'
        + (f'; without a positive, and left out: {gone}' if gone else '')
    )
    print(
        f'\nFolds on their own validation images, mAP, mAUC and mF1 with 95 % intervals over patients ({n:,} replicates)'
    )
    print(oof_table(d, n).to_string())
    weights, nested, blended, oof_tta = blend(d)
    rungs = ensemble.ladder(y, steps(d, blended), d.truth.patient_id, n)
    print('\nThe split that no model has seen')
    print(pd.DataFrame({s: cells(t.droplevel(0)) for s, t in rungs.groupby(level=0, sort=False)}).T.to_string())
    print('\nPaired difference to the line above')
    print(
        pd.DataFrame(
            {
                s: {
                    NAMES[m]: f'{v.difference:+.4f} [{v.diff_low:+.4f}, {v.diff_high:+.4f}]'
                    for m, v in t.droplevel(0).iterrows()
                }
                for s, t in rungs.dropna().groupby(level=0, sort=False)
            }
        ).T.to_string()
    )
    y_oof = d.oof_truth[d.labels].astype(int)
    quick = lambda p: ensemble.quick_map(y_oof.to_numpy(), p.loc[y_oof.index, d.labels].to_numpy())
    print('\nBlend weights, learned out of fold:', ', '.join(f'{k} {v:.2f}' for k, v in weights.items()))
    print(f'out-of-fold mAP: image and mirror {quick(oof_tta):.4f}, blend with nested weights {quick(nested):.4f}')
    cut = metrics.best_thresholds(y_oof, oof_tta.loc[y_oof.index, d.labels])
    tta = ensemble.mean_ensemble([ensemble.mean_ensemble(f['split']) for f in next(iter(d.folds.values()))])[d.labels]
    print(
        f'mean of folds, TTA: mF1 {metrics.f1(y, tta).mean():.4f} at 0.5, {metrics.f1(y, tta, cut).mean():.4f} at thresholds learned out of fold'
    )
    return rungs


def reliability(y, prob, bins=15):
    "Mean prediction, observed frequency and number of cells in each bin of equal width, all labels pooled"
    p = prob.to_numpy().ravel()
    return (
        pd.DataFrame(dict(bin=np.minimum((p * bins).astype(int), bins - 1), predicted=p, observed=y.to_numpy().ravel()))
        .groupby('bin')
        .agg(predicted=('predicted', 'mean'), observed=('observed', 'mean'), cells=('observed', 'size'))
    )


def save(d, rungs, n, to):
    "Write what the pages show of the first configuration: the ladder, each label's AP, reliability before and after de-calibration"
    if d.credentialed:
        raise ValueError('results of credentialed data may not be written into the repository')
    c, folds = next(iter(d.folds.items()))
    runs, y = d.runs[c], d.truth[d.labels].astype(int)
    said = dict(
        made_by='tests/folds_report.py',
        scored_on=f'{len(y)} images of {d.truth.patient_id.nunique()} patients',
        interval=f'95 %, {n} replicates over patients, seed 0',
    )
    before = ensemble.mean_ensemble([v for f in folds for v in f['split']])[d.labels]
    after = ensemble.mean_ensemble([predict.posterior(v, r.p) for r, f in zip(runs, folds) for v in f['split']])[
        d.labels
    ]
    labels = intervals.label_intervals(y, before, d.truth.patient_id, n=n).assign(
        chance_p95=intervals.chance_level(y, before).label_p95
    )
    both = {'output': before, 'de-calibrated': after}
    bins = pd.concat(
        {k: reliability(y, p).assign(ece=metrics.ece(y, p).mean()) for k, p in both.items()}, names=['scale']
    )
    for name, t in dict(folds_ladder=rungs, folds_labels=labels.rename_axis('label'), folds_reliability=bins).items():
        write_result(to / f'{name}.csv', t.reset_index(), runs, **said)


@call_parse
def main(
    runs: Annotated[Path, {'nargs': '*'}],  # Finished runs: all folds of each configuration
    split: str = 'both',  # development, test, or both
    root: Path = None,  # Folder of the release, if it has moved
    n: int = 1000,  # Replicates
    save_to: Path = None,  # Folder for the numbers that the pages show
    synthetic_full_size: bool = False,  # Simulated predictions of 75,492 images instead of runs
):
    "What TTA, folds, blend and study mean are worth, with intervals"
    start = time.perf_counter()
    warnings.simplefilter('ignore', UserWarning)  # labels without a positive are named above
    d = synthetic() if synthetic_full_size else load(runs, split, root)
    print(f'ready after {time.perf_counter() - start:.1f} s')
    start = time.perf_counter()
    if synthetic_full_size:
        intervals.bootstrap(d.truth[d.labels], d.folds['synthetic'][0]['split'][0], d.truth.patient_id, list(NAMES), n)
        print(
            f'one prediction set, {len(d.truth):,} x {len(d.labels)}: mAP, mAUC, mF1 and {n:,} replicates in {time.perf_counter() - start:.1f} s'
        )
    rungs = report(d, n)
    if save_to:
        save(d, rungs, n, save_to)
    print(
        f'\n{time.perf_counter() - start:.1f} s, at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB'
    )
