"Image files as people have them: pydicom's own test files, damaged files, hostile files, files with a patient's name."

import io
import os
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pydicom.data
import pytest
from limits import cases, limited
from PIL import Image, ImageOps

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


KINDS = ['JPEG', 'PNG', 'TIFF', 'DICOM']
#: Where each EXIF orientation puts the stored rows and columns
TURNED = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.T,
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).T,
    8: np.rot90,
}


def ramp(rng, high):
    "A smooth image, up to 40 pixels wide: stored values from 0 to `high`"
    height, width = rng.integers(2, 41, 2)
    x = np.add.outer(np.linspace(0, 1, height) * rng.random(), np.linspace(0, 1, width)) / 2
    return np.rint(x * high).astype(np.uint16)


def to_gray(values, bits):
    return np.rint(values * (255 / (2**bits - 1))).astype(np.uint8)


def made_plain(rng, kind):
    "A JPEG, PNG or TIFF file, the gray image that it holds, and how far a decoder may be off"
    deep = kind != 'JPEG' and rng.random() < 0.5
    bits = int(rng.choice([12, 14, 16])) if deep else 8
    values = ramp(rng, 2**bits - 1)
    values[-1, -1] = 2**bits - 1  # the full range is used
    image = Image.fromarray(values if deep else values.astype(np.uint8))
    if not deep and rng.random() < 0.4:
        image = image.convert('RGB')
    options = dict(
        JPEG=dict(quality=95, progressive=bool(rng.integers(2))),
        PNG=dict(compress_level=int(rng.integers(10))),
        TIFF=dict(compression=[None, 'tiff_lzw', 'tiff_deflate'][rng.integers(3)]),
    )[kind]
    turn, out = int(rng.integers(1, 9)), io.BytesIO()
    image.getexif()[274] = turn
    image.save(out, kind, exif=image.getexif(), **options)
    return out.getvalue(), TURNED[turn](to_gray(values, bits)), 12 if kind == 'JPEG' else 1


def made_dicom(rng):
    "A DICOM file with a window or without, the gray image that a viewer shows, and how far a decoder may be off"
    bits = int(rng.choice([8, 12, 14, 16]))
    values = ramp(rng, 2**bits - 1)
    values[-1, -1] = 2**bits - 1
    ds = pydicom.dcmread(BUNDLED / 'dicomdirtests/77654033/CR1/6154')
    for name in ('WindowCenter', 'WindowWidth', 'VOILUTSequence', 'RescaleSlope', 'RescaleIntercept'):
        if name in ds:
            delattr(ds, name)
    ds.Rows, ds.Columns = values.shape
    ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits - 1, 0
    ds.BitsAllocated = 8 if bits == 8 else 16
    ds.PhotometricInterpretation = str(rng.choice(['MONOCHROME1', 'MONOCHROME2']))
    gray = to_gray(values, bits).astype(float)
    if rng.random() < 0.5:
        center, width = float(rng.integers(2**bits)), float(rng.integers(2, 2**bits))
        ds.WindowCenter, ds.WindowWidth = center, width
        gray = 255 * ((values - (center - 0.5)) / (width - 1) + 0.5).clip(0, 1)  # PS3.3, C.11.2.1.2
    ds.set_pixel_data(values.astype(f'uint{ds.BitsAllocated}'), ds.PhotometricInterpretation, bits)
    out = io.BytesIO()
    ds.save_as(out)
    return out.getvalue(), 255 - gray if ds.PhotometricInterpretation == 'MONOCHROME1' else gray, 1.01


def made(rng, kind):
    return made_dicom(rng) if kind == 'DICOM' else made_plain(rng, kind)


@pytest.mark.parametrize('kind', KINDS)
def test_generated_images_are_read_right(kind):
    for seed in range(cases(30)):
        data, gray, tolerance = made(np.random.default_rng(seed), kind)
        found, width, height = decode_gray(data)
        assert found.shape == gray.shape == (height, width), seed
        assert np.abs(found - gray.astype(float)).max() <= tolerance, seed


def mutated(rng, data):
    "A file of which some bytes are changed, removed, inserted or zeroed"
    changed = bytearray(data)
    for at in rng.integers(0, len(data) if rng.random() < 0.5 else min(900, len(data)), rng.integers(1, 6)):
        changed[at : at + rng.integers(0, 3)] = rng.bytes(rng.integers(0, 3))
    if rng.random() < 0.2:
        changed = changed[: rng.integers(1, len(changed))]
    if rng.random() < 0.2:
        at = rng.integers(len(changed))
        changed[at : at + 30] = bytes(len(changed[at : at + 30]))
    return bytes(changed)


def is_sound_png(data):
    "Whether the checksum of each part of a PNG file is right, up to its end, which holds nothing"
    at = 8
    while (name := data[at + 4 : at + 8]) != b'IEND':
        size = int.from_bytes(data[at : at + 4], 'big')
        body, checksum = data[at + 4 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        if len(name) < 4 or len(checksum) < 4 or zlib.crc32(body) != int.from_bytes(checksum, 'big'):
            return False
        at += 12 + size
    return True


def is_right(kind, data, found):
    "Whether another program sees the same in a mutated file"
    if kind == 'PNG':
        return is_sound_png(data)
    if kind == 'DICOM':
        ds = pydicom.dcmread(io.BytesIO(data), force=True)
        return found.shape == (ds.Rows, ds.Columns)
    with Image.open(io.BytesIO(data)) as image:
        seen = np.asarray(ImageOps.exif_transpose(image.convert('L') if kind == 'JPEG' else image))
    same = found.shape == seen.shape[:2]
    return same and (kind == 'TIFF' or np.abs(found - seen.astype(float)).max() <= 8)


@pytest.mark.parametrize('kind', KINDS)
def test_mutated_files_are_read_right_or_refused(kind, tmp_path):
    "Whatever is read, another program reads too; all else is one message that names the file"
    refused, file = 0, tmp_path / 'image'
    for seed in range(n := cases(60)):
        rng = np.random.default_rng(seed)
        data = mutated(rng, made(rng, kind)[0])
        file.write_bytes(data)
        with warnings.catch_warnings(), limited():
            warnings.simplefilter('ignore')
            try:
                found = decode_gray(file)[0]
            except ValueError as e:
                assert str(e).startswith(f'{file}: '), e
                refused += 1
                continue
            assert is_right(kind, data, found), f'{kind} {seed}'
    assert refused > n // 10


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
