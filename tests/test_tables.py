"Tables that somebody else wrote: each becomes a study table, or one error that names the file and shows no id"

import csv
import io
import re
import subprocess
import sys
import warnings

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import cases

from cxrlt_nb.datasets import CREDENTIALED, read_source
from cxrlt_nb.table import UNCERTAIN, check_table

LABELS = ['Edema', 'Mass']
SLOW = settings(max_examples=cases(80), deadline=None, suppress_health_check=list(HealthCheck))
# What a cell may hold, apart from what it should
ODD = [
    '',
    ' ',
    '-1',
    '2',
    'NA',
    'nan',
    'inf',
    '-5',
    '007M',
    '1e9',
    'x',
    '"',
    '\n',
    'é',
    '../a.jpg',
    '/etc/passwd',
    '\0',
]
cells = st.one_of(st.sampled_from(ODD), st.text(max_size=4))


def sound_row(k):
    return dict(
        dicom_id=f'img{k}',
        subject_id=str(90_000_000 + k // 2),
        study_id=str(80_000_000 + k),
        ViewPosition='PA',
        path=f'files/img{k}.jpg',
        Edema=str(k % 2),
        Mass=str(k // 2 % 2),
    )


@st.composite
def damaged_csv(draw):
    "Bytes of a csv file: up to 12 sound rows with some cells, a row, the header or some bytes replaced"
    rows = [sound_row(k) for k in range(draw(st.sampled_from([12, 12, 12, 1, 4])))]
    header = list(rows[0])
    table = [header, *([row[o] for o in header] for row in rows)]
    for _ in range(draw(st.integers(0, 3))):
        row, column = draw(st.integers(0, len(rows))), draw(st.integers(0, len(header) - 1))
        table[row][column] = draw(cells)
    if draw(st.integers(0, 3)) == 0:
        table.insert(draw(st.integers(0, len(rows))), draw(st.lists(cells, max_size=9)))
    if draw(st.integers(0, 3)) == 0:
        row = draw(st.integers(0, len(table) - 1))
        table[row] = draw(st.sampled_from([table[row][:-1], [*table[row], '1']]))
    out = io.StringIO()
    csv.writer(out, quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))).writerows(table)
    text = out.getvalue().encode(draw(st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16', 'utf-8', 'utf-8'])))
    for _ in range(draw(st.integers(0, 3)) // 2):
        at, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        text = text[:at] + draw(st.binary(max_size=6)) + text[max(at, min(end, at + 9)) :]
    return text


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('tables')
    (root / 'files').mkdir()
    for k in range(12):
        (root / f'files/img{k}.jpg').touch()
    return root


def read_or_refuse(data, root, file, **options):
    "A sound table, or one error that names the file; anything else fails"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            table = read_source(data, root, **options)
        except (ValueError, FileNotFoundError) as e:
            first = str(e)
            assert file in first, f'{e} does not name {file}'
            assert not re.search(r'\b[89]\d{7}\b|img\d', first), f'{e} shows an id or a path'
            assert not isinstance(e, UnicodeError)
            return None
    check_table(table.df, table.labels, uncertain='ignore')
    return table


def has_kept(table, text):
    "Whether a table has all rows of a csv file, and the 0s and 1s that stand there"
    text = text.decode('utf-8-sig').replace('\r\n', '\n').replace('\r', '\n')
    header, *rows = csv.reader(io.StringIO(text, newline=''))
    rows = [o for o in rows if o]
    assert {len(o) for o in rows} == {len(header)} and len(rows) == len(table.df)
    for label in set(LABELS) & set(table.labels) & set(header):
        known = {k: int(o) for k, row in enumerate(rows) if (o := row[header.index(label)]) in ('0', '1')}
        assert table.df[label][list(known)].tolist() == list(known.values())
    return True


@SLOW
@given(text=damaged_csv(), uncertain=st.sampled_from(['', *UNCERTAIN]))
def test_any_csv_file_is_read_or_refused(folder, text, uncertain):
    (folder / 'scans.csv').write_bytes(text)
    table = read_or_refuse('csv', folder / 'scans.csv', 'scans.csv', uncertain=uncertain, columns='image=path')
    assert table is None or has_kept(table, text)


@SLOW
@given(text=damaged_csv(), uncertain=st.sampled_from(['', *UNCERTAIN]))
def test_any_release_is_read_or_refused(folder, text, uncertain):
    (folder / 'train.csv').write_bytes(text)
    table = read_or_refuse('cxrlt', folder, 'train.csv', uncertain=uncertain)
    assert table is None or has_kept(table, text)


def write_release(root, **changes):
    "12 invented patients with the ids of MIMIC-CXR, in three csv files; `changes` are columns of the training file"
    rows = pd.DataFrame([sound_row(k) for k in range(36)])
    rows['subject_id'] = [str(10_000_032 + k // 3) for k in range(36)]
    rows['study_id'] = [f's{50_414_267 + k}' for k in range(36)]
    rows['dicom_id'] = [f'{k:08x}-bde0afdd-112c0b34-7bc16630-4e384014' for k in range(36)]
    rows['path'] = 'files/p10/p' + rows.subject_id + '/' + rows.study_id + '/' + rows.dicom_id + '.jpg'
    root.mkdir()
    parts = dict(train=rows[:24].assign(**changes), development=rows[24:30], test=rows[30:])
    for split, part in parts.items():
        part.to_csv(root / f'{split}.csv', index=False)
    return root


FAULTS = {
    'a label': (dict(Edema='yes'), "train.csv, row 2, column 'Edema': found 'yes'"),
    'an id as a label': (dict(Edema='10000032'), "train.csv, row 2, column 'Edema': found another value"),
    'no patient': (dict(subject_id=''), "column 'patient_id': a value is required"),
    'one image twice': (dict(dicom_id='10000032'), "column 'image_id': every image id must be unique"),
    'one file twice': (dict(path='files/p10/p10000032/x.jpg'), 'the image of train.csv, row 2 again'),
    'two patients of a study': (dict(study_id='s50414267'), "column 'patient_id': another patient than"),
    'a path that leaves the folder': (dict(path='../p10000032/x.jpg'), "row 2, column 'path': a path must"),
    'a rounded id': (dict(subject_id='1.0000032E+07'), 'found a rounded number; write ids as text'),
    'patients of the test set': (dict(subject_id='10000042'), 'cxrlt: 1 patients are in more than one split'),
}
SECRET = re.compile(r'1000003\d|1\.0000032|5041\d{4}|bde0afdd')


@pytest.mark.parametrize('fault', FAULTS)
def test_an_error_names_the_row_and_shows_no_id(fault, tmp_path):
    changes, expected = FAULTS[fault]
    root = write_release(tmp_path / 'release', **changes)
    with pytest.warns(UserWarning, match=CREDENTIALED), pytest.raises(ValueError) as caught:
        read_source('cxrlt', root)
    assert expected in str(caught.value)
    assert not SECRET.search(str(caught.value))


def test_a_missing_image_is_named_by_its_row(tmp_path):
    with pytest.warns(UserWarning, match=CREDENTIALED):
        table = read_source('cxrlt', write_release(tmp_path / 'release'))
    with pytest.raises(FileNotFoundError, match='36 of 36 listed images .* row 0, row 1') as caught:
        table.verify()
    assert not SECRET.search(str(caught.value))


def test_the_marker_comes_before_an_error(tmp_path):
    "The output of an interrupted notebook or log says that the data are credentialed, and shows no id"
    root = write_release(tmp_path / 'release', Edema='yes')
    code = f'from cxrlt_nb.datasets import read_source; read_source("cxrlt", {str(root)!r})'
    ran = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert ran.returncode == 1
    assert 0 < ran.stderr.find(CREDENTIALED) < ran.stderr.find('ValueError: release: train.csv, row 2')
    assert not SECRET.search(ran.stderr)


def test_a_release_without_test_labels_is_read(tmp_path):
    root = write_release(tmp_path / 'release')
    for split in ('development', 'test'):
        file = root / f'{split}.csv'
        pd.read_csv(file).drop(columns=LABELS).to_csv(file, index=False)
    with pytest.warns(UserWarning, match=CREDENTIALED):
        df = read_source('cxrlt', root).df
    assert df.groupby('split').Edema.count().to_dict() == dict(development=0, test=0, train=24)
    (root / 'development.csv').unlink()
    (root / 'test.csv').unlink()
    with pytest.warns(UserWarning, match=CREDENTIALED):
        alone = read_source('cxrlt', root)
    assert alone.splits.startswith('made here') and alone.df.split.nunique() == 3


def test_leaks_are_refused_unless_allowed(tmp_path):
    root = write_release(tmp_path / 'release')
    both = pd.read_csv(root / 'test.csv')
    both.assign(dicom_id=range(6)).to_csv(root / 'development.csv', index=False)
    found = '2 patients and 6 studies and 6 images are in more than one split'
    with pytest.warns(UserWarning, match=CREDENTIALED), pytest.raises(ValueError, match=found):
        read_source('cxrlt', root)
    with pytest.warns(UserWarning, match=found):
        table = read_source('cxrlt', root, allow_leaks=True)
    assert table.record()['leaks'] == dict(patients=2, studies=6, images=6)


READER = """
from dataclasses import replace
from cxrlt_nb.datasets import read_cxrlt

def read_ours(root, seed=0, uncertain=''):
    return replace(read_cxrlt(root, seed=seed, uncertain=uncertain), source='ours')

def read_nothing(root, seed):
    return None

def read_unchecked(root, seed):
    table = read_ours(root, seed)
    return replace(table, df=table.df.assign(Edema=3))
"""


def test_a_reader_outside_the_package(tmp_path, monkeypatch):
    (tmp_path / 'our_readers.py').write_text(READER)
    monkeypatch.syspath_prepend(tmp_path)
    root = write_release(tmp_path / 'release', Edema=[-1, 1] * 12)
    with pytest.warns(UserWarning, match=CREDENTIALED):
        table = read_source('our_readers:read_ours', root, uncertain='zero', labels=['Edema'])
    assert (table.source, table.labels, int(table.df.Edema[:24].sum())) == ('ours', ['Edema'], 12)
    write_release(tmp_path / 'sound')
    for name, message in {
        'read_nothing': 'the reader returns NoneType; it must return a StudyTable',
        'read_unchecked': "column 'Edema': found 3; a label must be 0 or 1",
        'read_other': "'read_other' must be a function of our_readers",
    }.items():
        with warnings.catch_warnings(), pytest.raises(ValueError, match=message):
            warnings.simplefilter('ignore')
            read_source(f'our_readers:{name}', tmp_path / 'sound')
    sys.modules.pop('our_readers')
