"""How much folds that divide patients raise a measured mAP: `python scripts/leakage_study.py [--data nih --root DIR]`.

Trains ten small models: five folds by patient and five by image, otherwise alike. Each model is scored on the
validation images of its fold, and on the held-out patients (development and test), which neither rule touches. If
there is leakage, mAP and mAUC are higher on the former and not on the latter. Both rules validate the same training
images, so their difference is paired. Writes `nbs/results/leakage.csv` (phantom; ten minutes on two cores) or
`leakage_nih.csv` (half an hour). Two trainings run at once, with one thread each; interrupted, it resumes.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import pandas as pd
from fastcore.script import call_parse

from cxrlt_nb.ensemble import out_of_fold
from cxrlt_nb.files import home
from cxrlt_nb.folds import kfold, leakage
from cxrlt_nb.intervals import Estimate, estimates
from cxrlt_nb.predict import run_table
from cxrlt_nb.runs import open_run, read_predictions, write_result

RESULTS = Path(__file__).parent.parent / 'nbs/results'
PARAMETERS = dict(
    phantom=dict(preset='demo', images=1500, epochs=8, threads=1),
    nih=dict(preset='laptop', images=4000, size=96, threads=1),
)
METRICS = ('map', 'mauc')
RULES = ['patient', 'image']
N_FOLDS = 5


def train(data, root, rule, fold):
    "Train one fold by one rule, unless its run is finished; the run"
    out = home() / f'runs/leakage{"" if data == "phantom" else f"-{data}"}/{rule}-{fold}'
    parameters = PARAMETERS[data] | dict(data=data, root=root, fold=fold, fold_by=rule, out=out)
    arguments = [text for name, value in parameters.items() for text in (f'--{name}', str(value))]
    command = 'from cxrlt_nb.cli import _program; _program()'
    subprocess.run([sys.executable, '-c', command, 'train', *arguments], check=True)
    run = open_run(out)
    if (run.p.fold_by, run.p.fold) != (rule, fold):
        raise ValueError(f'{out} is fold {run.p.fold} by {run.p.fold_by}; delete that folder')
    return run


def saved(run, *splits):
    "Saved predictions of some splits, one below the other"
    return pd.concat([read_predictions(run.folder / f'predictions/{split}.parquet') for split in splits])


def score(predictions, df, labels):
    "Mean of several predictions' scores on the same images (an `Estimate` by metric), and the targets"
    rows = df.loc[predictions[0].index]
    y = rows[labels].astype('float64')  # NaN where unknown
    found = [estimates(y, p.loc[y.index, labels], rows.patient_id, metrics=METRICS) for p in predictions]
    return {metric: Estimate.mean([o[metric] for o in found]) for metric in METRICS}, y


def score_rule(runs, df, labels):
    "Scores of the five models of one rule: on their validation images, and on the held-out patients"
    validation = out_of_fold([saved(run, 'validation') for run in runs]).sort_index()
    held_out = [saved(run, 'development', 'test') for run in runs]
    return {'validation': score([validation], df, labels), 'test': score(held_out, df, labels)}


def table_row(rule, where, metric, scored, df, leak):
    "One line of the table"
    estimate, y = scored[0][metric], scored[1]
    counts = dict(models=N_FOLDS, images=len(y), patients=df.loc[y.index].patient_id.nunique())
    leaks = dict(patient_leak=leak.patient, study_leak=leak.study)
    return dict(rule=rule, where=where, metric=metric, **counts, **leaks, **estimate.macro())


def difference_row(where, metric, patient, image):
    "Image minus patient, on the same images and draws"
    (found_a, y_a), (found_b, y_b) = patient, image
    if not y_a.index.equals(y_b.index):
        raise ValueError(f'{where}: the rules were scored on different images; the difference would not be paired')
    paired = found_b[metric].minus(found_a[metric])
    return dict(rule='image minus patient', where=where, metric=metric, value=paired.pop('difference'), **paired)


@call_parse
def main(
    data: str = 'phantom',  # phantom or nih
    root: str = '',  # Folder of the release
    at_once: int = 2,  # Trainings at once
):
    "Train ten models and write the table"
    asked = list(product(RULES, range(N_FOLDS)))
    with ThreadPoolExecutor(at_once) as pool:
        done = dict(zip(asked, pool.map(lambda o: train(data, root, *o), asked)))
    runs = {rule: [done[rule, fold] for fold in range(N_FOLDS)] for rule in RULES}
    table = run_table(runs['patient'][0])
    train_rows, df = table.df[table.df.split == 'train'], table.df.set_index('image_id')
    rows, scored = [], {}
    for rule in RULES:
        fold = kfold(train_rows, table.labels, N_FOLDS, rule, runs[rule][0].p.split_seed)
        scored[rule] = score_rule(runs[rule], df, table.labels)
        leak = leakage(train_rows, fold).mean()
        for (where, result), metric in product(scored[rule].items(), METRICS):
            rows.append(table_row(rule, where, metric, result, df, leak))
    for where, metric in product(('validation', 'test'), METRICS):
        rows.append(difference_row(where, metric, *(scored[rule][where] for rule in RULES)))
    result, interval = pd.DataFrame(rows), '95 %, basic, 1,000 replicates over patients, seed 0'
    file = RESULTS / f'leakage{"" if data == "phantom" else f"_{data}"}.csv'
    write_result(file, result, list(done.values()), made_by='scripts/leakage_study.py', interval=interval)
    print(result.round(4).to_string())
