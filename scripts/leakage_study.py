"""What folds that share patients do to a measured mAP: `python tests/leakage_study.py`.

Ten small runs on the phantom, five folds by patient and five by image, otherwise alike. Each is scored on the validation images of its fold and on the
same held-out patients (development and test), which no rule touches: an mAP that leaks is high on the first and not on the second. The same training images
are validated under both rules, so the difference is paired. Writes `nbs/results/leakage.csv`. About ten minutes on two cores.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlt_nb import ensemble, folds, intervals, predict, runs

BIN, ROOT = Path(sys.executable).parent, Path(__file__).parent.parent
PRESET = dict(data='phantom', scale='demo', images=1500, epochs=8, threads=1)
RULES, K = ['patient', 'image'], 5


def run(rule, fold):
    "Train, or find the finished run; opened"
    out = files.home() / 'runs/leakage' / f'{rule}-{fold}'
    if not (out / 'record.json').exists():
        args = [str(o) for k, v in (PRESET | dict(fold=fold, fold_by=rule, out=out)).items() for o in ('-p', k, v)]
        subprocess.run(
            [
                BIN / 'papermill',
                '--log-level',
                'WARNING',
                '--no-progress-bar',
                ROOT / 'nbs/05_train.ipynb',
                f'{out}.ipynb',
                *args,
            ],
            check=True,
            env=dict(os.environ, JUPYTER_PREFER_ENV_PATH='1'),
        )
    found = predict.open_run(out)
    if (found.p.fold_by, found.p.fold) != (rule, fold):
        raise ValueError(f'{out} is fold {found.p.fold} by {found.p.fold_by}; delete that folder')
    return found


def saved(run, *parts):
    return pd.concat([runs.read_predictions(run.folder / f'predictions/{o}.parquet') for o in parts])


def main():
    (files.home() / 'runs/leakage').mkdir(parents=True, exist_ok=True)
    opened = {r: [run(r, k) for k in range(K)] for r in RULES}
    table = predict.run_table(opened['patient'][0])
    df, labels = table.df.set_index('image_id'), table.labels
    reps, rows = {}, []
    for r in RULES:
        leak = folds.leakage(
            train := table.df[table.df.split == 'train'], folds.kfold(train, labels, K, r, opened[r][0].p.split_seed)
        ).mean()
        oof, held = (
            ensemble.out_of_fold([saved(o, 'validation') for o in opened[r]]),
            [saved(o, 'development', 'test') for o in opened[r]],
        )
        for where, sets in dict(validation=[oof.sort_index()], test=held).items():
            t = df.loc[sets[0].index]
            y = t[labels].astype(int)
            every = [
                intervals.replicates(y, p.loc[y.index, labels], t.patient_id)['map'].loc[:, y.any()].mean(axis=1)
                for p in sets
            ]
            value = np.mean([intervals.by_label('map', y, p.loc[y.index, labels]).mean() for p in sets])
            reps[r, where] = np.mean(every, axis=0), value, y.index
            rows.append(
                dict(
                    rule=r,
                    where=where,
                    models=K,
                    images=len(y),
                    patients=t.patient_id.nunique(),
                    patient_leak=leak.patient,
                    study_leak=leak.study,
                    value=value,
                )
                | intervals.percentile_interval(reps[r, where][0])
            )
    for where in ('validation', 'test'):
        (a, va, ia), (b, vb, ib) = (reps[r, where] for r in RULES)
        if not ia.equals(ib):
            raise ValueError(
                f'{where}: the two rules were scored on different images; the difference would not be paired'
            )
        rows.append(dict(rule='image minus patient', where=where, value=vb - va) | intervals.percentile_interval(b - a))
    table = pd.DataFrame(rows)
    runs.write_result(
        ROOT / 'nbs/results/leakage.csv',
        table,
        [o for r in RULES for o in opened[r]],
        made_by='tests/leakage_study.py',
        interval='95 %, 1,000 replicates over patients, seed 0',
    )
    print(table.round(4).to_string())


if __name__ == '__main__':
    main()
