"""Labels from reports against labels from radiologists: `python scripts/radiologists.py LABELS RUN …`.

NIH's labels were extracted from reports by a program. Radiologists have read some images of its test list again
(Majkowska et al., Radiology 2020). The same predictions, the mean of the given runs and of each image and its mirror,
are scored with both sets of labels on the images that have both. Writes `radiologists.csv`: for each
finding how often the two agree, AUC and AP with either, and the paired difference over patients.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
from fastcore.script import call_parse
from sklearn.metrics import cohen_kappa_score

from cxrlt_nb.ensemble import mean_ensemble
from cxrlt_nb.evaluate import read_labels
from cxrlt_nb.intervals import MIN_POSITIVE_PATIENTS, estimates, label_interval, paired_interval
from cxrlt_nb.predict import mirror_predictions, open_model, run_table
from cxrlt_nb.runs import check_comparable, write_result

RESULT = Path(__file__).parent.parent / 'nbs/results/radiologists.csv'


def agreement(report, radiologist):
    "How far two sets of 0/1 labels of one finding agree"
    both = int((report & radiologist).sum())
    counts = dict(report=int(report.sum()), radiologist=int(radiologist.sum()), both=both)
    found = dict(sensitivity=both / max(1, counts['radiologist']), ppv=both / max(1, counts['report']))
    return counts | found | dict(kappa=cohen_kappa_score(report, radiologist))


def score(scored, metric, label):
    "Value and interval of a finding with either set of labels, and the difference"
    line = {}
    for by, found in scored.items():
        o = found[metric].of([label])
        ends = label_interval(o.value, o.reps, o.patients)
        line |= {f'{metric}_{by}': o.value[label]}
        line |= {f'{metric}_{by}_{k}': v[label] for k, v in ends.items()}
    report, radiologist = (scored[by][metric].of([label]) for by in ('report', 'radiologist'))
    if min(report.patients[label], radiologist.patients[label]) >= MIN_POSITIVE_PATIENTS:
        difference = radiologist.value[label] - report.value[label]
        paired = paired_interval(difference, (radiologist.reps - report.reps)[label].dropna())
        line |= {f'{metric}_{k}': v for k, v in paired.items()}
    return line


def mean_row(scored, metric, labels):
    "The same of the mean over findings"
    line = {}
    for by, found in scored.items():
        macro = found[metric].of(labels).macro()
        line |= {f'{metric}_{by}': macro.pop('value')} | {f'{metric}_{by}_{k}': v for k, v in macro.items()}
    report, radiologist = (scored[by][metric].of(labels) for by in ('report', 'radiologist'))
    return line | {f'{metric}_{k}': v for k, v in radiologist.minus(report).items()}


def compare(p, report, radiologist, patients, n):
    "A line per finding, and the mean over those with five positive patients or more in both sets"
    scored = {
        by: estimates(y, p, patients, n, metrics=('map', 'mauc'))
        for by, y in dict(report=report, radiologist=radiologist).items()
    }
    lines, enough = [], []
    for label in p:
        line = dict(finding=label, **agreement(report[label] == 1, radiologist[label] == 1))
        known = [found['mauc'].patients.get(label, 0) for found in scored.values()]
        if min(known) > 0:
            line |= score(scored, 'mauc', label) | score(scored, 'map', label)
        if min(known) >= MIN_POSITIVE_PATIENTS:
            enough.append(label)
        lines.append(line)
    if enough:
        mean = dict(finding=f'mean of {len(enough)}')
        for metric in ('mauc', 'map'):
            mean |= mean_row(scored, metric, enough)
        lines.append(mean)
    return pd.DataFrame(lines)


@call_parse
def main(
    experts: Path,  # The radiologists' labels, one row per image
    runs: Annotated[Path, dict(nargs='+')],  # Folders of finished runs on NIH ChestX-ray14
    out: Path = RESULT,  # The csv file to write
    n: int = 1000,  # Replicates
):
    "Score the runs with both sets of labels"
    opened = [open_model(o) for o in runs]
    check_comparable(opened, ignore=['fold', 'images', 'held_out', 'threads'])
    table, labels = run_table(opened[0]), read_labels(f'nih-experts:{experts}')
    p = mean_ensemble([view for run in opened for view in mirror_predictions(run, table)['test']])
    df = table.df.set_index('image_id')
    df.index = df.index.map(lambda o: Path(o).stem)
    p.index = p.index.map(lambda o: Path(o).stem)
    ids = p.index.intersection(labels.y.index)
    findings = [o for o in opened[0].labels if o in labels.y]
    report, radiologist = (y.loc[ids, findings].astype(int) for y in (df, labels.y))
    result = compare(p.loc[ids, findings], report, radiologist, df.patient_id[ids], n)
    result = result.assign(images=len(ids), patients=df.patient_id[ids].nunique())
    interval = f'95 %, {n} replicates over patients, seed 0'
    write_result(out, result, opened, made_by='scripts/radiologists.py', interval=interval)
    shown = ['report', 'radiologist', 'both', 'kappa', 'mauc_report', 'mauc_radiologist', 'mauc_difference']
    print(result.set_index('finding').reindex(columns=shown).round(3).to_string())
