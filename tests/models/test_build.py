"""Models from configurations: shapes, starting points, dropout per row, logits only where they count."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForPreTraining,
)

from kdutils.core.errors import UserError
from kdutils.data.batches import collate_translation, load_tokenizer
from kdutils.data.corpora import load_corpus
from kdutils.data.tokens import MASK
from kdutils.models import build, forward
from tests import tiny
from tests.tiny import assert_same_weights, one_sentence

SMALL = {"width": 16, "layers": 1, "heads": 2, "feedforward": 16}


def built(name: str, **changes):
    torch.manual_seed(0)
    if name == "classification":
        return build.classifier(24, ("bad", "good", "so so"), **{**SMALL, **changes})
    return {"translation": build.translation_model, "masked_lm": build.masked_lm}[name](24, **{**SMALL, **changes})


NAMES = ("translation", "classification", "masked_lm")
AUTO = dict(zip(NAMES, (AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, AutoModelForMaskedLM), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_plain_transformers_load_what_save_pretrained_wrote(name, tmp_path):
    net = built(name).eval()
    net.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".bin", ".pkl", ".pt")]
    for loaded in (AUTO[name].from_pretrained(tmp_path), build.pretrained(str(tmp_path), name)):
        assert_same_weights(net, loaded)
        ids = torch.tensor([[5, 6, 2]])
        inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if name == "translation" else {})}
        assert torch.equal(net(**inputs).logits, loaded.eval()(**inputs).logits)


def test_labels_have_their_names(tmp_path):
    config = built("classification").config
    assert config.num_labels == 3 and config.id2label[1] == "good" and config.label2id["so so"] == 2


@pytest.mark.parametrize("name", NAMES)
def test_a_width_that_cannot_be_divided_is_one_sentence(name):
    with pytest.raises(UserError, match="choose a multiple of 3") as caught:
        built(name, heads=3)
    one_sentence(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", [{"heads": 0}, {"width": 0}, {"layers": -1}, {"dropout": 1.5}, {"dropout": -0.1}])
def test_a_shape_that_makes_no_sense_is_one_sentence(name, change):
    with pytest.raises(UserError) as caught:
        built(name, **change)
    assert next(iter(change)) in one_sentence(caught.value).lower()


def test_no_layer_is_ever_dropped():
    config = built("translation", layers=3).config
    assert config.encoder_layerdrop == config.decoder_layerdrop == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_model(name):
    assert_same_weights(built(name), built(name))


def test_embeddings_and_matrices_start_at_the_right_scale():
    torch.manual_seed(0)
    net = build.translation_model(2000, width=64, layers=2)
    embedding = net.model.shared.weight
    assert embedding[1:].std().item() == pytest.approx(64**-0.5, rel=0.02)
    assert embedding[0].abs().max() == 0.0
    assert net.lm_head.weight is embedding
    layer = net.model.encoder.layers[0].fc1
    assert layer.weight.abs().max().item() <= (6 / (64 + 256)) ** 0.5 and layer.bias.abs().max() == 0.0
    assert build.parameter_count(net) == sum({p.data_ptr(): p.numel() for p in net.parameters()}.values())


# ---------------------------------------------------------------- logits where they count


def test_only_the_counted_positions_are_projected():
    net, batch = tiny.model(dropout=0.0), collate_translation()(tiny.examples(5))
    rows = []
    handle = net.get_output_embeddings().register_forward_hook(lambda m, i, o: rows.append((i[0].shape, o.shape)))
    logits = forward.counted_logits(net, batch)
    handle.remove()
    n, cells = batch["targets"].numel(), batch["labels"].numel()
    assert n < cells  # there is padding, or the test says nothing
    assert rows == [((n, 16), (n, tiny.VOCABULARY))] and logits.shape == (n, tiny.VOCABULARY)
    inputs = {k: v for k, v in batch.items() if k in forward.MODEL_INPUTS}
    whole = net(**inputs).logits
    torch.testing.assert_close(logits, whole[batch["labels"] != -100])
    assert net(**inputs).logits.shape == whole.shape  # afterwards all positions are projected again


def test_copies_are_independent_passes_in_one():
    net, batch = tiny.model(dropout=0.3).train(), tiny.batches().batch(0, 0)
    calls = []
    handle = net.register_forward_pre_hook(lambda m, a, k: calls.append(k["input_ids"].shape[0]), with_kwargs=True)
    logits = forward.counted_logits(net, batch, copies=3)
    handle.remove()
    assert calls == [3 * batch["input_ids"].shape[0]]
    assert logits.shape == (3, batch["targets"].numel(), tiny.VOCABULARY)
    assert not torch.allclose(logits[0], logits[1]) and not torch.allclose(logits[1], logits[2])
    net.eval()
    logits = forward.counted_logits(net, batch, copies=2)
    torch.testing.assert_close(logits[0], logits[1])
    torch.testing.assert_close(logits[0], forward.counted_logits(net, batch))


def test_an_error_inside_leaves_the_model_whole():
    net = tiny.model(dropout=0.0)
    with pytest.raises(ZeroDivisionError), forward.only_at(net, torch.tensor([0])):
        raise ZeroDivisionError
    ids = torch.tensor([[5, 6, 2]])
    assert net(input_ids=ids, decoder_input_ids=ids).logits.shape == (1, 3, tiny.VOCABULARY)


def test_mode_puts_every_module_back_into_its_own():
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2))).train()
    net[1].eval()
    before = [module.training for module in net.modules()]
    with forward.mode(net, training=True):
        assert all(module.training for module in net.modules())
        with forward.mode(net, training=False):
            assert not any(module.training for module in net.modules())
        assert all(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == before
    with pytest.raises(ZeroDivisionError), forward.mode(net, training=False):
        raise ZeroDivisionError
    assert [module.training for module in net.modules()] == before


# ---------------------------------------------------------------- pre-trained


def test_a_model_that_is_not_there_is_one_sentence(tmp_path):
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="could not be loaded") as caught:
            build.pretrained(str(place), "classification")
        one_sentence(caught.value)


def test_a_model_whose_weights_were_cut_short_is_one_sentence(tmp_path):
    built("classification").save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="could not be loaded") as caught:
        build.pretrained(str(tmp_path), "classification")
    one_sentence(caught.value)


def test_a_pretrained_encoder_gets_a_head_of_our_labels_and_our_dropout(tmp_path):
    built("masked_lm").save_pretrained(tmp_path)
    net = build.pretrained(str(tmp_path), "classification", ("a", "b", "c", "d"), dropout=0.25)
    assert net.classifier.out_features == 4 and net.config.id2label[3] == "d"
    assert {module.p for module in net.modules() if isinstance(module, nn.Dropout)} == {0.25}


def edited(folder, **changes):
    """The folder of a model with other values in its config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return str(folder)


@pytest.mark.parametrize("start", ["bare", "classification"])
def test_a_model_without_the_head_that_it_is_asked_for_is_refused_by_name(start, tmp_path):
    """It would be a teacher with a random head, worse than guessing evenly."""
    (built("masked_lm").bert if start == "bare" else built("classification")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"no weights for cls\.predictions\.bias, .* and 3 more") as caught:
        build.pretrained(str(tmp_path), "masked_lm")
    assert "trained for this task" in one_sentence(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_a_model_lacks_or_has_no_place_for_are_refused_by_name(name, tmp_path):
    labels = ("bad", "good", "so so") if name == "classification" else ()
    layers = "decoder_layers" if name == "translation" else "num_hidden_layers"
    built(name, layers=2).save_pretrained(tmp_path)
    for count, words in [(3, r"no weights for .*layers?\.2\."), (1, r"weights .*layers?\.1\..* do not fit")]:
        with pytest.raises(UserError, match=words) as caught:
            build.pretrained(edited(tmp_path, **{layers: count}), name, labels)
        one_sentence(caught.value)


def test_weights_of_another_shape_are_refused_by_name(tmp_path):
    built("masked_lm").save_pretrained(tmp_path)
    for name, labels in (("masked_lm", ()), ("classification", ("a", "b"))):
        with pytest.raises(
            UserError, match=r"weights bert\.embeddings\.word_embeddings\.weight.* do not fit"
        ) as caught:
            build.pretrained(edited(tmp_path, vocab_size=20), name, labels)
        one_sentence(caught.value)


def test_what_other_tasks_read_from_an_encoder_is_left_out(tmp_path):
    """The checkpoint of BERT has a pooler and a head for the next sentence; old ones list their positions."""
    net = BertForPreTraining(built("masked_lm").config)
    net.save_pretrained(tmp_path)
    weights = {**load_file(tmp_path / "model.safetensors"), "bert.embeddings.position_ids": torch.arange(4)}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert_same_weights(build.pretrained(str(tmp_path), "masked_lm").cls.predictions, net.cls.predictions)
    assert_same_weights(build.pretrained(str(tmp_path), "classification", ("a", "b")).bert, net.bert)


def test_a_new_classification_head_is_told_of(tmp_path):
    net, notes = built("masked_lm"), []
    net.bert.save_pretrained(tmp_path)
    build.pretrained(str(tmp_path), "classification", ("a", "b"), notes=notes)
    (note,) = notes
    assert note.startswith("The classification head is a new one (bert.pooler.dense.bias, ") and note.endswith("more).")
    with pytest.raises(UserError, match=r"no weights for .*classifier\.bias"):
        build.pretrained(str(tmp_path), "classification")  # nobody will train this one


def test_a_classifier_of_other_labels_says_so(tmp_path):
    built("classification").save_pretrained(tmp_path)
    same, fewer, others = [], [], []
    net = build.pretrained(str(tmp_path), "classification", ("bad", "good", "so so"), notes=same)
    assert same == [] and torch.equal(net.classifier.weight, built("classification").classifier.weight)
    net = build.pretrained(str(tmp_path), "classification", ("no", "yes"), notes=fewer)
    assert net.classifier.out_features == 2 and net.config.label2id == {"no": 0, "yes": 1}
    knows = f"'{tmp_path}' tells apart bad, good, so so; here it is"
    assert fewer == [f"The classification head is a new one (classifier.bias, classifier.weight): {knows} no, yes."]
    net = build.pretrained(str(tmp_path), "classification", ("a", "b", "c"), notes=others)
    assert others == [f"The classification head is that of other labels: {knows} a, b, c."]
    with pytest.raises(UserError, match=r"weights classifier\.bias, classifier\.weight of .* do not fit"):
        build.pretrained(edited(tmp_path, id2label={"0": "bad", "1": "good"}), "classification")


def test_weights_in_half_precision_are_trained_in_float32(tmp_path):
    built("masked_lm").half().save_pretrained(tmp_path)
    assert {p.dtype for p in build.pretrained(str(tmp_path), "masked_lm").parameters()} == {torch.float32}


def test_a_dropout_that_is_no_rate_is_refused_for_a_pretrained_model_too(tmp_path):
    built("masked_lm").save_pretrained(tmp_path)
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match="is no rate"):
            build.pretrained(str(tmp_path), "masked_lm", dropout=rate)


@pytest.mark.parametrize(
    "damage",
    [{"hidden_size": "wide"}, {"hidden_size": -3}, {"num_attention_heads": 3}, {"hidden_act": "zz"},
     {"model_type": "nope"}, {"model_type": 3}],
    ids=str,
)  # fmt: skip
def test_a_damaged_configuration_is_one_sentence(damage, tmp_path):
    built("masked_lm").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="could not be loaded") as caught:
        build.pretrained(edited(tmp_path, **damage), "masked_lm")
    assert len(one_sentence(caught.value).replace(str(tmp_path), "")) < 400


def test_code_in_the_folder_of_a_model_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *a: "y")  # what the library asks for before it runs the code
    built("masked_lm").save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    names = {"AutoConfig": "own.Config", "AutoModelForMaskedLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    place = edited(tmp_path, model_type="own", auto_map=names)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": names, "tokenizer_class": "Tokenizer"}))
    for load in (build.load_config, lambda name: build.pretrained(name, "masked_lm"), load_tokenizer):
        with pytest.raises(UserError, match="needs code of its own") as caught:
            load(place)
        assert "trust_remote_code" not in one_sentence(caught.value)
    build.pretrained(edited(tmp_path, model_type="bert"), "masked_lm")  # the library's own class is there
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------- the encoder that comes with the package


def digest_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_demos_encoder_is_small_and_whole_and_has_its_record():
    files = {path.name: path for path in build.DEMO.iterdir()}
    assert files.keys() == {
        "config.json", "model.safetensors", "record.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sum(path.stat().st_size for path in files.values()) <= 2 * 2**20
    record = json.loads(files["record.json"].read_text())
    assert record["weights"] == {f"model/{name}": digest_of(files[name]) for name in files if name != "record.json"}
    assert record["settings"]["width"] == 128 and record["minutes"] > 0 and record["provenance"]["versions"]["torch"]
    evaluations = [row for row in record["history"] if row["kind"] == "eval"]
    assert evaluations[-1]["update"] == record["settings"]["updates"]
    assert evaluations[-1]["accuracy"] > 0.6 and evaluations[-1]["loss"] < evaluations[0]["loss"]


def test_plain_transformers_load_the_demos_encoder():
    net, ours = AutoModelForMaskedLM.from_pretrained(build.DEMO), build.pretrained("demo", "masked_lm")
    assert {p.dtype for p in net.parameters()} == {torch.float16}  # as it is kept
    assert_same_weights(net.float(), ours)
    tokenizer = AutoTokenizer.from_pretrained(build.DEMO)
    assert tokenizer("The old baker sings.")["input_ids"] == load_tokenizer("demo")("The old baker sings.")["input_ids"]
    assert build.parameter_count(ours) == json.loads((build.DEMO / "record.json").read_text())["parameters"]


def test_the_demos_encoder_is_had_by_its_name_without_a_network(monkeypatch):
    monkeypatch.setattr("socket.socket", lambda *_, **__: pytest.fail("asked the network"))
    assert build.located("demo") == str(build.DEMO) and build.located("bert-base-uncased") == "bert-base-uncased"
    assert build.load_config("demo").hidden_size == 128
    notes = []
    net = build.pretrained("demo", "classification", ("no", "yes", "so so"), dropout=0.0, notes=notes)
    filler = build.pretrained("demo", "masked_lm")
    for one in (net, filler):
        assert {p.dtype for p in one.parameters()} == {torch.float32}
        assert_same_weights(one.bert.encoder, filler.bert.encoder)
    assert net.classifier.out_features == 3 and net.config.hidden_dropout_prob == 0.0
    (note,) = notes
    assert note.startswith("The classification head is a new one (bert.pooler.dense.bias, ")
    with pytest.raises(UserError, match="no weights for"):
        build.pretrained("demo", "classification")  # nobody has trained a head
    with pytest.raises(UserError, match="'demo' could not be loaded"):
        build.pretrained("demo", "translation")


def test_the_demos_tokenizer_reads_the_grammar_and_fits_the_encoder():
    tokenizer, texts = load_tokenizer("demo"), []
    for task in ("text", "classification"):
        corpus = load_corpus("demo", task, rows={"train": 100, "validation": 1, "test": 1})
        texts += [row["text"] for row in corpus.splits["train"]]
    ids = [one for text in texts for one in tokenizer(text)["input_ids"]]
    assert len(tokenizer) == build.load_config("demo").vocab_size > max(ids) and tokenizer.unk_token_id not in ids
    assert tokenizer.mask_token_id == MASK and tokenizer.pad_token_id == build.PAD


def test_memory_can_be_freed_at_any_time(monkeypatch):
    build.free_memory()
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # but the training does not use it
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: pytest.fail("asked a GPU"))
    build.free_memory()
