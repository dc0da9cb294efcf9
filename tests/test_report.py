"The report of a study as one html file: its sections in order, its images inside, and nothing to load."

import html
import json
import re
from pathlib import Path

import nbformat
import pytest

from cxrlt_nb.runs import read_result
from cxrlt_nb.study.runner import write_html
from cxrlt_nb.study.table2 import describe_claims

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "The committed notebook, whose outputs are those of the committed results"
    file = tmp_path_factory.mktemp('report') / 'report.html'
    write_html(ROOT / 'nbs/study/04_report.ipynb', file, 'Table 2')
    return file.read_text()


def test_sections_come_in_the_order_that_a_reader_needs(page):
    headings = re.findall(r'<h2[^>]*>(.*?)</h2>', page)
    assert re.findall(r'<a href="#section-\d">(.*?)</a>', page) == headings, 'the list of contents'
    assert headings == ['Summary', 'Scores', 'Claims of §4.4', 'Labels', 'Cases', 'Cost', 'Source']


def test_summary_in_words_comes_before_any_table(page):
    assert page.index('claims of §4.4, ') < page.index('<img') < page.index('<table')
    assert re.search(r'Of \d+ claims of §4\.4, \d+ holds?', page)


def test_date_data_and_maker_come_first(page):
    top = page[: page.index('<nav')]
    assert re.search(r'\d{1,2} \w+ \d{4}', top) and 'held-out images of' in top
    assert re.search('Made by <code>make study.*</code> at commit [0-9a-f]{7}', top)


def test_what_is_in_several_splits_is_said_at_the_top(tmp_path):
    for file in (ROOT / 'nbs/results').glob('table2*.csv'):
        leaks = json.dumps({'patients': 2, 'copied files': 3})
        (tmp_path / file.name).write_text(f'# across_splits: {leaks}\n{file.read_text()}')
    names = {}
    for cell in [o for o in nbformat.read(ROOT / 'nbs/study/04_report.ipynb', 4).cells if o.cell_type == 'code']:
        exec(cell.source, names)
        names |= dict(tables=str(tmp_path))
        if 'text += leaks_in_words' in cell.source:
            break
    assert '> **In more than one split: 2 patients and 3 copied files.**' in names['text']


def test_each_claim_has_its_verdict_and_one_forest_plot_is_open(page):
    described = describe_claims(read_result(ROOT / 'nbs/results/table2_claims.csv')[0])
    claims = re.sub(
        r'<details>.*?</details>', '', page[page.index('>Claims of §4.4</h2>') : page.index('>Labels</h2>')], flags=re.S
    )
    for claim in described.itertuples():
        assert f'{html.escape(claim.claim, quote=False)}: <strong>{claim.verdict}</strong>' in claims
    assert claims.count('<img') == 1 and 'forest plot' in claims


def test_all_but_one_narrow_table_of_scores_is_folded(page):
    scores = page[page.index('>Scores</h2>') : page.index('>Claims of §4.4</h2>')]
    open_ = re.sub(r'<details>.*?</details>', '', scores, flags=re.S)
    assert scores.count('<table') == 4 and open_.count('<table') == 1
    assert len(re.findall('<th>', open_.split('</tr>')[0])) <= 5


def test_page_has_colours_for_dark_and_a_style_for_paper(page):
    assert 'prefers-color-scheme: dark' in page and '@media print' in page


def test_provenance_is_a_table_once(page):
    assert page.count('05dbf3ea93ec9cb2') == page.count('>made_by<') == 1


def test_models_are_named_as_stand_ins(page):
    assert 'test_efficientnet, 110 px (stands in for tf_efficientnetv2_s, 768 px)' in page


def test_page_contains_its_images_and_no_script(page):
    images = re.findall(r'<img[^>]*>', page)
    assert len(images) >= 5 and all('src="data:image/png;base64,' in image for image in images)
    assert all(re.search(r'alt="[^"]+"', image) for image in images)
    assert '<script' not in page and '<link' not in page
    assert not re.findall(r'(?:src|href)="(?!data:|#|https?://(?:cxrlt|github))[^"]*', page)


def test_code_and_notes_are_left_out(page):
    assert 'import pandas' not in page and 'make study` executes this notebook' not in page
