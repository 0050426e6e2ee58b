"""DistilBERT: a triple loss distils BERT into half its layers while pre-training (Sanh et al., 2019, arXiv:1910.01108).

>>> loss = triple_loss(z_student, z_teacher, targets, h_student, h_teacher, mask)          # 5 / 2 / 1, T = 2
>>> records = run(EXPERIMENTS[0], resolve(EXPERIMENTS, "demo")["masked_lm"], seeds=[1, 2, 3])
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, DistilBertForMaskedLM, PreTrainedModel

from kdutils import batches, finetuning
from kdutils.claims import Claim, paired, paired_difference, sweep_setting, trend, value
from kdutils.distillation import check_temperature, cosine_loss, soft_target_loss
from kdutils.divergences import label_smoothed_nll
from kdutils.errors import UserError
from kdutils.evaluation import latency_ms
from kdutils.experiments import Arm, Experiment, Trial
from kdutils.methods import Method, Moment
from kdutils.models import counted_logits, features_at
from kdutils.projection import projected_losses
from kdutils.settings import Setting, Settings
from kdutils.students import initialise_student, layers_to_take, published_sizes, student_config
from kdutils.tasks import MaskedLM, Task
from kdutils.teachers import teacher_of

TITLE = "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter"
CITATION = "Sanh, Debut, Chaumond, Wolf. EMC2 workshop at NeurIPS 2019. arXiv:1910.01108"

# --- the objective -----------------------------------------------------------------------------------------------


def triple_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Sequence[float] = (5.0, 2.0, 1.0),
    temperature: float = 2.0,
    restrict_to_mask: bool = False,
) -> Tensor:
    """alpha_ce L_ce + alpha_mlm L_mlm + alpha_cos L_cos, each a mean over its own positions, as in the official code.

    Logits (..., V), hidden states (..., width); mask (...), True where there is no padding; targets (...): the true
    token, or -100 where none was asked. L_ce and L_cos are means over the mask, L_mlm (temperature 1) over the
    targets; with `restrict_to_mask` L_ce is one over the targets too. `weights`: alpha_ce, alpha_mlm, alpha_cos; the
    paper gives none, its first author names 5, 2, 1. A term of weight 0 is not computed. Gradients reach the student
    only. This form takes finished logits; training uses `kdutils.projection`, which never holds them all.
    """
    alpha_ce, alpha_mlm, alpha_cos = _checked_weights(weights)
    check_temperature(temperature)
    counted = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask.bool()
    asked = (targets >= 0) & counted
    total = student_logits.new_zeros((), dtype=torch.promote_types(student_logits.dtype, torch.float32))
    total = total + 0.0 * student_logits.flatten()[:0].sum()  # a gradient of zeros where every term is left out
    if alpha_ce:
        where = asked if restrict_to_mask else counted
        total = total + alpha_ce * soft_target_loss(student_logits, teacher_logits, temperature, where)
    if alpha_mlm:
        total = total + alpha_mlm * label_smoothed_nll(student_logits, targets, mask=asked)
    if alpha_cos:
        total = total + alpha_cos * cosine_loss(student_hidden, teacher_hidden, counted)
    return total


def smoothed_masking(examples: Iterable[dict], vocabulary: int, exponent: float = 0.7) -> Tensor:
    """How likely a token is to be asked for: max(count, 1) ** -exponent, shape (V,); rare tokens more often.

    The counts are those of the training examples {"input_ids"}. `collate_masked_lm` draws the targets of a batch by
    these weights, special tokens never (`train.py`, 271 to 274, and `distiller.py`, 214 to 216; not in the paper).
    """
    counts = Counter(token for example in examples for token in example["input_ids"])
    return torch.tensor([max(counts[token], 1) ** -exponent for token in range(vocabulary)])


# --- the methods -------------------------------------------------------------------------------------------------


class TripleLoss(Method):
    """Pre-training by the triple loss; the teacher sees the same masked text as the student."""

    name = "distilbert"

    def __init__(
        self,
        weights: Sequence[float] = (5.0, 2.0, 1.0),
        temperature: float = 2.0,
        restrict_to_mask: bool = False,
        passes: float = 2.0,
    ) -> None:
        super().__init__()
        self.weights = _checked_weights(weights)
        if not any(self.weights):
            raise UserError("All three weights are 0: nothing would be learnt.")
        check_temperature(temperature)
        self.temperature, self.restrict_to_mask, self.passes = temperature, restrict_to_mask, passes

    def count(self, batch: dict[str, Tensor]) -> dict[str, int]:
        return {"targets": batch["targets"].numel(), "tokens": int(batch["attention_mask"].sum())}

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], moment: Moment
    ) -> dict[str, Tensor]:
        alpha_ce, alpha_mlm, alpha_cos = self.weights
        tokens = batch["attention_mask"].flatten().nonzero()[:, 0]
        narrow = self.restrict_to_mask or not alpha_ce  # then only the masked positions are projected
        projected = batch["positions"] if narrow else tokens
        features, hidden = features_at(model, batch, projected, tokens)
        theirs = self._teach(batch, projected, tokens)
        head = model.module if hasattr(model, "module") else model
        total, soft, hard = projected_losses(
            features, head.get_output_embeddings(), theirs[0], theirs[2], batch["labels"].flatten()[projected],
            soft=alpha_ce / counts["targets" if narrow else "tokens"], hard=alpha_mlm / counts["targets"],
            temperature=self.temperature,
        )  # fmt: skip
        terms = {"loss": total}
        if moment.logged:
            terms["soft"] = soft / counts["targets" if narrow else "tokens"]
            terms["mlm"] = hard / counts["targets"]
        if alpha_cos:
            cosine = cosine_loss(hidden, theirs[1], reduction="sum") / counts["tokens"]
            terms["loss"] = total + alpha_cos * cosine
            terms |= {"cosine": cosine} if moment.logged else {}
        return terms

    @torch.no_grad()
    def _teach(self, batch: dict[str, Tensor], projected: Tensor, tokens: Tensor) -> tuple:
        """(features, hidden states, output projection) of the teacher; nothing where no term asks for it."""
        if not self.weights[0] and not self.weights[2]:
            return None, None, None
        teacher = given(self.teacher)
        return *features_at(teacher, batch, projected, tokens), teacher.get_output_embeddings()


class SecondDistillation(Method):
    """Fine-tuning with a fine-tuned teacher: alpha_ce T^2 KL(teacher || student) + alpha_task cross-entropy.

    The step that the paper adds on SQuAD, where start and end positions are the classes; here the classes of the task.
    """

    name = "second_distillation"
    passes = 5 / 3

    def __init__(self, alpha_ce: float = 0.5, alpha_task: float = 0.5, temperature: float = 2.0) -> None:
        super().__init__()
        check_temperature(temperature)
        self.alpha_ce, self.alpha_task, _ = _checked_weights((alpha_ce, alpha_task, 0.0))
        self.temperature = temperature

    def loss(
        self, model: nn.Module, batch: dict[str, Tensor], counts: dict[str, int], moment: Moment
    ) -> dict[str, Tensor]:
        logits = counted_logits(model, batch)
        hard = label_smoothed_nll(logits, batch["targets"], reduction="sum") / counts["targets"]
        if not self.alpha_ce:
            return {"loss": self.alpha_task * hard, "nll": hard}
        with torch.no_grad():
            theirs = counted_logits(given(self.teacher), batch)
        soft = soft_target_loss(logits, theirs, self.temperature, reduction="sum") / counts["targets"]
        return {"loss": self.alpha_ce * soft + self.alpha_task * hard, "soft": soft, "nll": hard}


def given(teacher: nn.Module | None) -> nn.Module:
    """The teacher. Raises UserError when a method was made without one."""
    if teacher is None:
        raise UserError("Distillation needs a teacher: set Method.teacher before training.")
    return teacher


def _checked_weights(weights: Sequence[float]) -> tuple[float, float, float]:
    if len(weights) != 3 or not all(0 <= weight < float("inf") for weight in weights):
        raise UserError(f"The loss takes three weights of at least 0, not {tuple(weights)}.")
    return tuple(float(weight) for weight in weights)


# --- the experiment ----------------------------------------------------------------------------------------------

CODE = "official code"
SETTINGS = MaskedLM.settings_table.extended(
    Setting("student_layers", 2, 6, 6, "layers of the student", "paper: half of the teacher's 12"),
    Setting("student_width", 0, 0, 0, "size of its hidden states; 0: the teacher's", "paper: unchanged"),
    Setting("student_feedforward", 0, 0, 0, "its feed-forward size; 0: the teacher's", "paper: unchanged"),
    Setting("alpha_ce", 5.0, 5.0, 5.0, "weight of the soft targets", "paper silent; V. Sanh, transformers#2013: 5"),
    Setting("alpha_mlm", 2.0, 2.0, 2.0, "weight of the masked LM", "paper silent; V. Sanh, transformers#2013: 2"),
    Setting("alpha_cos", 1.0, 1.0, 1.0, "weight of the cosine", "paper silent; V. Sanh, transformers#2013: 1"),
    Setting("temperature", 2.0, 2.0, 2.0, "of the soft targets", f"paper silent; {CODE}, train.py 129: 2"),
    Setting("restrict_to_mask", False, False, False, "soft targets at masked positions only",
            f"{CODE}, train.py 165: off by default"),
    Setting("mask_smoothing", 0.7, 0.7, 0.7, "targets are drawn by count to the power of minus this",
            f"paper silent; {CODE}, train.py 157: 0.7"),
    Setting("vocab_transform", False, False, False, "copy the layer before the output projection too",
            f"paper silent; {CODE}, extract_distilbert.py: off by default"),
    Setting("fold_token_type", False, False, False, "add the teacher's vector of segment 0 to the positions",
            f"paper silent; {CODE}: dropped"),
    Setting("freeze_positions", True, True, True, "the position table is not trained",
            f"paper silent; {CODE}, training_configs: sinusoidal, hence frozen"),
    Setting("second_alpha_ce", 0.5, 0.5, 0.5, "second distillation: weight of the soft targets", "paper silent"),
    Setting("second_alpha_task", 0.5, 0.5, 0.5, "second distillation: weight of the labels", "paper silent"),
    *finetuning.SETTINGS,
    data={"source": "paper: English Wikipedia and Toronto BookCorpus; here without the latter"},
    model={"source": "paper: BERT-base"},
    updates={"demo": 200, "study": 1000, "paper": 200_000, "source": f"ours; paper silent; {CODE}: 3 epochs"},
    learning_rate={"demo": 6e-3, "source": f"paper silent; {CODE}, train.py 196: 5e-4"},
    warmup={"demo": 10, "study": 50, "paper": 10_000, "source": f"paper silent; {CODE}, train.py: 5 % of the updates"},
    schedule={"source": f"paper silent; {CODE}, distiller.py 149: linear"},
    weight_decay={"demo": 0.0, "study": 0.0, "paper": 0.0, "source": f"paper silent; {CODE}, train.py 197: 0"},
    clip={"study": 5.0, "paper": 5.0, "source": f"paper silent; {CODE}, train.py: 5"},
    accumulation={"paper": 128, "source": "paper: up to 4K examples by accumulation; here about 1,000 of 512 tokens"},
    dropout={"source": f"{CODE}, training_configs: 0.1"},
    mask_probability={"source": f"paper silent; {CODE}, train.py: 0.15"},
    max_length={"source": "BERT's 512"},
    eval_every={"demo": 20, "study": 250},
    downstream_seeds={"source": "paper: median of 5 runs"},
    downstream={"source": "paper: GLUE dev; here without STS-B, a regression"},
)  # fmt: skip


class Pretraining(MaskedLM):
    """Masked language modelling with DistilBERT's frequency-smoothed choice of targets in the training."""

    headline = "exam_macro"

    def training_collate(self):
        weights = smoothed_masking(self.examples["train"], len(self.tokenizer), self.settings.mask_smoothing)
        return batches.collate_masked_lm(self.tokenizer, self.settings.mask_probability, token_weights=weights)

    def check(self, seed: int) -> None:
        super().check(seed)
        s = self.settings
        layers_to_take(teacher_shape(s)[0], s.student_layers)
        if s.student_width < 0 or s.student_feedforward < 0:
            raise UserError("student_width and student_feedforward are sizes, or 0 for those of the teacher.")
        second(s), finetuning.check(s)


def pretrained_teacher(trial: Trial) -> PreTrainedModel:
    """The teacher of all students, pre-trained or from the hub; as an arm it only sits the exams."""
    return teacher_of(trial.task, trial.runs, trial.until)


def random_student(trial: Trial) -> DistilBertForMaskedLM:
    """A student with random weights, the same for a seed."""
    s, teacher = trial.settings, pretrained_teacher(trial)
    config = student_config(teacher.config, s.student_layers, s.student_width, s.student_feedforward)
    config.dropout = config.attention_dropout = s.dropout
    with torch.random.fork_rng():
        torch.manual_seed(trial.seed)
        student = DistilBertForMaskedLM(config)
    student.distilbert.embeddings.position_embeddings.weight.requires_grad_(not s.freeze_positions)
    return student


def taught_student(trial: Trial) -> DistilBertForMaskedLM:
    """A student that starts from its teacher's layers."""
    s, student = trial.settings, random_student(trial)
    options = {"vocab_transform": s.vocab_transform, "fold_token_type": s.fold_token_type}
    return initialise_student(pretrained_teacher(trial), student, **options)


def teacher_shape(settings: Settings) -> tuple[int, int, int]:
    """Layers, width and feed-forward size of the teacher: of the settings, or of the model in a folder."""
    if not settings.model or not Path(settings.model).is_dir():
        return settings.layers, settings.width, settings.feedforward
    config = AutoConfig.from_pretrained(settings.model)
    student_config(config, 1)  # refuses what is not a BERT
    return config.num_hidden_layers, config.hidden_size, config.intermediate_size


def passes(settings: Settings) -> float:
    """What an update by the triple loss costs in updates of the masked LM alone, counted in matrix products.

    A trained network is passed three times (forward, and backward by inputs and by weights), the teacher once. The
    masked LM projects the masked positions onto the vocabulary; the soft targets need all, of student and teacher.
    """
    s, (layers, size, inner) = settings, teacher_shape(settings)
    width, feedforward = s.student_width or size, s.student_feedforward or inner
    student = s.student_layers * (4 * width**2 + 2 * width * feedforward)
    teacher = layers * (4 * size**2 + 2 * size * inner)
    asked = s.mask_probability * (s.vocab_size or 30_522)  # where no size is given the words are those of BERT
    projected = asked if s.restrict_to_mask else asked / s.mask_probability
    return (3 * (student + projected * width) + teacher + projected * size) / (3 * (student + asked * width))


def copying(method):
    """The method of an arm that starts from its teacher's layers: refused at once where their sizes differ."""

    def checked(settings: Settings) -> Method:
        _, width, inner = teacher_shape(settings)
        if settings.student_width not in (0, width) or settings.student_feedforward not in (0, inner):
            raise UserError("A student of another width cannot start from its teacher: train the arm random_init only.")
        return method(settings)

    return checked


def triple(**left_out: float):
    """The method with the weights of the settings, except for those that are given: `triple(alpha_ce=0.0)`."""

    def method(settings: Settings) -> TripleLoss:
        s = {**settings, **left_out}
        if s["alpha_cos"] and settings.student_width not in (0, teacher_shape(settings)[1]):
            raise UserError(
                "The cosine compares hidden states of one width: with another student_width set alpha_cos=0."
            )
        weights = (s["alpha_ce"], s["alpha_mlm"], s["alpha_cos"])
        return TripleLoss(weights, settings.temperature, settings.restrict_to_mask, passes(settings))

    return method


def second(settings: Settings) -> SecondDistillation:
    return SecondDistillation(settings.second_alpha_ce, settings.second_alpha_task, settings.temperature)


def equal_compute(settings: Settings) -> dict[str, int]:
    """The recipe of a baseline that may compute as much as the triple loss does."""
    return {"updates": round(settings.updates * passes(settings))}


def plain(settings: Settings) -> Method:
    """Masked language modelling alone."""
    return Method()


def arm(name: str, label: str, start=taught_student, **left_out: float) -> Arm:
    """A student that learns from the teacher, by all terms of the loss or without one of them."""
    method = triple(**left_out)
    return Arm(name, label, copying(method) if start is taught_student else method, start=start,
               teacher=pretrained_teacher)  # fmt: skip


ARMS = (
    Arm("teacher", "teacher", plain, lambda settings: {"updates": 0}, start=pretrained_teacher),
    Arm("baseline", "masked LM only", copying(plain), start=taught_student),
    Arm("baseline_compute", "masked LM only, equal compute", copying(plain), equal_compute, start=taught_student),
    arm("distilbert", "triple loss"),
    arm("no_ce", "without soft targets", alpha_ce=0.0),
    arm("no_mlm", "without masked LM", alpha_mlm=0.0),
    arm("no_cos", "without cosine", alpha_cos=0.0),
    arm("random_init", "random start", start=random_student),
)


def look(task: Task, model: PreTrainedModel) -> dict[str, float]:
    """How far the model is from the truth about hidden words, where the truth is known."""
    return task.truth(model, "validation")


def exam(trial: Trial, model: PreTrainedModel) -> dict[str, float]:
    """Downstream scores, for the full student also with a second distillation; size and latency."""
    s, place = trial.settings, trial.place
    scores = finetuning.examine(place / "model", s, trial.seed, place, keep=trial.arm == "teacher", until=trial.until)
    teacher = place.parent / "teacher"
    if trial.arm == "distilbert" and not (teacher / "result.json").exists():
        print("The second distillation is left out: it needs the arm 'teacher' of the same seed.")
    if trial.arm == "distilbert" and (teacher / "result.json").exists():

        def method(name: str, number: int) -> SecondDistillation:
            found = second(s)
            found.teacher = finetuning.finetuned(teacher, name, number)
            return found

        more = {"prefix": "second_", "method": method, "until": trial.until}
        scores |= finetuning.examine(place / "model", s, trial.seed, place, **more)
    size = (Path(place) / "model" / "model.safetensors").stat().st_size
    return {**scores, "file_mb": size / 1e6, "latency_ms": latency_ms(model)}


EXPERIMENTS = (Experiment("distilbert", Pretraining, SETTINGS, ARMS, look, exam),)

# --- the claims --------------------------------------------------------------------------------------------------


def beats(better: str, worse: str, metric: str = "exam_macro"):
    """The metric of one arm minus that of another, seed by seed."""
    return lambda records: paired_difference(records, metric, better, worse)


def ratio(metric: str, arm: str, other: str):
    """The metric of one arm divided by that of another, seed by seed."""
    return lambda records: paired(value(records, arm, metric), value(records, other, metric), operator.truediv)


def shape_ratio(records: Sequence[dict]) -> dict[int, float]:
    """Parameters of DistilBERT over those of BERT-base at the published shapes, the same for every seed."""
    student, teacher = published_sizes()
    return {record["seed"]: student / teacher for record in records}


def _second_gain(records: Sequence[dict]) -> dict[int, float]:
    return paired(*(value(records, "distilbert", metric) for metric in ("second_macro", "exam_macro")))


def _latency_trend(records: Sequence[dict]) -> dict[int, float]:
    return trend(sweep_setting(records, "latency_ms", "random_init", "student_layers"))


SHAPE = ("student_layers", "student_width", "student_feedforward", "alpha_cos")
CLAIMS = (
    Claim("D1", "Leaving out the soft targets costs more than leaving out the masked LM.", beats("no_mlm", "no_ce"),
          paper="2.65 points more (v1: 3.16)", source="ablation, GLUE dev", unit="points", published=2.65),
    Claim("D2", "Leaving out the soft targets costs more than leaving out the cosine.", beats("no_cos", "no_ce"),
          paper="1.50 points more (v1: 0.99)", source="ablation, GLUE dev", unit="points", published=1.50),
    Claim("D2b", "Leaving out the cosine costs more than leaving out the masked LM.", beats("no_mlm", "no_cos"),
          paper="1.15 points more (v1: 2.17)", source="ablation, GLUE dev", unit="points", published=1.15),
    Claim("D3", "Leaving out the masked LM costs less than 0.5 points.", beats("distilbert", "no_mlm"), bound=0.5,
          better="<", paper="0.31 points (v1: 1.90)", source="ablation, GLUE dev", unit="points", published=0.31,
          scale="the paper's versions disagree: v1 would contradict it"),
    Claim("D4", "Starting from the teacher's layers beats a random start under the same loss.",
          beats("distilbert", "random_init"), paper="3.69 points (v1: 4.83)", source="ablation, GLUE dev",
          unit="points", published=3.69),
    Claim("D5", "The student keeps at least 96 % of its teacher's score.", ratio("exam_macro", "distilbert", "teacher"),
          bound=0.96, better=">=", paper="0.969 of v4's printed scores (v1: 0.990); the text says 97 %",
          source="Table 1", unit="ratio", published=0.969,
          scale="one small task and a student of two layers: read the ratio, not the mark"),
    Claim("D6", "At the published shapes the student has 0.60 of BERT-base's parameters.", shape_ratio, bound=0.6,
          kind="exact", tolerance=0.01, paper="66 of 110 million", source="size and speed table",
          unit="ratio"),
    Claim("D7", "On a CPU, one text at a time, the teacher takes at least 1.5 times as long.",
          ratio("latency_ms", "teacher", "distilbert"), bound=1.5, better=">=", published=1.63,
          paper="668 s against 410 s: 1.63", source="size and speed table", unit="times",
          scale="small models: calls cost more than arithmetic; Section 1 measures the published shapes"),
    Claim("D8", "A second distillation in the fine-tuning helps.",
          _second_gain,
          paper="+1.1 F1 and +1.4 exact match on SQuAD", source="Table 2", unit="points",
          scale="sentence classification here, question answering there"),
    Claim("D9", "The triple loss beats the masked LM alone from the same start, at the same number of updates.",
          beats("distilbert", "baseline"), paper="not in the paper; a consistent drop, except for QNLI or QQP",
          source="V. Sanh, transformers#1180; an earlier loss, without the cosine", unit="points"),
    Claim("D9c", "It also does so at equal compute (matrix products): the masked LM has more updates.",
          beats("distilbert", "baseline_compute"), paper="not in the paper", unit="points"),
    Claim("D10", "At equal parameters in the layers, fewer and wider ones are faster: latency rises with their number.",
          _latency_trend, paper="design statement, no number", unit="rank correlation", over=SHAPE,
          scale="three small shapes, where calls cost more than arithmetic"),
    Claim("D11", "The student that also learns from soft targets ends closer to the true word distribution.",
          beats("distilbert", "baseline", "test_truth_kl"), better="<", paper="not in the paper", unit="nats",
          scale="only the demo corpus knows the truth"),
    Claim("D11c", "It also does so at equal compute (matrix products).",
          beats("distilbert", "baseline_compute", "test_truth_kl"), better="<", paper="not in the paper", unit="nats",
          scale="only the demo corpus knows the truth"),
)  # fmt: skip
