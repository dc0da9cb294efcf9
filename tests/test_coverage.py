"The coverage study: its simulation, its truth, its intervals and its files, in a few repetitions."

import coverage_study as study
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from cxrlt_nb.intervals import bootstrap, bootstrap_difference, interval, label_intervals
from cxrlt_nb.metrics import METRICS
from cxrlt_nb.runs import read_result

FEW = dict(repetitions=2, seeds_repetitions=2, patients=60, many=60, replicates=32, truth_patients=2000, ratios=1.0)


@pytest.fixture(scope='module')
def sample():
    return study.simulate('frailty', 'CXR-LT', 170, 5)


def test_scores_of_one_patient_are_correlated():
    y, patient, (score, better) = study.simulate('latent normal', 'NIH', 2000, 0)
    first, second = (pd.Series(score[:, 0][y[:, 0] == 0]).groupby(patient[y[:, 0] == 0]).nth(o) for o in (0, 1))
    first = pd.Series(first.to_numpy(), patient[y[:, 0] == 0][first.index])
    second = pd.Series(second.to_numpy(), patient[y[:, 0] == 0][second.index])
    assert first.corr(second) > 0.15 and np.corrcoef(score[:, 0], better[:, 0])[0, 1] > 0.4


@pytest.mark.parametrize('generator', study.GENERATORS)
@pytest.mark.parametrize('hospital', study.HOSPITALS)
def test_prevalences_are_as_designed(generator, hospital):
    y, patient, _ = study.simulate(generator, hospital, 4000, 1)
    wanted = study.HOSPITALS[hospital].prevalence
    np.testing.assert_allclose(y.mean(0).mean(), wanted.mean(), rtol=0.05)
    assert len(y) / 4000 == pytest.approx(3.64 if hospital == 'NIH' else 5.7, rel=0.1)


def test_truth_from_a_histogram(sample):
    y, _, (score, _) = sample
    y, score = y[:, y.any(0)], score[:, y.any(0)]
    ap, auc, f1 = study.from_histogram(study.histogram(y, score))
    np.testing.assert_allclose(ap, sk.average_precision_score(y, score, average=None), atol=2e-3)
    np.testing.assert_allclose(auc, sk.roc_auc_score(y, score, average=None), atol=2e-3)
    np.testing.assert_allclose(f1, sk.f1_score(y, score >= 0.5, average=None), atol=1e-12)


def test_values_are_those_of_the_metrics(sample):
    y, _, (score, _) = sample
    for m, value in study.values(y, score).items():
        np.testing.assert_allclose(value, METRICS[m].by_label(y, score), atol=1e-12)


def test_intervals_are_those_of_the_library(sample):
    y, patient, (a, b) = sample
    truth = np.zeros((2, 3, 26))
    macro, labels = study.repetition('frailty', 'CXR-LT', 170, 200, 5, truth)
    rows = pd.DataFrame(macro).set_index(['labels', 'metric', 'method'])
    tail = study.HOSPITALS['CXR-LT'].tail
    for part, of in (('all', np.ones(26, bool)), ('tail', tail)):
        for m in study.WALKED:
            ours = bootstrap(y[:, of], a[:, of], patient, m, n=200, seed=5)
            row = rows.loc[part, m, 'basic, corrected']
            np.testing.assert_allclose(row[['value', 'low', 'high']].astype(float), ours[['value', 'low', 'high']])
            ours = bootstrap_difference(y[:, of], a[:, of], b[:, of], patient, m, n=200, seed=5)
            row = rows.loc[part, f'difference of {m}', 'percentile, corrected']
            expected = ours[['difference', 'low', 'high']].astype(float)
            np.testing.assert_allclose(row[['value', 'low', 'high']].astype(float), expected, atol=1e-12)
    ours = label_intervals(y, a, patient, n=200, seed=5)
    labels = pd.concat(labels).query('metric == "map" and method == "logit" and patients >= 5')
    np.testing.assert_allclose(labels[['low', 'high']], ours[['low', 'high']].dropna(), atol=1e-9)


def test_intervals_are_computed_once():
    reps = np.random.default_rng(0).gamma(2, size=500)
    for method, ends in study.intervals(1.5, reps).items():
        np.testing.assert_allclose(ends, list(interval(1.5, reps, method).values()))


def arguments(save_to):
    options = [text for name, value in FEW.items() for text in (f'--{name}', str(value))]
    return [*options, '--designs', 'frailty/NIH', '--many_designs', 'latent normal/rare', '--save_to', str(save_to)]


@pytest.mark.long
def test_a_small_study_is_written_and_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('CXRLT_HOME', str(tmp_path))
    study.main(arguments(tmp_path))
    macro, head = read_result(tmp_path / 'coverage.csv')
    assert {'data', 'commit', 'versions', 'platform', 'made_by', 'repetitions'} <= set(head)
    assert macro.groupby(['generator', 'hospital', 'patients']).size().tolist() == [72, 72]
    total = macro.coverage + macro.truth_below + macro.truth_above
    np.testing.assert_allclose(total, 1, atol=2e-4)
    files = {o: o.stat().st_mtime_ns for o in study.folder().glob('*')}
    study.main(arguments(tmp_path))
    assert {o: o.stat().st_mtime_ns for o in study.folder().glob('*')} == files
    seeds, _ = read_result(tmp_path / 'coverage_seeds.csv')
    assert set(seeds.n) == {2} and len(seeds) == 3
    with pytest.raises(ValueError, match='multiple of 50'):
        study.main([*arguments(tmp_path), '--repetitions', '70'])
