"""The images of the study on real radiographs: make the selections again from NIH's download, or list a selection.

    python scripts/nih_images.py nih256 --download /data/ChestXray14 --out /data/nih256

copies the images that are named in `nbs/results/nih256_images.csv`, shrunk to 256 px, with their rows of the table and
NIH's test list, into a folder that `--data nih --root /data/nih256` reads. `--download` is the folder in which NIH's
archives were unpacked, with `Data_Entry_2017*.csv` and `test_list.txt`. NIH's own files of 1024 px, shrunk here, are
not identical to those that this study used, so scores may differ a little; how much has not been measured.

    python scripts/nih_images.py nih256 --list-of /data/nih256

writes that csv file from a folder.

    python scripts/nih_images.py nih256 --settle /data/nih256 /data/nih128 --out /data/settle

makes the folder on which the preset `laptop` was settled: it has the training images of the first, and as test images
those of other training patients of the second. No image of NIH's test list is in it.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated

import pandas as pd
from fastcore.script import call_parse
from PIL import Image

from cxrlt_nb.datasets import read_nih
from cxrlt_nb.files import write_atomically

RESULTS = Path(__file__).parent.parent / 'nbs/results'
SIZES = dict(nih256=256, nih128=128)


def list_images(name, root):
    "Write the names of the images of a folder, and their splits"
    df = read_nih(root).df
    with write_atomically(RESULTS / f'{name}_images.csv') as tmp:
        df.assign(image=df.image_id.map(lambda o: Path(o).stem))[['image', 'split']].to_csv(tmp, index=False)
    print(f'{len(df):,} images of {df.patient_id.nunique():,} patients')


def shrink(size, out, file):
    "Save an image as gray JPEG of `size` px"
    with Image.open(file) as image, write_atomically(out / f'{file.stem}.jpg') as tmp:
        image.convert('L').resize((size, size), Image.Resampling.BOX).save(tmp, 'JPEG', quality=95)


def make_selection(name, download, out):
    "Copy the images of a selection from NIH's download, shrunk; `FileNotFoundError` names the first that is missing"
    wanted = pd.read_csv(RESULTS / f'{name}_images.csv').image
    files = {o.stem: o for o in download.rglob('*') if o.suffix.lower() in ('.png', '.jpg')}
    if missing := [o for o in wanted if o not in files]:
        raise FileNotFoundError(f'{download}: {len(missing)} of {len(wanted)} images are missing, such as {missing[0]}')
    (table,) = download.glob('Data_Entry_2017*.csv')
    rows = pd.read_csv(table).assign(image=lambda df: df['Image Index'].map(lambda o: Path(o).stem))
    rows = rows[rows.image.isin(wanted)].assign(**{'Image Index': lambda df: df.image + '.jpg'})
    test = {Path(o).stem for o in (download / 'test_list.txt').read_text().split()}
    (out / 'images').mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(shrink, SIZES[name], out / 'images'), [files[o] for o in wanted], chunksize=64))
    rows.drop(columns='image').to_csv(out / 'Data_Entry_2017_v2020.csv', index=False)
    (out / 'test_list.txt').write_text('\n'.join(f'{o}.jpg' for o in wanted if o in test) + '\n')
    print(f'{out}: {len(rows):,} images')


def training_rows(root):
    "The rows of NIH's table that are not on its test list, with the file of each image"
    (table,) = root.glob('Data_Entry_2017*.csv')
    test = set((root / 'test_list.txt').read_text().split())
    rows = pd.read_csv(table)
    rows = rows[~rows['Image Index'].isin(test)]
    return rows.assign(file=[root / 'images' / o for o in rows['Image Index']])


def make_settling(first, second, out):
    "Learn from the training patients of one folder, score on other training patients of another; images are linked"
    learned, scored = training_rows(first), training_rows(second)
    scored = scored[~scored['Patient ID'].isin(learned['Patient ID'])]
    (out / 'images').mkdir(parents=True, exist_ok=True)
    rows = pd.concat([learned, scored])
    for file in rows.file:
        if not (out / 'images' / file.name).exists():
            (out / 'images' / file.name).symlink_to(file.resolve())
    rows.drop(columns='file').to_csv(out / 'Data_Entry_2017_v2020.csv', index=False)
    (out / 'test_list.txt').write_text('\n'.join(scored['Image Index']) + '\n')
    print(f'{out}: {len(learned):,} images to learn from, {len(scored):,} of other patients')


@call_parse
def main(
    name: str,  # nih256 or nih128
    download: Path = None,  # Folder with NIH's download
    out: Path = None,  # Folder to write
    list_of: Path = None,  # A folder whose images to list
    settle: Annotated[Path, dict(nargs=2)] = None,  # Two folders: training images of the one, others of the other
):
    "Make a selection of NIH ChestX-ray14, or list one"
    if name not in SIZES:
        raise SystemExit(f'{name!r} is not a selection; choose from {", ".join(SIZES)}')
    if list_of:
        list_images(name, list_of)
    elif settle and out:
        make_settling(*settle, out)
    elif download and out:
        make_selection(name, download, out)
    else:
        raise SystemExit('give --download and --out, --settle and --out, or --list-of')
