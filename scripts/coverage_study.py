"""How often an interval contains the truth: `python scripts/coverage_study.py --processes 2`.

Simulates test sets (patients, their studies, their images, correlated scores of two models), computes the intervals of
`cxrlt_nb.intervals` by several methods, and counts how often they contain the true value, which is known from a very
large simulated sample. Writes `coverage.csv` (means over labels and paired differences), `coverage_labels.csv` (single
labels) and `coverage_seeds.csv` (comparisons of methods) to `nbs/results`. Finished blocks of repetitions are kept in
`runs/coverage`; if interrupted, run the same command again to resume. No patient data is needed.
"""

import argparse
import hashlib
import inspect
import json
import multiprocessing
import os
import time
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit, logit

from cxrlt_nb.files import home, write_atomically
from cxrlt_nb.intervals import (
    interval,
    macro_replicates,
    paired_interval,
    positive_patients,
    replicates,
    seeds_interval,
)
from cxrlt_nb.metrics import METRICS, tiers
from cxrlt_nb.runs import environment, module_fingerprint
from cxrlt_nb.table import TRAIN_IMAGES, TRAIN_POSITIVES

RESULTS = Path(__file__).parent.parent / 'nbs/results'
WALKED = ('map', 'mauc', 'mf1')

# Designs

Hospital = namedtuple('Hospital', 'prevalence tail studies more_images')  # mean studies per patient; see `hierarchy`

CXR_LT = np.array(list(TRAIN_POSITIVES.values())) / TRAIN_IMAGES
# Wang et al. 2017, ChestX-ray14: positives of the 14 findings among 112,120 images of 30,805 patients.
NIH_POSITIVES = [11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227]
NIH = np.array(NIH_POSITIVES) / 112_120
RARE = np.geomspace(0.004, 0.3, 26)


def lowest_third(prevalence):
    "The rarest third of the labels, `(C,)`"
    return prevalence <= np.sort(prevalence)[len(prevalence) // 3 - 1]


# CXR-LT: 3.43 studies of 1.66 images per patient, from the published counts of the training split.
HOSPITALS = {
    'CXR-LT': Hospital(CXR_LT, (tiers(list(TRAIN_POSITIVES)) == 'tail').to_numpy(), 3.43, 0.22),
    'NIH': Hospital(NIH, lowest_third(NIH), 3.64, 0.0),
    'rare': Hospital(RARE, lowest_third(RARE), 3.43, 0.22),
}

# Patients, studies, images and scores


def hierarchy(studies, more_images, rng):
    "Patient of each study, and study of each image; a study has one image and up to three more"
    patient = np.repeat(np.arange(len(studies)), studies)
    return patient, np.repeat(np.arange(len(patient)), 1 + rng.binomial(3, more_images, len(patient)))


def separations(n_labels, lowest, highest):
    "Distance between the scores of positive and negative images, by label, unrelated to the prevalence"
    return np.linspace(lowest, highest, n_labels)[np.random.default_rng(3).permutation(n_labels)]


def scorer(y, signal, noise):
    "A function that draws the probabilities of one training: its noise is half its own, half shared by all trainings"
    shared = noise()

    def score(shift):
        return expit(signal + shift * y + 0.7 * shared + 0.71 * noise() - 1.5)

    return score


def latent_normal(hospital, n_patients, rng):
    "A finding is a high latent severity, which runs in the patient; noise is normal in patient, study and image"
    studies = rng.geometric(1 / hospital.studies, n_patients)
    patient_of, study = hierarchy(studies, hospital.more_images, rng)
    n_labels = len(hospital.prevalence)

    def draw(n):
        return rng.standard_normal((n, n_labels))

    severity = np.sqrt(0.4) * draw(n_patients)[patient_of] + np.sqrt(0.6) * draw(len(patient_of))
    y = (severity > stats.norm.isf(hospital.prevalence))[study]
    patient = patient_of[study]

    def noise():
        return 0.5 * draw(n_patients)[patient] + 0.5 * draw(len(patient_of))[study] + 0.7 * draw(len(study))

    signal = separations(n_labels, 0.15, 1.3) * y + 0.2 * severity[study]
    return y.astype('int8'), patient, scorer(y, signal, noise)


@cache
def base_rates(prevalence, studies):
    "Rate of each finding in `frailty`, so that its share of the images is the prevalence"
    rng = np.random.default_rng(0)
    shared, own = rng.gamma(1.5, 1 / 1.5, 100_000), rng.gamma(0.8, 1 / 0.8, 100_000)

    def excess(rate, wanted):
        return np.average(-np.expm1(-rate * shared * own), weights=1 + (studies - 1) * shared) - wanted

    return np.array([brentq(excess, 0, 50, args=(p,)) for p in prevalence])


def frailty(hospital, n_patients, rng):
    "Frail patients have more findings and more studies; noise has heavy tails (Student's t, 5 degrees of freedom)"
    n_labels = len(hospital.prevalence)
    shared = rng.gamma(1.5, 1 / 1.5, (n_patients, 1))
    own = rng.gamma(0.8, 1 / 0.8, (n_patients, n_labels))
    risk = -np.expm1(-base_rates(tuple(hospital.prevalence), hospital.studies) * shared * own)
    studies = 1 + rng.poisson((hospital.studies - 1) * shared[:, 0])
    patient_of, study = hierarchy(studies, hospital.more_images, rng)
    y = (rng.random((len(patient_of), n_labels)) < risk[patient_of])[study]
    patient = patient_of[study]

    def noise():
        of_study = 0.6 * rng.standard_t(5, (len(patient_of), n_labels))[study]
        of_patient = 0.5 * rng.standard_normal((n_patients, n_labels))[patient]
        return of_study + of_patient + 0.6 * rng.standard_normal((len(study), n_labels))

    return y.astype('int8'), patient, scorer(y, separations(n_labels, 0.55, 1.95) * y, noise)


GENERATORS = {'latent normal': latent_normal, 'frailty': frailty}
BETTER = 0.15  # separation that the second model has more than the first


def simulate(generator, hospital, n_patients, seed):
    "Targets `(N,C)`, patient of each image `(N,)`, and the scores of two models `(N,C)`"
    y, patient, score = GENERATORS[generator](HOSPITALS[hospital], n_patients, np.random.default_rng(seed))
    return y, patient, [score(0), score(BETTER)]


# The truth

EDGES = np.linspace(-12, 12, 24_001)


def histogram(y, score):
    "How many negative and how many positive images have a score in each bin, `(2,C,bins)`"
    bins, n_labels = len(EDGES) - 1, y.shape[1]
    at = np.searchsorted(EDGES, logit(score), side='right').clip(1, bins) - 1
    cell = (y * n_labels + np.arange(n_labels)) * bins + at
    return np.bincount(cell.ravel(), minlength=2 * n_labels * bins).reshape(2, n_labels, bins)


def from_histogram(counts):
    "AP, AUC and F1 of each label `(3,C)` from counts of negatives and positives by bin `(2,C,bins)`"
    negative, positive = counts[:, :, ::-1]
    tp, fp = positive.cumsum(1), negative.cumsum(1)
    n_positive, n_negative = tp[:, -1], fp[:, -1]
    ap = (positive * tp / np.maximum(tp + fp, 1)).sum(1) / n_positive
    auc = (negative * (tp - positive / 2)).sum(1) / (n_positive * n_negative)
    cut = (EDGES >= 0).sum() - 2  # the last bin, from above, with probabilities of 0.5 or more
    return np.array([ap, auc, 2 * tp[:, cut] / (tp[:, cut] + fp[:, cut] + n_positive)])


def compute_truth(generator, hospital, n_patients):
    "AP, AUC and F1 of both models in a sample of very many patients, `(2,3,C)`, and the prevalences `(C,)`"
    counts, portion = 0, min(n_patients, 10_000)
    for seed in range(n_patients // portion):
        y, _, scores = simulate(generator, hospital, portion, (seed, 2**31))
        counts = counts + np.array([histogram(y, score) for score in scores])
    prevalence = counts[0, 1].sum(1) / counts[0].sum((0, 2))
    return np.array([from_histogram(model) for model in counts]), prevalence


# Intervals of one simulated test set

METHODS = ('percentile', 'basic', 'normal')


def values(y, score):
    "AP, AUC and F1 of each label; NaN without a positive image. The same as `METRICS`, without its checks: faster"
    n_pos = np.where(y.any(0), y.sum(0), np.nan)
    rank_sum = (stats.rankdata(score, axis=0) * y).sum(0)
    called = score >= 0.5
    return {
        'map': METRICS['map'].by_label(y, score).to_numpy(),
        'mauc': (rank_sum - n_pos * (n_pos + 1) / 2) / (n_pos * (len(y) - n_pos)),
        'mf1': 2 * (called & (y == 1)).sum(0) / (called.sum(0) + n_pos),
    }


def intervals(value, reps):
    "`interval` by each method, which computes its quantiles once: faster"
    low, high = np.nanquantile(reps, [0.025, 0.975])
    middle, half = 2 * value - np.nanmean(reps), stats.norm.ppf(0.975) * np.nanstd(reps, ddof=1)
    ends = [(low, high), (2 * value - high, 2 * value - low), (middle - half, middle + half)]
    return dict(zip(METHODS, ends))


def macro_row(plain, corrected, value, truth, **what):
    "One row per method: what, its interval, the value and the truth"
    for suffix, reps in (('', plain), (', corrected', corrected)):
        bias = np.nanmean(reps) - value
        for method, (low, high) in intervals(value, reps).items():
            yield what | dict(method=method + suffix, value=value, truth=truth, bias=bias, low=low, high=high)


def macro_rows(reps, value, truth, patients, tail):
    "Intervals of the macro metrics and of the paired differences, over all labels and over the tail"
    for part, of_part in (('all', np.ones(len(tail), bool)), ('tail', tail)):
        labels = of_part & (patients > 0)
        k, what = patients[labels], dict(labels=part, averaged=labels.sum())
        if not labels.any():
            continue
        for i, m in enumerate(WALKED):
            v, r, t = ([o[m][labels] for o in value], [o[m].loc[:, labels] for o in reps], truth[:, i, labels])
            plain, corrected = r[0].mean(axis=1), macro_replicates(r[0], k)
            yield from macro_row(plain, corrected, v[0].mean(), t[0].mean(), metric=m, **what)
            plain = r[1].mean(axis=1) - r[0].mean(axis=1)
            corrected = macro_replicates(r[1] - r[0], k, difference=True, value=(v[0] + v[1]) / 2)
            v, t = (v[1] - v[0]).mean(), (t[1] - t[0]).mean()
            yield from macro_row(plain, corrected, v, t, metric=f'difference of {m}', **what)


def logit_interval(value, reps, patients):
    "The interval of `label_intervals`, also below its smallest number of positive patients"
    spread = logit(reps.clip(0.001, 0.999)).std() * np.sqrt(patients / (patients - 1))
    half, middle = stats.t.ppf(0.975, patients - 1) * spread, logit(value.clip(0.001, 0.999))
    return dict(low=expit(middle - half), high=expit(middle + half))


def label_rows(reps, value, truth, patients, n_pos):
    "Intervals of the first model for each label with three or more positive patients"
    labels = patients >= 3
    counts = dict(patients=patients[labels], images=n_pos[labels])
    for i, m in enumerate(WALKED):
        v, r = pd.Series(value[0][m][labels]), reps[0][m].loc[:, labels].set_axis(range(labels.sum()), axis=1)
        ends = {o: interval(v, r, o) for o in ('percentile', 'basic')}
        ends['logit'] = logit_interval(v, r, patients[labels])
        for method, end in ends.items():
            yield pd.DataFrame(dict(metric=m, method=method, **counts, value=v, truth=truth[0, i, labels], **end))


def repetition(generator, hospital, n_patients, n_replicates, seed, truth):
    "Simulate one test set; rows of its macro intervals, and frames of its label intervals"
    y, patient, scores = simulate(generator, hospital, n_patients, seed)
    k = positive_patients(y, patient)
    value = [values(y, o) for o in scores]
    reps = [replicates(y, o, patient, n_replicates, seed) for o in scores]
    macro = macro_rows(reps, value, truth, k, HOSPITALS[hospital].tail)
    return list(macro), list(label_rows(reps, value, truth, k, y.sum(0)))


# Trainings of two methods

SEEDS = 3
HEAD = HOSPITALS['CXR-LT']._replace(prevalence=np.sort(CXR_LT)[-8:])


def method_scores(n_patients, spread, seed):
    "Three trainings of each of two methods that do not differ: one quality per training, drawn with `spread`"
    rng = np.random.default_rng((seed, 7))
    y, patient, score = latent_normal(HEAD, n_patients, rng)
    return y, patient, [score(spread * rng.normal()) for _ in range(2 * SEEDS)]


@cache
def spread_of_seeds(ratio, n_patients):
    "Spread of the training effect at which one training adds `ratio` times the variance over patients to a difference"
    over_patients, gain = [], []
    for seed in range(200):
        y, patient, score = latent_normal(HEAD, n_patients, np.random.default_rng((seed, 8)))
        maps = [METRICS['map'].macro(y, score(o)) for o in (0, 0, 0.3)]
        over_patients.append(maps[1] - maps[0])
        gain.append((maps[2] - maps[0]) / 0.3)
    return np.sqrt(ratio * np.var(over_patients) / 2) / np.mean(gain)


def seeds_rows(ratio, n_patients, n_replicates, seed, spread):
    "Intervals of the mean difference of two equal methods over three trainings: over patients alone, and with seeds"
    y, patient, scores = method_scores(n_patients, spread, seed)
    k, value = positive_patients(y, patient), [METRICS['map'].by_label(y, o).to_numpy() for o in scores]
    reps = [replicates(y, o, patient, n_replicates, seed, metrics=['map'])['map'] for o in scores]
    differences, macro = [], []
    for a, b in zip(range(SEEDS), range(SEEDS, 2 * SEEDS)):
        differences.append((value[b] - value[a]).mean())
        middle = (value[b] + value[a]) / 2
        macro.append(macro_replicates(reps[b] - reps[a], k, difference=True, value=middle))
    mean, over_patients = np.mean(differences), np.mean(macro, axis=0)
    ends = {
        'one training, patients only': paired_interval(differences[0], macro[0]),
        'three trainings, patients only': paired_interval(mean, over_patients),
        'three trainings, patients and seeds': seeds_interval(differences, over_patients),
    }
    return [dict(ratio=ratio, method=k, value=o['difference'], truth=0.0, **o) for k, o in ends.items()]


# Blocks of repetitions, kept in files

BLOCK = 50
Design = namedtuple('Design', 'generator hospital patients replicates')


@cache
def fingerprint():
    "12 hexadecimal digits that change with the intervals or with the simulation"
    simulation = [hierarchy, separations, scorer, latent_normal, base_rates, frailty, simulate]
    truth = [histogram, from_histogram, compute_truth]
    computed = [values, intervals, macro_row, macro_rows, logit_interval, label_rows, repetition]
    trainings = [method_scores, spread_of_seeds, seeds_rows]
    names = [*simulation, *truth, *computed, *trainings]
    code = [inspect.getsource(o) for o in names] + [module_fingerprint('intervals')]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:12]


def folder():
    return home() / f'runs/coverage/{fingerprint()}'


def saved_truth(generator, hospital, n_patients):
    "`compute_truth`, kept in a file"
    file = folder() / f'truth-{generator}-{hospital}-{n_patients}.npz'
    if not file.exists():
        truth, prevalence = compute_truth(generator, hospital, n_patients)
        with write_atomically(file) as tmp, open(tmp, 'wb') as f:
            np.savez(f, truth=truth, prevalence=prevalence)
    with np.load(file) as f:
        return f['truth'], f['prevalence']


def block_files(design, first, n):
    name = '-'.join(map(str, design)) + f'-{first}-{n}'
    return [folder() / f'{name}.{kind}.parquet' for kind in ('macro', 'labels')]


def block(design, first, n, truth_patients):
    "Repetitions `first` to `first+n-1` of a design, unless their files exist"
    files = block_files(design, first, n)
    if not files[1].exists():
        truth, _ = saved_truth(design.generator, design.hospital, truth_patients)
        done = [repetition(*design, seed, truth) for seed in range(first, first + n)]
        macro = pd.DataFrame([row for rows, _ in done for row in rows])
        labels = pd.concat([o for _, frames in done for o in frames], ignore_index=True)
        for file, df in zip(files, (macro, labels)):
            with write_atomically(file) as tmp:
                df.to_parquet(tmp)


def seeds_file(ratio, first, n, n_patients, n_replicates):
    return folder() / f'seeds-{ratio}-{n_patients}-{n_replicates}-{first}-{n}.parquet'


def seeds_block(ratio, first, n, n_patients, n_replicates):
    "Repetitions of the comparison of two methods, unless their file exists"
    file = seeds_file(ratio, first, n, n_patients, n_replicates)
    if not file.exists():
        spread = spread_of_seeds(ratio, n_patients)
        rows = [o for s in range(first, first + n) for o in seeds_rows(ratio, n_patients, n_replicates, s, spread)]
        with write_atomically(file) as tmp:
            pd.DataFrame(rows).to_parquet(tmp)


# Summaries


def coverage(df, by):
    "Share of the intervals that contain the truth, that lie above it or below it, and their mean width"
    df = df.assign(
        coverage=(df.low <= df.truth) & (df.truth <= df.high),
        truth_below=df.truth < df.low,
        truth_above=df.truth > df.high,
        width=df.high - df.low,
    )
    columns = ['coverage', 'truth_below', 'truth_above', 'width']
    grouped = df.groupby(by, sort=False, observed=True)
    return grouped[columns].mean().assign(n=grouped.size())


def macro_summary(designs, repetitions, block_size):
    "One row per design, labels, metric and method"
    parts = []
    for design in designs:
        files = [block_files(design, o, block_size)[0] for o in range(0, repetitions, block_size)]
        df = pd.concat([pd.read_parquet(o) for o in files])
        df = df[df.value.notna()]  # without a label of the tail, a small sample has no tail
        by = ['labels', 'metric', 'method']
        table = coverage(df, by)
        grouped = df.assign(error=df.value - df.truth).groupby(by, sort=False)
        table['truth'] = grouped.truth.mean()
        table['bias'] = grouped.error.mean()
        table['bias_of_replicates'] = grouped.bias.mean()
        table['sd'] = grouped.error.std()
        parts.append(table.reset_index().assign(**design._asdict(), averaged=grouped.averaged.mean().to_numpy()))
    return pd.concat(parts, ignore_index=True)


CLASSES = [3, 5, 10, 20, 40, 100, 400, np.inf]


def class_names():
    "3–4, 5–9, …, 400 or more"
    return [f'{a}–{b - 1}' for a, b in zip(CLASSES, CLASSES[1:-1])] + [f'{CLASSES[-2]} or more']


def labels_summary(designs, repetitions, block_size):
    "One row per generator, metric, method and number of positives: images (of five patients or more), and patients"
    parts = []
    for design in designs:
        files = [block_files(design, o, block_size)[1] for o in range(0, repetitions, block_size)]
        parts.append(pd.concat([pd.read_parquet(o) for o in files]).assign(generator=design.generator))
    df, tables = pd.concat(parts, ignore_index=True), []
    for counted, rows in (('patients', df), ('images', df[df.patients >= 5])):
        positives = pd.cut(rows[counted], CLASSES, right=False, labels=class_names())
        table = coverage(rows.assign(positives=positives), ['generator', 'metric', 'method', 'positives'])
        tables.append(table.reset_index().assign(counted=counted).sort_values(['generator', 'metric', 'positives']))
    return pd.concat(tables, ignore_index=True)


def seeds_summary(ratios, repetitions, block_size, n_patients, n_replicates):
    "One row per ratio of variances and method"
    firsts = range(0, repetitions, block_size)
    files = [seeds_file(o, first, block_size, n_patients, n_replicates) for o in ratios for first in firsts]
    df = pd.concat([pd.read_parquet(o) for o in files])
    return coverage(df, ['ratio', 'method']).reset_index().assign(patients=n_patients, replicates=n_replicates)


def save(path, table, **head):
    "Write a table below a head, in the format of `cxrlt_nb.runs.write_result`, which needs runs; here there are none"
    made_by = environment()
    made_by = {k: made_by[k] for k in ('commit', 'code', 'python', 'platform', 'cpu_cores', 'versions')}
    finished = time.strftime('%Y-%m-%dT%H:%M:%S%z')
    head = dict(data='simulated, no patient data') | head | made_by | dict(finished=finished)
    lines = ''.join(f'# {k}: {json.dumps(v)}\n' for k, v in head.items())
    with write_atomically(path) as tmp:
        tmp.write_text(lines + table.round(4).to_csv(index=False))


def run_all(tasks, processes):
    "Call functions in processes of one thread each, with a line of progress per finished task"
    os.environ |= dict(OMP_NUM_THREADS='1', NUMBA_NUM_THREADS='1')  # read by the processes that start now
    start = time.time()
    with ProcessPoolExecutor(processes, multiprocessing.get_context('spawn')) as pool:
        futures = {pool.submit(f, *args): args for f, *args in tasks}
        for done, future in enumerate(as_completed(futures), 1):
            future.result()
            print(f'{done} of {len(tasks)} after {(time.time() - start) / 60:.1f} min: {futures[future]}', flush=True)


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--repetitions', type=int, default=400, help='simulated test sets per design')
    parser.add_argument('--seeds_repetitions', type=int, default=1000, help='the same, for comparisons of methods')
    parser.add_argument('--processes', type=int, default=1, help='each uses one thread')
    parser.add_argument('--patients', type=int, nargs='*', default=[170, 700, 60], help='in all six designs')
    parser.add_argument('--many', type=int, nargs='*', default=[2500], help='patients in two of them')
    parser.add_argument('--designs', nargs='+', default=[f'{g}/{h}' for g in GENERATORS for h in HOSPITALS])
    parser.add_argument('--many_designs', nargs='*', default=['frailty/CXR-LT', 'latent normal/rare'])
    parser.add_argument(
        '--ratios', type=float, nargs='+', default=[0.1, 1.0, 10.0], help='variances, seeds to patients'
    )
    parser.add_argument(
        '--replicates', type=int, default=1000, help='bootstrap replicates; half of them above 170 patients'
    )
    parser.add_argument('--truth_patients', type=int, default=300_000, help='sample that gives the true values')
    parser.add_argument('--save_to', type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def main(arguments=None):
    p = parse(arguments)
    size, designs = min(BLOCK, p.repetitions), []
    for name in ('repetitions', 'seeds_repetitions'):
        if getattr(p, name) % size:
            raise ValueError(f'--{name} {getattr(p, name)} must be a multiple of {size}')
    for names, patients in ((p.designs, p.patients), (p.many_designs, p.many)):
        n_replicates = {n: p.replicates if n <= 170 else p.replicates // 2 for n in patients}
        designs += [Design(*name.split('/'), n, n_replicates[n]) for n in patients for name in names]
    folder().mkdir(parents=True, exist_ok=True)
    truths = sorted({(d.generator, d.hospital, p.truth_patients) for d in designs})
    run_all([(saved_truth, *o) for o in truths], p.processes)
    firsts, seeds_firsts = range(0, p.repetitions, size), range(0, p.seeds_repetitions, size)
    few, seeds_replicates = 170, p.replicates // 2
    tasks = [(block, d, first, size, p.truth_patients) for d in designs for first in firsts]
    tasks += [(seeds_block, ratio, first, size, few, seeds_replicates) for ratio in p.ratios for first in seeds_firsts]
    run_all(tasks, p.processes)
    prevalences = {f'{g}/{h}': saved_truth(g, h, n)[1].round(4).tolist() for g, h, n in truths}
    auc = {f'{g}/{h}': [saved_truth(g, h, n)[0][:, 1].min(), saved_truth(g, h, n)[0][:, 1].max()] for g, h, n in truths}
    head = dict(
        made_by='scripts/coverage_study.py',
        repetitions=p.repetitions,
        replicates=p.replicates,
        level=0.95,
        truth_patients=p.truth_patients,
        auc_lowest_and_highest={k: np.round(v, 3).tolist() for k, v in auc.items()},
    )
    macro = macro_summary(designs, p.repetitions, size)
    save(p.save_to / 'coverage.csv', macro, **head, prevalences=prevalences)
    save(p.save_to / 'coverage_labels.csv', labels_summary(designs, p.repetitions, size), **head)
    seeds = seeds_summary(p.ratios, p.seeds_repetitions, size, few, seeds_replicates)
    head |= dict(repetitions=p.seeds_repetitions, replicates=seeds_replicates)
    save(p.save_to / 'coverage_seeds.csv', seeds, **head)
    ours = macro[(macro.method == 'basic, corrected') & (macro.metric == 'map')]
    print(ours[['generator', 'hospital', 'patients', 'labels', 'coverage', 'truth_below', 'truth_above']].to_string())


if __name__ == '__main__':
    main()
