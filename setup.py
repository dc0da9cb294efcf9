"Reads the metadata that stands in settings.ini; the build system is declared in pyproject.toml."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='], interpolation=None)
config.read(here / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']


def lines(key):
    return [o for o in cfg.get(key, '').split('\n') if o.strip()]


setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'],
    author=cfg['author'],
    license=cfg['license'],
    long_description=(here / 'README.md').read_text(encoding='utf-8') if (here / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    # Two notebooks are part of the wheel: `cxrlt train` and `cxrlt evaluate` run them.
    packages=[*find_packages(include=['cxrlt_nb', 'cxrlt_nb.*']), 'cxrlt_nb.notebooks'],
    package_dir={'cxrlt_nb.notebooks': 'nbs'},
    package_data={'cxrlt_nb': ['py.typed'], 'cxrlt_nb.notebooks': ['05_train.ipynb', 'study/06_evaluate_page.ipynb']},
    python_requires='>=' + cfg['min_python'],
    install_requires=lines('requirements'),
    extras_require={k.removesuffix('_requirements'): lines(k) for k in cfg if k.endswith('_requirements')},
    entry_points={
        'console_scripts': lines('console_scripts'),
        'nbdev': ['cxrlt_nb=cxrlt_nb._modidx:d'],
    },  # nbdev: links from backticks
)
