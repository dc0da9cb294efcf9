"The report of a study as one html file: its sections in order, its images inside, and nothing to load."

import re
from pathlib import Path

import pytest

from cxrlt_nb.study.runner import write_html

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "The committed notebook, whose outputs are those of the committed results"
    file = tmp_path_factory.mktemp('report') / 'report.html'
    write_html(ROOT / 'nbs/study/04_report.ipynb', file, 'Table 2')
    return file.read_text()


def test_sections_come_in_the_order_that_a_reader_needs(page):
    headings = re.findall(r'<h2[^>]*>(.*?)</h2>', page)
    assert headings == ['Summary', 'Scores', 'Claims of §4.4', 'Labels', 'Cases', 'Cost', 'Source']


def test_summary_in_words_comes_before_any_table(page):
    assert page.index('claims of §4.4, ') < page.index('<table')
    assert re.search(r'Of \d+ claims of §4\.4, \d+ holds?', page)


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
