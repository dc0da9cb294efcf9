"The programs in `scripts/` on tables in which some labels are unknown."

import folds_report
import leakage_study
import numpy as np
import pandas as pd
import pytest
from fastcore.basics import AttrDict


@pytest.fixture(scope='module')
def simulated():
    "Predictions of two folds of two small splits, with 30 % of the answers unknown"
    rng = np.random.default_rng(0)
    test, train = folds_report.SimulatedSplit(500, 't', rng), folds_report.SimulatedSplit(600, 'v', rng)
    labels, fold = test.labels[:3], train.truth.patient_id.to_numpy() % 2
    answers = {}
    for name, split in dict(truth=test, oof_truth=train).items():
        known = split.truth[labels].mask(rng.random((len(split.truth), 3)) < 0.3).astype('Int8')
        answers[name] = split.truth.assign(**known)
    folds = []
    for k in range(2):
        split, validation = test.predictions(np.arange(500)), train.predictions(np.flatnonzero(fold == k))
        folds.append(dict(split=[o[labels] for o in split], validation=[o[labels] for o in validation]))
    return AttrDict(labels=labels, **answers, folds=dict(simulated=folds), source='simulated')


def test_the_report_on_folds_leaves_unknown_labels_out(simulated, capsys):
    rungs = folds_report.report(simulated, n=20)
    assert rungs.value.notna().all() and 'fold 1' in capsys.readouterr().out
    y = folds_report.targets(simulated.truth, simulated.labels)
    prob = simulated.folds['simulated'][0]['split'][0]
    assert folds_report.reliability(y, prob).cells.sum() == y.notna().sum().sum() < y.size


def test_the_study_of_leakage_leaves_unknown_labels_out(simulated):
    p, label = simulated.folds['simulated'][0]['split'][0], simulated.labels[:1]
    scored, y = leakage_study.score([p[label]], simulated.truth, label)
    known = simulated.truth[simulated.truth[label[0]].notna()]
    of_known, _ = leakage_study.score([p.loc[known.index, label]], known, label)
    assert y.isna().any(axis=None)
    pd.testing.assert_series_equal(scored['map'].value, of_known['map'].value)
