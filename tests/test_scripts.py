"The programs in `scripts/` on tables in which some labels are unknown."

import folds_report
import leakage_study
import numpy as np
import pandas as pd
import pytest
import transfer_study
from fastcore.basics import AttrDict

from cxrlt_nb.images import decode_gray


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


def test_the_two_hospitals_differ_in_prevalence_and_style(tmp_path):
    folders = {name: tmp_path / name for name in transfer_study.HOSPITALS}
    files = [transfer_study.write_hospital(o, name, 30, seed) for seed, (name, o) in enumerate(folders.items())]
    a, b = map(pd.read_csv, files)
    assert len(a) == len(b) == 60 and a.patient.nunique() == 30 and not set(a.patient) & set(b.patient)
    assert (a[transfer_study.FINDINGS].mean() > b[transfer_study.FINDINGS].mean()).all()
    brightness = [np.mean([decode_gray(o)[0].mean() for o in file.parent.glob('images/*')]) for file in files]
    assert brightness[1] > brightness[0] + 15
    before = {o: o.stat().st_mtime_ns for o in folders['hospital_a'].glob('images/*')}
    transfer_study.write_hospital(folders['hospital_a'], 'hospital_a', 30, 0)
    assert before == {o: o.stat().st_mtime_ns for o in before}
