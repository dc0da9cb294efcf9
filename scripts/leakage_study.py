"""How much folds that divide patients raise a measured mAP: `python scripts/leakage_study.py`.

Trains ten small models on the phantom: five folds by patient and five by image, otherwise alike. Each model is scored
on the validation images of its fold, and on the held-out patients (development and test), which neither rule touches.
If there is leakage, mAP is higher on the former and not on the latter. Both rules validate the same training images,
so their difference is paired. Writes `nbs/results/leakage.csv`; takes about ten minutes on two cores.
"""

from pathlib import Path

import pandas as pd

from cxrlt_nb import cli
from cxrlt_nb.ensemble import out_of_fold
from cxrlt_nb.files import home
from cxrlt_nb.folds import kfold, leakage
from cxrlt_nb.intervals import Estimate, estimates
from cxrlt_nb.predict import run_table
from cxrlt_nb.runs import open_run, read_predictions, write_result

RESULT = Path(__file__).parent.parent / 'nbs/results/leakage.csv'
PARAMETERS = dict(data='phantom', preset='demo', images=1500, epochs=8, threads=1)
RULES = ['patient', 'image']
N_FOLDS = 5


def train(rule, fold):
    "Train one fold by one rule, unless its run is finished; the run"
    out = home() / f'runs/leakage/{rule}-{fold}'
    parameters = PARAMETERS | dict(fold=fold, fold_by=rule, out=out)
    arguments = [text for name, value in parameters.items() for text in (f'--{name}', str(value))]
    if cli.main(['train', *arguments]):
        raise SystemExit(f'the training of {out} failed')
    run = open_run(out)
    if (run.p.fold_by, run.p.fold) != (rule, fold):
        raise ValueError(f'{out} is fold {run.p.fold} by {run.p.fold_by}; delete that folder')
    return run


def saved(run, *splits):
    "Saved predictions of some splits, one below the other"
    return pd.concat([read_predictions(run.folder / f'predictions/{split}.parquet') for split in splits])


def score(predictions, df, labels):
    "Mean AP of several predictions of the same images (an `Estimate`), and the targets"
    rows = df.loc[predictions[0].index]
    y = rows[labels].astype(int)
    found = [estimates(y, p.loc[y.index, labels], rows.patient_id, metrics=['map'])['map'] for p in predictions]
    return Estimate.mean(found), y


def score_rule(runs, df, labels):
    "Scores of the five models of one rule: on their validation images, and on the held-out patients"
    validation = out_of_fold([saved(run, 'validation') for run in runs]).sort_index()
    held_out = [saved(run, 'development', 'test') for run in runs]
    return {'validation': score([validation], df, labels), 'test': score(held_out, df, labels)}


def table_row(rule, where, scored, df, leak):
    "One line of the table"
    estimate, y = scored
    counts = dict(models=N_FOLDS, images=len(y), patients=df.loc[y.index].patient_id.nunique())
    leaks = dict(patient_leak=leak.patient, study_leak=leak.study)
    return dict(rule=rule, where=where, **counts, **leaks, **estimate.macro())


def difference_row(where, patient, image):
    "Image minus patient, on the same images and draws"
    (estimate_a, y_a), (estimate_b, y_b) = patient, image
    if not y_a.index.equals(y_b.index):
        raise ValueError(f'{where}: the rules were scored on different images; the difference would not be paired')
    paired = estimate_b.minus(estimate_a)
    return dict(rule='image minus patient', where=where, value=paired.pop('difference'), **paired)


def main():
    runs = {rule: [train(rule, fold) for fold in range(N_FOLDS)] for rule in RULES}
    table = run_table(runs['patient'][0])
    train_rows, df = table.df[table.df.split == 'train'], table.df.set_index('image_id')
    rows, scored = [], {}
    for rule in RULES:
        fold = kfold(train_rows, table.labels, N_FOLDS, rule, runs[rule][0].p.split_seed)
        scored[rule] = score_rule(runs[rule], df, table.labels)
        leak = leakage(train_rows, fold).mean()
        rows += [table_row(rule, where, result, df, leak) for where, result in scored[rule].items()]
    rows += [difference_row(where, *(scored[rule][where] for rule in RULES)) for where in ('validation', 'test')]
    result = pd.DataFrame(rows)
    all_runs = [run for rule in RULES for run in runs[rule]]
    interval = '95 %, basic, 1,000 replicates over patients, seed 0'
    write_result(RESULT, result, all_runs, made_by='scripts/leakage_study.py', interval=interval)
    print(result.round(4).to_string())


if __name__ == '__main__':
    main()
