# The study as a graph. `make study` and `make study-extended GROUP=augmentation` are what a person types; this is what they mean.
#   config  rows     rows of Table 2, such as "8" or "1,2,3", or "all"; or
#           asked    a group or a configuration of `cxrlt_nb.ablation.EXTENDED`, or "all"
#           preset    paper, demo, or auto: paper where there is an accelerator; on a cluster one of the first two, as its jobs have what the login node has not
#           set      parameters of the training notebook that all trainings get, such as "images=96 epochs=1"
#           data     phantom, nih or cxrlt, with `root`, the folder of the release (Table 2)
#           devices  what CUDA_VISIBLE_DEVICES may be, such as "0,1"; by default all that there are, and on a cluster what the job was given;
#                    a training takes one, or as many as its parameter `processes` says
#           results  folder of the tables; by default nbs/results for a study as it is, and runs/table2 or runs/extended for one with values of your own
import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from snakemake.exceptions import WorkflowError

from cxrlt_nb import ablation, config as configs, files, runs
from cxrlt_nb.phantom import release as phantom

os.environ.setdefault('JUPYTER_PREFER_ENV_PATH', '1')
CHECKOUT = Path(workflow.basedir)
STUDY = 'table2' if 'rows' in config else 'extended'
NOTEBOOK, PLACE = CHECKOUT/'nbs/05_train.ipynb', files.home()/'runs'/STUDY
ASKED, SET = str(config.get('rows', config.get('asked', 'all'))), str(config.get('set') or '')
DATA, ROOT = config.get('data') or 'phantom', str(config.get('root') or '')
found = '' if 'SLURM_JOB_ID' in os.environ else os.environ.get('CUDA_VISIBLE_DEVICES', ','.join(map(str, range(torch.cuda.device_count()))))
DEVICES, PHANTOM = str(config.get('devices', found)), None

try:
    PRESET = configs.pick_preset(config.get('preset', 'auto'))
    preset = ablation.study_preset(STUDY, PRESET, **ablation.settings(SET), **(dict(data=DATA, root=str(Path(ROOT).expanduser().resolve())) if ROOT else {}))
    if DATA != 'phantom' and not ROOT: raise ValueError(f'DATA={DATA} wants ROOT, the folder of the release')
    if STUDY == 'table2':
        from cxrlt_nb.study import table2
        ROWS = table2.asked_rows(ASKED)
        trainings = ablation.trainings(*ROWS, preset=preset)
        if not ROOT: PHANTOM = files.home()/'data'/phantom.phantom_name(**table2.study_phantom(preset))
    else: trainings = ablation.trainings(ASKED, preset=preset)
    folders = {k: PLACE/v for k, v in runs.folders(trainings, NOTEBOOK, PHANTOM.name if PHANTOM else '').items()}
except (ValueError, FileNotFoundError) as e: raise WorkflowError(str(e)) from None
if workflow.is_main_process and (workflow.resource_settings.cores or 1) > 1 and not DEVICES and not preset.given.get('threads'):
    raise WorkflowError(f'{workflow.resource_settings.cores} trainings at once on a CPU want a number of threads each, such as SET="threads=1"')
named = {f.name: k for k, f in folders.items()}
RECORDS = [f/'record.json' for f in folders.values()]
AS_IT_IS = not SET and not ROOT and (STUDY == 'extended' or ROWS == list(ablation.TABLE2))
RESULTS = Path(config.get('results', CHECKOUT/'nbs/results' if AS_IT_IS else PLACE))
SUFFIX = '' if PRESET == 'demo' else f'_{PRESET}'


if STUDY == 'extended':
    TABLE = RESULTS/f'extended_{ASKED}{SUFFIX}.csv'

    rule study:
        input: RECORDS, TABLE       # a committed table alone is no study that was run here
        message: 'done: {TABLE}'

    rule table:
        input: RECORDS
        output: TABLE
        params: code=runs.module_fingerprint('study.compare')
        message: 'compare the configurations of {ASKED!r}: {output}'
        run:
            from cxrlt_nb.study import compare
            compare.write_comparison(ASKED, folders, Path(output[0]))

else:
    NAME = f'table2{SUFFIX}' + ('' if ROWS == list(ablation.TABLE2) else '_rows' + '-'.join(map(str, ROWS)))
    TABLES = [RESULTS/f'{NAME}{o}.csv' for o in ('', '_claims', '_cost')]
    mirrored = {k: [folders[o] for o in them] for k, them in table2.mirrored(ROWS, preset).items()}
    MIRRORS = {f'{k}-{hashlib.sha256("".join(f.name for f in them).encode()).hexdigest()[:8]}': them for k, them in mirrored.items()}

    rule study:
        input: RECORDS, TABLES, PLACE/'report.html'
        message: 'done: {PLACE}/report.html'

    rule report:
        input: RECORDS, TABLES
        output: PLACE/'report.html'
        params: code=runs.module_fingerprint('study.report')
        message: 'report: {output}'
        run:
            from cxrlt_nb.study import report
            report.write_report(ROWS, preset, folders, *map(Path, TABLES), Path(output[0]), CHECKOUT/'nbs/results')

    rule table2:
        input: RECORDS, [PLACE/f'{k}.mirrored' for k in MIRRORS]
        output: TABLES
        params: code=runs.module_fingerprint('study.table2')
        message: 'score rows {ASKED} of Table 2 and judge the claims on them: {output[0]}'
        run:
            from cxrlt_nb.study import table2
            table2.write_table2(ROWS, preset, folders, RESULTS, NAME)

    rule mirror:
        input: lambda w: [f/'record.json' for f in MIRRORS[w.key]]
        output: touch(PLACE/'{key}.mirrored')
        params: folders=lambda w: MIRRORS[w.key], code=runs.module_fingerprint('study.table2')
        message: 'see the mirror images of {wildcards.key}'
        shell: '{sys.executable} -m cxrlt_nb.study.table2 {params.folders:q}'

    if PHANTOM:
        rule draw:
            output: PHANTOM/'phantom.json'
            params: drawn=json.dumps(table2.study_phantom(preset))
            message: 'draw a phantom: {output}'
            run: phantom.write_phantom(PHANTOM, **json.loads(params.drawn))


rule train:
    input: [ancient(PHANTOM/'phantom.json')] if PHANTOM else []
    output: PLACE/'{folder}/record.json'
    params: given=lambda w: json.dumps(trainings[named[w.folder]] | (dict(root=str(PHANTOM)) if PHANTOM else {}))
    resources: took=lambda w: runs.last_took(PLACE/w.folder)
    message: 'train {wildcards.folder} ({resources.took})'
    shell: '{sys.executable} -m cxrlt_nb.study.runner {NOTEBOOK:q} {PLACE:q}/{wildcards.folder:q} --parameters {params.given:q} --devices={DEVICES}'
