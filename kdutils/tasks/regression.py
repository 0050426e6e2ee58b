"""Regression: a score for a text or a pair of texts, as the similarity from 0 to 5 of STS-B."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from kdutils.core.settings import Table
from kdutils.tasks.classification import Classification
from kdutils.tasks.scores import similarity_scores


class Regression(Classification):
    """A score for a text or a pair of texts, by an encoder with one output."""

    name = "regression"  # its models are classifiers with one output, as transformers has it: the kind stays
    headline = "test_pearson"
    selectable = ("pearson", "spearman", "loss")
    settings_table = Table(
        *(s for s in Classification.settings_table.settings.values() if "smoothing" not in s.name)
    ).extended(
        data={"small": "hub:nyu-mll/glue/stsb", "study": "hub:nyu-mll/glue/stsb", "paper": "hub:nyu-mll/glue/stsb"},
        select_by={"demo": "pearson", "study": "pearson", "paper": "pearson"},
    )

    def _model(self) -> PreTrainedModel:
        model = super()._model()
        model.config.problem_type = "regression"
        return model

    def _scores(self, model: PreTrainedModel, split: str) -> dict[str, float]:
        return similarity_scores(model, self.fixed_batches(split))

    def facts(self) -> dict[str, Any]:
        return {name: fact for name, fact in super().facts().items() if name != "f1"}
