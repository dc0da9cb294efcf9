# The study as a graph. `make study-extended GROUP=augmentation` is what a person types; this is what it means.
#   config  asked    a group or a configuration of `cxrlt_nb.ablation.EXTENDED`, or "all"
#           scale    paper, demo, or auto: paper where there is an accelerator
#           set      parameters of the training notebook that all trainings get, such as "images=96 epochs=1"
#           devices  what CUDA_VISIBLE_DEVICES may be, such as "0,1"; by default all that there are
#           results  folder of the table; by default nbs/results for a scale as it is, and runs/extended for one with values of your own
import json
import os
import sys
from pathlib import Path

import torch
from snakemake.exceptions import WorkflowError

from cxrlt_nb import ablation, identity, recipe, runs

os.environ.setdefault('JUPYTER_PREFER_ENV_PATH', '1')
CHECKOUT = Path(workflow.basedir)
NOTEBOOK, PLACE = CHECKOUT/'nbs/05_train.ipynb', runs.home()/'runs/extended'
ASKED, SET = config.get('asked', 'all'), str(config.get('set') or '')
DEVICES = str(config.get('devices', os.environ.get('CUDA_VISIBLE_DEVICES', ','.join(map(str, range(torch.cuda.device_count()))))))

try:
    SCALE = recipe.pick_scale(config.get('scale', 'auto'))
    scale = ablation.study_scale('extended', SCALE, **ablation.settings(SET))
    trainings = ablation.trainings(ASKED, scale=scale)
    folders = {k: PLACE/v for k, v in identity.folders(trainings, NOTEBOOK).items()}
except (ValueError, FileNotFoundError) as e: raise WorkflowError(str(e)) from None
if workflow.cores and workflow.cores > 1 and not DEVICES and not scale.given.get('threads'):
    raise WorkflowError(f'{workflow.cores} trainings at once on a CPU want a number of threads each, such as SET="threads=1"')
named = {f.name: k for k, f in folders.items()}
RESULTS = Path(config.get('results', PLACE if SET else CHECKOUT/'nbs/results'))


rule table:
    input: [f/'record.json' for f in folders.values()]
    output: RESULTS/f'extended_{ASKED}{"" if SCALE == "demo" else f"_{SCALE}"}.csv'
    message: 'compare the configurations of {ASKED!r}: {output}'
    run:
        from cxrlt_nb import contrasts
        contrasts.write_contrasts(ASKED, folders, Path(output[0]))


rule train:
    output: PLACE/'{folder}/record.json'
    params: given=lambda w: json.dumps(trainings[named[w.folder]])
    resources: took=lambda w: identity.last_took(PLACE/w.folder)
    message: 'train {wildcards.folder} ({resources.took})'
    shell: '{sys.executable} -m cxrlt_nb.jobs {NOTEBOOK:q} {PLACE:q}/{wildcards.folder:q} --parameters {params.given:q} --devices={DEVICES}'
