"""The beds of papers that do the same job: equal data, teacher and exam, so that they can be laid side by side."""

from __future__ import annotations

import pytest

from kdutils.papers import distilbert, tutor_kd
from kdutils.study import exams
from kdutils.study.experiment import resolve
from kdutils.study.teachers import DECIDING, teacher_folder
from tests.corpus_files import write

PAPERS = [distilbert, tutor_kd]
# what students of the two learn from, and what they are asked in the end; how they learn is each paper's own
LEARNT, ASKED = {*DECIDING, "model", "student_layers"}, {one.name for one in exams.SETTINGS}


def settings(paper, preset: str, **changes):
    return resolve(paper.EXPERIMENTS, preset, changes)["masked_lm"]


@pytest.mark.parametrize("preset", ["demo", "grammar", "small"])
def test_papers_that_distil_masked_language_models_share_their_beds(preset):
    # DistilBERT's students start from their teacher's layers, which know the intents: they are asked about word order
    bed = LEARNT if preset == "small" else LEARNT | ASKED
    ours, theirs = ({name: settings(paper, preset)[name] for name in bed} for paper in PAPERS)
    assert ours == theirs


def test_the_teachers_of_the_beds():
    for paper in PAPERS:
        assert [settings(paper, preset).model for preset in ("demo", "grammar")] == ["demo:teacher"] * 2
        small = settings(paper, "small")
        asked = [source.removeprefix("order:") for source in small.downstream]
        assert (small.model, small.data) == ("", "hub:clinc/clinc_oos/plus") == ("", *asked)
        assert (small.layers, small.width, small.feedforward, small.vocab_size) == (4, 192, 768, 2000)


def test_on_the_small_bed_one_teacher_is_pretrained_for_all(tmp_path):
    lines = [f"what is my balance on card {n}" for n in range(40)]
    for split, some in {"train": lines[:24], "validation": lines[24:32], "test": lines[32:]}.items():
        write(tmp_path / f"asked/{split}.txt", some)
    folders = []
    for paper in PAPERS:
        (experiment,) = paper.EXPERIMENTS
        task = experiment.task(settings(paper, "small", data=str(tmp_path / "asked"), downstream=["demo"]))
        folders.append(teacher_folder(task, tmp_path / "runs"))
    assert folders[0] == folders[1] and folders[0].parent == tmp_path / "runs/teachers"
