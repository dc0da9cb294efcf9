"Draw the pictures of the README: phantom images and mixed ones, with their labels, and a strip for its first screen."

import textwrap
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image

from cxrlt_nb.augment import CutMix, CutOut, MixUp, Mosaic
from cxrlt_nb.phantom.findings import draw
from cxrlt_nb.table import LABELS

FOLDER = Path(__file__).resolve().parent.parent / 'nbs/images'
SIZE = 256
FINDINGS = [
    ['Cardiomegaly', 'Edema', 'Pleural Effusion'],
    ['No Finding'],
    ['Pneumothorax'],
    ['Nodule', 'Support Devices'],
]


def make_batch():
    "Four phantom images and their targets"
    images = [draw([o for o in names if o != 'No Finding'], size=SIZE, patient=k) for k, names in enumerate(FINDINGS)]
    xb = torch.from_numpy(np.stack(images)[:, None]).float() / 255
    yb = torch.tensor([[float(label in names) for label in LABELS] for names in FINDINGS])
    return xb, yb


def seeded(seed):
    return dict(generator=torch.Generator().manual_seed(seed))


def mixed_images(xb, yb):
    "Title, image and target of each transform, applied to the first image"
    transforms = {
        'Mosaic, crop': Mosaic(how='crop', **seeded(3)),
        'Mosaic, resize': Mosaic(how='resize', **seeded(1)),
        'MixUp': MixUp(**seeded(4)),
        'CutMix': CutMix(**seeded(3)),
        'CutOut': CutOut(p=1.0, size=0.35, **seeded(8)),
    }
    for title, transform in transforms.items():
        x, y = transform(xb, yb)
        yield title, x[0], y[0]


def show(ax, image, target, title=''):
    names = [label for label, value in zip(LABELS, target) if value > 0]
    ax.imshow(image[0], cmap='gray', vmin=0, vmax=1)
    ax.set_title(title, size=9.5, weight='bold', pad=3)
    ax.set_xlabel(textwrap.fill(', '.join(names), 18), size=9)
    ax.set(xticks=[], yticks=[])


def strip(images, gap=10):
    "Square images side by side as one picture"
    gray = np.full((SIZE, gap), 128, dtype=np.uint8)
    parts = [part for image in images for part in (gray, (image[0].numpy() * 255).astype(np.uint8))]
    return Image.fromarray(np.hstack(parts[1:]))


def main():
    xb, yb = make_batch()
    mosaic = dict((title, image) for title, image, _ in mixed_images(xb, yb))['Mosaic, resize']
    strip([*xb, mosaic]).save(FOLDER / 'strip.webp', quality=55, method=6)
    figure = plt.figure(figsize=(7.2, 5.3), layout='constrained')
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.3])
    for ax, image, target in zip(top.subplots(1, 4), xb, yb):
        show(ax, image, target)
    for ax, (title, image, target) in zip(bottom.subplots(1, 5), mixed_images(xb, yb)):
        show(ax, image, target, title)
    figure.savefig(FOLDER / 'mosaic.webp', dpi=200, pil_kwargs=dict(quality=25, method=6))


if __name__ == '__main__':
    main()
