"Image files as people have them: pydicom's own test files, damaged files, hostile files, files with a patient's name."

import io
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pydicom.data
import pytest
from PIL import Image

from cxrlt_nb.cache import ImageCache, build_cache
from cxrlt_nb.datasets import read_source
from cxrlt_nb.images import decode_gray, find_images
from cxrlt_nb.phantom.findings import draw

BUNDLED = Path(pydicom.data.__file__).parent / 'test_files'
#: Words of an error that is ours.
OURS = ('a DICOM file ', 'a broken DICOM file (', 'not an image (')


def message(file, **options):
    "Why a file cannot be used; None if it can"
    try:
        gray, width, height = decode_gray(file, **options)
    except (ValueError, FileNotFoundError) as e:
        return str(e)
    assert gray.dtype == np.uint8 and gray.shape == (height, width)
    return None


def identities(file):
    "Names and ids in a DICOM file"
    ds = pydicom.dcmread(file, force=True, stop_before_pixels=True)
    found = [str(ds.get(o) or '') for o in ('PatientName', 'PatientID', 'AccessionNumber', 'InstitutionName')]
    return [o for o in found if len(o) > 5]


def test_every_bundled_file_is_read_or_refused_by_name():
    files, read = sorted(o for o in BUNDLED.rglob('*') if o.is_file()), 0
    for file in files:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            said = message(file, any_modality=True)
        read += said is None
        assert said is None or said.startswith(f'{file}: ') and said.removeprefix(f'{file}: ').startswith(OURS), said
        if find_images(file)[0] and file.suffix != '.gz':
            told = [str(said).removeprefix(f'{file}: '), *(str(o.message) for o in caught)]
            assert not [o for o in identities(file) for text in told if o in text]
    assert len(files) > 150 and read > 40


def test_what_is_not_a_radiograph_is_read_only_if_asked_for():
    assert 'of modality CT, not a radiograph' in message(BUNDLED / 'CT_small.dcm')
    assert message(BUNDLED / 'CT_small.dcm', any_modality=True) is None
    assert message(BUNDLED / 'dicomdirtests/77654033/CR1/6154') is None  # CR, and no suffix


def dicom_with_secrets(file):
    "A radiograph with a secret in every element that can hold text"
    ds = pydicom.dcmread(BUNDLED / 'dicomdirtests/77654033/CR1/6154')
    for element in ds.iterall():
        if element.VR in ('PN', 'LO', 'SH', 'LT', 'ST', 'UT'):
            element.value = 'SECRET'
    for name in ('PatientName', 'PatientID', 'PatientAddress', 'ImageComments', 'ReferringPhysicianName'):
        setattr(ds, name, 'SECRET')
    ds.save_as(file)


def test_no_secret_of_a_file_reaches_a_cache_or_a_message(tmp_path):
    dicom_with_secrets(tmp_path / 'a.dcm')
    assert b'SECRET' in (tmp_path / 'a.dcm').read_bytes()
    (tmp_path / 'b.dcm').write_bytes((tmp_path / 'a.dcm').read_bytes()[:-50])
    df = pd.DataFrame(dict(image_id=['a', 'b'], path=[str(tmp_path / f'{o}.dcm') for o in 'ab']))
    with pytest.raises(ValueError) as error, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        build_cache(df, tmp_path / 'cache', 16)
    assert 'SECRET' not in str(error.value) + ''.join(str(o.message) for o in caught)
    assert len(ImageCache(tmp_path / 'cache')) == 1
    assert not [o for o in (tmp_path / 'cache').iterdir() if b'SECRET' in o.read_bytes()]


def write_release_file(file, stored, bits, syntax, **elements):
    "A radiograph with the elements that a public set has kept"
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = '1.2.840.10008.5.1.4.1.1.1'
    ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * stored.dtype.itemsize, bits, bits - 1
    for name, value in elements.items():
        setattr(ds, name, value)
    if syntax == 'JPEGBaseline8Bit':
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, 'JPEG', quality=95)
        ds.PixelData = pydicom.encaps.encapsulate([buffer.getvalue()])
        ds['PixelData'].is_undefined_length = True
        ds.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    else:
        ds.PixelData = stored.tobytes()
        ds.compress(getattr(pydicom.uid, syntax), generate_instance_uid=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(file, enforce_file_format=True)


def read_release(data, root, **options):
    "The images of a release at 64 px, by image id"
    df = read_source(data, root, **options).df
    store = build_cache(df, root / 'cache', 64)
    return dict(zip(df.image_id, store.read(store.rows(df.image_id)).astype(int).squeeze(1)))


@pytest.fixture(scope='module')
def drawn():
    return {f'{k:08}-aaaa': draw(['Cardiomegaly'][: k % 2], size=64, patient=k) for k in range(12)}


def test_images_of_rsna(drawn, tmp_path):
    "CR, 8 bits, JPEG baseline, without a window; patientId names the file"
    for name, pixels in drawn.items():
        about = dict(Modality='CR', PatientID=name, PatientName=name, PatientSex='F', ViewPosition='PA')
        about |= dict(PhotometricInterpretation='MONOCHROME2', LossyImageCompression='01', ConversionType='WSD')
        write_release_file(tmp_path / f'stage_2_train_images/{name}.dcm', pixels, 8, 'JPEGBaseline8Bit', **about)
    rows = [dict(patientId=name, x=None, y=None, Target=k % 2) for k, name in enumerate(drawn)]
    pd.DataFrame(rows).to_csv(tmp_path / 'stage_2_train_labels.csv', index=False)
    for name, found in read_release('rsna', tmp_path).items():
        assert abs(found - drawn[name]).mean() < 3  # JPEG, twice


def test_images_of_vindr(drawn, tmp_path):
    "14 bits, half of them inverted, with a window, without a modality; the suffix is .dicom"
    for k, (name, pixels) in enumerate(drawn.items()):
        stored = np.round(pixels * ((2**14 - 1) / 255)).astype('uint16')
        about = dict(PhotometricInterpretation='MONOCHROME2', PatientSex='O', PatientAge='061Y')
        if k % 2:
            stored, about['PhotometricInterpretation'] = 2**14 - 1 - stored, 'MONOCHROME1'
        about |= dict(WindowCenter=8192, WindowWidth=16384, RescaleSlope=1, RescaleIntercept=0)
        write_release_file(tmp_path / f'train/{name}.dicom', stored, 14, 'JPEG2000Lossless', **about)
    classes = ['No finding', 'Cardiomegaly']
    rows = [
        dict(image_id=name, class_name=classes[k % 2], rad_id=f'R{reader}')
        for k, name in enumerate(drawn)
        for reader in range(3)
    ]
    pd.DataFrame(rows).to_csv(tmp_path / 'train.csv', index=False)
    for name, found in read_release('vindr', tmp_path).items():
        assert abs(found - drawn[name]).mean() < 3  # the cache is JPEG


def test_one_bad_image_does_not_end_the_others(tmp_path):
    for k in range(3):
        Image.fromarray(draw([], size=48, patient=k)).save(tmp_path / f'{k}.png')
    Image.new('1', (13_400, 13_400)).save(tmp_path / 'bomb.png')
    os.mkfifo(tmp_path / 'pipe.png')
    (tmp_path / 'endless.png').symlink_to('/dev/zero')
    (tmp_path / 'script.png').write_text('%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n')
    paths = [str(o) for o in sorted(tmp_path.glob('*.png'))] + [None, 7.5]
    df = pd.DataFrame(dict(image_id=[str(k) for k in range(len(paths))], path=pd.Series(paths, dtype=object)))
    with pytest.raises(ValueError) as error:
        build_cache(df, tmp_path / 'cache', 32)
    said = str(error.value)
    assert '6 of 9 images cannot be cached' in said and 'bomb.png: too many pixels' in said
    assert 'script.png: not an image' in said and 'no such file' not in said
    assert '.png: not a file but a folder, pipe or device (and 1 more)' in said
    assert len(ImageCache(tmp_path / 'cache')) == 3


def test_a_missing_extra_is_one_message(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydicom', None)  # As if it were not installed
    df = pd.DataFrame(dict(image_id=list('abc'), path=[str(BUNDLED / 'CT_small.dcm')] * 3))
    with pytest.raises(ValueError) as error:
        build_cache(df, tmp_path / 'cache', 32)
    said = str(error.value)
    assert said.count("a DICOM file needs a package: pip install 'cxrlt_nb[dicom]' (and 2 more)") == 1


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF', 'DICOM'])
def test_mutated_files_are_read_or_refused(kind):
    "Random bytes are changed, removed or inserted: only a ValueError may come of it"
    rng, file = np.random.default_rng(0), io.BytesIO()
    if kind == 'DICOM':
        data = (BUNDLED / 'dicomdirtests/77654033/CR1/6154').read_bytes()
    else:
        Image.fromarray(draw([], size=48)).save(file, kind)
        data = file.getvalue()
    refused = 0
    for _ in range(150):
        changed = bytearray(data)
        for at in rng.integers(0, len(data) if rng.random() < 0.5 else min(900, len(data)), rng.integers(1, 6)):
            changed[at : at + rng.integers(0, 3)] = rng.bytes(rng.integers(0, 3))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            refused += message(bytes(changed)) is not None
    assert refused > 10


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write everywhere')
def test_a_complete_cache_that_cannot_be_written_is_used(tmp_path):
    Image.fromarray(draw([], size=48)).save(tmp_path / 'a.png')
    df = pd.DataFrame(dict(image_id=['a'], path=[str(tmp_path / 'a.png')]))
    build_cache(df, tmp_path / 'cache', 32)
    (tmp_path / 'cache').chmod(0o500)
    assert len(build_cache(df, tmp_path / 'cache', 32)) == 1
    Image.fromarray(255 - draw([], size=48)).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='cannot be written, and 1 of 1 images are not in it or have changed'):
        build_cache(df, tmp_path / 'cache', 32)
    (tmp_path / 'cache').chmod(0o700)
